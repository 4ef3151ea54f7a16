/**
 * An SQLite VFS over an nv_disk, so that the state store can run on the fault disk: the same power cuts, full disks and
 * failing calls as the telemetry log. It asks of the disk what SQLite's own VFS asks of Linux: the folder of a new
 * journal is synced with the journal's first sync, and sectors are power-safe (a torn write harms no neighbour).
 *
 * Locks and the index of the write-ahead log live in memory, per path: every connection is of this process.
 */
#ifndef NV_TESTS_FAULT_VFS_H
#define NV_TESTS_FAULT_VFS_H

#include "store/disk.h"

typedef struct nv_fault_vfs nv_fault_vfs;

/** Register under @p name (copied), for nv_state_config.vfs. The disk outlives it. */
nv_fault_vfs *nv_fault_vfs_new(nv_disk *disk, const char *name);
/** All connections are closed before. NULL is fine. */
void nv_fault_vfs_free(nv_fault_vfs *fault);

#endif
