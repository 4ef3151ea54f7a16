/**
 * What the fault disk holds: files with volatile and durable bytes, and names with changes that are not durable yet.
 * The model that fault_disk.h describes, without the disk's interface, its lock and its failures.
 */
#ifndef NV_TESTS_FAULT_MODEL_H
#define NV_TESTS_FAULT_MODEL_H

#include "base/rng.h"
#include "support/fault_disk.h"

#include <sys/uio.h>

/** A number below @p below; 0 for 0. */
uint64_t fault_pick(nv_rng *rng, uint64_t below);

/* ---- files ---- */

typedef struct fault_node {
    uint8_t *now; /* volatile content */
    size_t now_size;
    size_t now_capacity;
    uint8_t *kept; /* durable content */
    size_t kept_size;
    size_t kept_capacity;
    uint8_t *dirty; /* per sector of now_capacity */
    size_t refs;    /* names, pending changes, open files */
    bool locked;
} fault_node;

/** Room for @p need volatile bytes; those behind now_size are zero or old. */
void fault_node_grow(fault_node *node, size_t need);
/** NULL is fine. */
void fault_node_unref(fault_node *node);
/** Put up to @p limit bytes into the volatile content and mark their sectors. @return how many */
size_t fault_node_put(fault_node *node, const struct iovec *parts, int count, uint64_t position, size_t limit);
/** Copy volatile bytes. @return how many there were */
size_t fault_node_get(const fault_node *node, void *out, size_t len, uint64_t position);
/** Cut off what is behind @p size, less than there is. */
void fault_node_shrink(fault_node *node, size_t size);
/** Make dirty sectors durable: all, or each with even odds. All are clean afterwards. */
void fault_node_settle(fault_node *node, nv_rng *rng, bool all);
/** Make the sectors that hold these bytes durable and clean, and nothing else. */
void fault_node_keep(fault_node *node, uint64_t position, size_t len);
/** Clean sectors show what is durable; after a failed sync that is not what was written. */
void fault_node_drop_cache(fault_node *node);

/* ---- names ---- */

typedef struct fault_entry {
    char *name; /* full path; owned */
    fault_node *node;
} fault_entry;

typedef struct fault_table {
    fault_entry *rows;
    size_t count;
} fault_table;

typedef struct fault_change fault_change;

/** All zero: no file. */
typedef struct fault_names {
    fault_table now;
    fault_table kept;
    fault_change *changes; /* in order, not durable yet */
    size_t change_count;
} fault_names;

void fault_names_deinit(fault_names *names);
/** @return NULL: no such name */
fault_node *fault_names_find(const fault_names *names, const char *path);
bool fault_in_dir(const char *path, const char *dir);
/** Make a change visible and remember it until its folder is synced: @p from goes, @p to is @p node; either may be
 * NULL. */
void fault_names_change(fault_names *names, const char *from, const char *to, fault_node *node);
/** A name that is durable at once. */
void fault_names_put(fault_names *names, const char *path, fault_node *node);
/** The changes of this folder become durable. */
void fault_names_sync(fault_names *names, const char *dir);
/** The power was gone: decide what survived, of names and of bytes. */
void fault_names_crash(fault_names *names, nv_rng *rng);
/** Volatile bytes of all files. */
uint64_t fault_names_bytes(const fault_names *names);

#endif
