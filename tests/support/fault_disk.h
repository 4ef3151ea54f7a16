/**
 * A disk in memory that fails as real ones do: it forgets or tears whatever was not synced when the power goes, fills
 * up, fails the nth write or sync, and writes less than asked. Everything random follows one seed.
 *
 * The model. A file has volatile bytes (what reads see, as through a page cache) and durable bytes. A write makes
 * 512-byte sectors dirty; sync makes the dirty ones durable; so does a write through NV_OPEN_DSYNC. A power cut keeps
 * each dirty sector or loses it, sector by sector; the size likewise. Creations, renames and removals are durable once
 * their folder is synced; a cut keeps the first few of the rest, in order. A sync that is made to fail leaves some
 * sectors durable and marks ALL clean, as Linux does, so that a second sync succeeds and saves nothing.
 *
 * Thread: any, every function.
 */
#ifndef NV_TESTS_FAULT_DISK_H
#define NV_TESTS_FAULT_DISK_H

#include "store/disk.h"

#define NV_FAULT_SECTOR 512u

typedef struct nv_fault_disk nv_fault_disk;

nv_fault_disk *nv_fault_disk_new(uint64_t seed);
/** All files of it are closed before. NULL is fine. */
void nv_fault_disk_free(nv_fault_disk *fault);
/** The seam to hand to the code under test. */
nv_disk *nv_fault_disk_disk(nv_fault_disk *fault);

/** Total bytes of all files; beyond it writes fail with NV_E_NO_SPACE. Starts unlimited (UINT64_MAX). */
void nv_fault_disk_set_capacity(nv_fault_disk *fault, uint64_t bytes);
/** Writes number @p first to @p first + @p count - 1 from now (1 = the next) fail with @p err; count 0 = none. */
void nv_fault_disk_fail_writes(nv_fault_disk *fault, uint64_t first, uint64_t count, nv_err err);
/** The same for syncs of files; a write through NV_OPEN_DSYNC counts as a write. */
void nv_fault_disk_fail_syncs(nv_fault_disk *fault, uint64_t first, uint64_t count, nv_err err);
/** Let writes take a random part of what they are given. */
void nv_fault_disk_set_short_writes(nv_fault_disk *fault, bool on);
/** Whether NV_OPEN_DIRECT works (it does at first); otherwise open answers NV_E_INVALID. */
void nv_fault_disk_set_direct(nv_fault_disk *fault, bool supported);
/** Lie: report syncs and synchronous writes as done without making anything durable. */
void nv_fault_disk_set_ignore_syncs(nv_fault_disk *fault, bool on);

/** The power goes within the nth write, sync or change of a folder from now (1 = the next); 0 = never. */
void nv_fault_disk_cut_after(nv_fault_disk *fault, uint64_t operations);
/** The power goes now: until power_on every call answers NV_E_IO, and files open now stay dead for ever. */
void nv_fault_disk_cut(nv_fault_disk *fault);
bool nv_fault_disk_is_cut(nv_fault_disk *fault);
/** Decide what survived, and serve again. Without a cut before: as if it came just now. */
void nv_fault_disk_power_on(nv_fault_disk *fault);

typedef struct nv_fault_counts {
    uint64_t operations; /* writes, syncs, changes of a folder */
    uint64_t writes;
    uint64_t syncs;
    uint64_t read_bytes;
    uint64_t bytes; /* held by all files now */
} nv_fault_counts;

nv_fault_counts nv_fault_disk_counts(nv_fault_disk *fault);

/** Set a file's bytes, durable at once; creates it and its folder's entry. For corpus and damage tests. */
void nv_fault_disk_put(nv_fault_disk *fault, const char *path, const void *bytes, size_t len);
/** Read volatile bytes. @return how many there were */
size_t nv_fault_disk_peek(nv_fault_disk *fault, const char *path, void *out, size_t len, uint64_t position);
/** Overwrite bytes of an existing file, durable at once: bit rot. */
void nv_fault_disk_poke(nv_fault_disk *fault, const char *path, const void *bytes, size_t len, uint64_t position);

#endif
