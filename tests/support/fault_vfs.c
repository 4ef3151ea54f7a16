#include "support/fault_vfs.h"

#include "base/alloc.h"
#include "base/list.h"

#include <assert.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_SIZE   256
#define SHM_REGIONS 64

/* What the connections to one database share. */
typedef struct shared {
    nv_list link;
    char path[PATH_SIZE];
    int references;
    /* file locks: how many hold SHARED; which one holds more */
    int readers;
    const void *reserved;
    const void *exclusive; /* or pending: nobody new may read */
    /* the index of the write-ahead log */
    int shm_references;
    void *regions[SHM_REGIONS];
    int region_count;
    int slot_readers[SQLITE_SHM_NLOCK];
    const void *slot_owner[SQLITE_SHM_NLOCK];
} shared;

struct nv_fault_vfs {
    sqlite3_vfs vfs; /* first member */
    char name[64];
    nv_disk *disk;
    pthread_mutex_t lock;
    nv_list databases;
};

typedef struct file {
    sqlite3_file base; /* first member */
    nv_fault_vfs *fault;
    nv_file *file;
    char path[PATH_SIZE];
    bool sync_folder; /* created, and its folder not synced yet */
    bool remove_on_close;
    shared *database; /* main database files only */
    int level;
    bool mapped;
    uint8_t slots_shared;
} file;

static file *file_of(sqlite3_file *base)
{
    return (file *)(void *)base;
}

static nv_fault_vfs *fault_of(sqlite3_vfs *vfs)
{
    return (nv_fault_vfs *)(void *)vfs;
}

static int code_of(nv_err err, int otherwise)
{
    return err == NV_OK ? SQLITE_OK : err == NV_E_NO_SPACE ? SQLITE_FULL : otherwise;
}

static nv_err sync_folder_of(nv_fault_vfs *fault, const char *path)
{
    char folder[PATH_SIZE];
    (void)snprintf(folder, sizeof(folder), "%s", path);
    char *slash = strrchr(folder, '/');
    if (!slash) {
        return NV_OK;
    }
    slash[slash == folder ? 1 : 0] = '\0';
    return nv_disk_sync_dir(fault->disk, folder);
}

/* ---- file ---- */

static int file_read(sqlite3_file *base, void *out, int len, sqlite3_int64 at)
{
    size_t got = 0;
    nv_err err = nv_file_read(file_of(base)->file, out, (size_t)len, (uint64_t)at, &got);
    if (err != NV_OK) {
        return SQLITE_IOERR_READ;
    }
    memset((char *)out + got, 0, (size_t)len - got);
    return got == (size_t)len ? SQLITE_OK : SQLITE_IOERR_SHORT_READ;
}

static int file_write(sqlite3_file *base, const void *bytes, int len, sqlite3_int64 at)
{
    return code_of(nv_file_write(file_of(base)->file, bytes, (size_t)len, (uint64_t)at), SQLITE_IOERR_WRITE);
}

static int file_truncate(sqlite3_file *base, sqlite3_int64 size)
{
    return code_of(nv_file_truncate(file_of(base)->file, (uint64_t)size), SQLITE_IOERR_TRUNCATE);
}

static int file_sync(sqlite3_file *base, int flags)
{
    (void)flags;
    file *self = file_of(base);
    nv_err err = nv_file_sync(self->file);
    if (err == NV_OK && self->sync_folder) {
        err = sync_folder_of(self->fault, self->path);
        self->sync_folder = err != NV_OK;
    }
    return code_of(err, SQLITE_IOERR_FSYNC);
}

static int file_size(sqlite3_file *base, sqlite3_int64 *out)
{
    uint64_t size = 0;
    nv_err err = nv_file_size(file_of(base)->file, &size);
    *out = (sqlite3_int64)size;
    return code_of(err, SQLITE_IOERR_FSTAT);
}

static int file_lock(sqlite3_file *base, int level)
{
    file *self = file_of(base);
    shared *db = self->database;
    if (!db || self->level >= level) {
        return SQLITE_OK;
    }
    int rc = SQLITE_OK;
    pthread_mutex_lock(&self->fault->lock);
    if (level == SQLITE_LOCK_SHARED) {
        rc = db->exclusive ? SQLITE_BUSY : SQLITE_OK;
        db->readers += rc == SQLITE_OK ? 1 : 0;
    } else if ((db->reserved && db->reserved != self) || (db->exclusive && db->exclusive != self)) {
        rc = SQLITE_BUSY;
    } else {
        db->reserved = self;
        if (level == SQLITE_LOCK_EXCLUSIVE) {
            db->exclusive = self; /* at least pending */
            rc = db->readers > 1 ? SQLITE_BUSY : SQLITE_OK;
        }
    }
    pthread_mutex_unlock(&self->fault->lock);
    if (rc == SQLITE_OK) {
        self->level = level;
    } else if (level == SQLITE_LOCK_EXCLUSIVE && db->exclusive == self) {
        self->level = SQLITE_LOCK_PENDING;
    }
    return rc;
}

static int file_unlock(sqlite3_file *base, int level)
{
    file *self = file_of(base);
    shared *db = self->database;
    if (!db || self->level <= level) {
        return SQLITE_OK;
    }
    pthread_mutex_lock(&self->fault->lock);
    db->reserved = db->reserved == self ? NULL : db->reserved;
    db->exclusive = db->exclusive == self ? NULL : db->exclusive;
    db->readers -= level == SQLITE_LOCK_NONE ? 1 : 0;
    pthread_mutex_unlock(&self->fault->lock);
    self->level = level;
    return SQLITE_OK;
}

static int file_check_reserved(sqlite3_file *base, int *out)
{
    file *self = file_of(base);
    pthread_mutex_lock(&self->fault->lock);
    *out = self->database && self->database->reserved;
    pthread_mutex_unlock(&self->fault->lock);
    return SQLITE_OK;
}

static int file_control(sqlite3_file *base, int op, void *arg)
{
    (void)base;
    (void)op;
    (void)arg;
    return SQLITE_NOTFOUND;
}

static int file_sector_size(sqlite3_file *base)
{
    (void)base;
    return 4096;
}

static int file_characteristics(sqlite3_file *base)
{
    (void)base;
    return SQLITE_IOCAP_POWERSAFE_OVERWRITE; /* as SQLite assumes of Linux */
}

/* ---- shared memory ---- */

static int shm_map(sqlite3_file *base, int region, int size, int extend, void volatile **out)
{
    file *self = file_of(base);
    shared *db = self->database;
    *out = NULL;
    if (!db || region >= SHM_REGIONS) {
        return SQLITE_IOERR_SHMMAP;
    }
    pthread_mutex_lock(&self->fault->lock);
    if (!self->mapped) {
        self->mapped = true;
        db->shm_references++;
    }
    while (extend && db->region_count <= region) {
        db->regions[db->region_count++] = nv_calloc(1, (size_t)size);
    }
    *out = region < db->region_count ? db->regions[region] : NULL;
    pthread_mutex_unlock(&self->fault->lock);
    return SQLITE_OK;
}

static int lock_slot(file *self, int slot, int flags)
{
    shared *db = self->database;
    uint8_t bit = (uint8_t)(1u << slot);
    if (flags & SQLITE_SHM_UNLOCK) {
        if (db->slot_owner[slot] == self) {
            db->slot_owner[slot] = NULL;
        } else if (self->slots_shared & bit) {
            self->slots_shared = (uint8_t)(self->slots_shared & ~bit);
            db->slot_readers[slot]--;
        }
        return SQLITE_OK;
    }
    if (db->slot_owner[slot] && db->slot_owner[slot] != self) {
        return SQLITE_BUSY;
    }
    int others = db->slot_readers[slot] - (self->slots_shared & bit ? 1 : 0);
    if (flags & SQLITE_SHM_EXCLUSIVE) {
        return others > 0 ? SQLITE_BUSY : (db->slot_owner[slot] = self, SQLITE_OK);
    }
    if (!(self->slots_shared & bit)) {
        self->slots_shared = (uint8_t)(self->slots_shared | bit);
        db->slot_readers[slot]++;
    }
    return SQLITE_OK;
}

static int shm_lock(sqlite3_file *base, int first, int count, int flags)
{
    file *self = file_of(base);
    int rc = SQLITE_OK;
    pthread_mutex_lock(&self->fault->lock);
    int slot = first;
    for (; rc == SQLITE_OK && slot < first + count; slot++) {
        rc = lock_slot(self, slot, flags);
    }
    if (rc != SQLITE_OK) {
        /* All or none: only exclusive locks come in numbers. */
        for (int undo = first; undo < slot - 1; undo++) {
            self->database->slot_owner[undo] = NULL;
        }
    }
    pthread_mutex_unlock(&self->fault->lock);
    return rc;
}

static void shm_barrier(sqlite3_file *base)
{
    file *self = file_of(base);
    pthread_mutex_lock(&self->fault->lock);
    pthread_mutex_unlock(&self->fault->lock);
}

static int shm_unmap(sqlite3_file *base, int remove)
{
    (void)remove; /* it goes with the last connection in any case: a power cut takes it too */
    file *self = file_of(base);
    shared *db = self->database;
    if (!db || !self->mapped) {
        return SQLITE_OK;
    }
    pthread_mutex_lock(&self->fault->lock);
    self->mapped = false;
    if (--db->shm_references == 0) {
        for (int i = 0; i < db->region_count; i++) {
            free(db->regions[i]);
        }
        db->region_count = 0;
    }
    pthread_mutex_unlock(&self->fault->lock);
    return SQLITE_OK;
}

/* ---- open and close ---- */

static shared *share_database(nv_fault_vfs *fault, const char *path)
{
    pthread_mutex_lock(&fault->lock);
    shared *found = NULL;
    for (nv_list *at = fault->databases.next; at != &fault->databases; at = at->next) {
        shared *each = nv_container_of(at, shared, link);
        found = strcmp(each->path, path) == 0 ? each : found;
    }
    if (!found) {
        found = nv_calloc(1, sizeof(*found));
        (void)snprintf(found->path, sizeof(found->path), "%s", path);
        nv_list_push_back(&fault->databases, &found->link);
    }
    found->references++;
    pthread_mutex_unlock(&fault->lock);
    return found;
}

static void unshare_database(nv_fault_vfs *fault, shared *database)
{
    pthread_mutex_lock(&fault->lock);
    if (--database->references == 0) {
        nv_list_remove(&database->link);
        free(database);
    }
    pthread_mutex_unlock(&fault->lock);
}

static int file_close(sqlite3_file *base)
{
    file *self = file_of(base);
    (void)file_unlock(base, SQLITE_LOCK_NONE);
    if (self->database) {
        (void)shm_unmap(base, 0);
        unshare_database(self->fault, self->database);
    }
    nv_file_close(self->file);
    if (self->remove_on_close) {
        nv_ignore(nv_disk_remove(self->fault->disk, self->path));
    }
    return SQLITE_OK;
}

static const sqlite3_io_methods methods = {
    .iVersion = 2,
    .xClose = file_close,
    .xRead = file_read,
    .xWrite = file_write,
    .xTruncate = file_truncate,
    .xSync = file_sync,
    .xFileSize = file_size,
    .xLock = file_lock,
    .xUnlock = file_unlock,
    .xCheckReservedLock = file_check_reserved,
    .xFileControl = file_control,
    .xSectorSize = file_sector_size,
    .xDeviceCharacteristics = file_characteristics,
    .xShmMap = shm_map,
    .xShmLock = shm_lock,
    .xShmBarrier = shm_barrier,
    .xShmUnmap = shm_unmap,
};

static int vfs_open(sqlite3_vfs *vfs, const char *path, sqlite3_file *base, int flags, int *out_flags)
{
    nv_fault_vfs *fault = fault_of(vfs);
    file *self = file_of(base);
    memset(self, 0, sizeof(*self));
    if (!path || strlen(path) >= PATH_SIZE) {
        return SQLITE_CANTOPEN; /* temporary files: the store keeps those in memory */
    }
    bool existed = nv_disk_exists(fault->disk, path);
    unsigned want = NV_OPEN_READ | NV_OPEN_WRITE | (flags & SQLITE_OPEN_CREATE ? NV_OPEN_CREATE : 0u) |
                    (flags & SQLITE_OPEN_EXCLUSIVE ? NV_OPEN_EXCLUSIVE : 0u);
    nv_err err = nv_disk_open(fault->disk, path, want, &self->file);
    if (err != NV_OK) {
        return code_of(err, SQLITE_CANTOPEN);
    }
    self->fault = fault;
    (void)snprintf(self->path, sizeof(self->path), "%s", path);
    self->sync_folder = !existed && (flags & (SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_JOURNAL));
    self->remove_on_close = (flags & SQLITE_OPEN_DELETEONCLOSE) != 0;
    self->database = flags & SQLITE_OPEN_MAIN_DB ? share_database(fault, path) : NULL;
    self->base.pMethods = &methods;
    if (out_flags) {
        *out_flags = flags;
    }
    return SQLITE_OK;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *path, int sync_folder)
{
    nv_fault_vfs *fault = fault_of(vfs);
    nv_err err = nv_disk_remove(fault->disk, path);
    if (err == NV_E_NOT_FOUND) {
        return SQLITE_IOERR_DELETE_NOENT;
    }
    if (err == NV_OK && sync_folder) {
        err = sync_folder_of(fault, path);
    }
    return code_of(err, SQLITE_IOERR_DELETE);
}

static int vfs_access(sqlite3_vfs *vfs, const char *path, int flags, int *out)
{
    (void)flags;
    *out = nv_disk_exists(fault_of(vfs)->disk, path) ? 1 : 0;
    return SQLITE_OK;
}

static int vfs_full_path(sqlite3_vfs *vfs, const char *path, int size, char *out)
{
    (void)vfs;
    return snprintf(out, (size_t)size, "%s", path) < size ? SQLITE_OK : SQLITE_CANTOPEN;
}

static int vfs_randomness(sqlite3_vfs *vfs, int len, char *out)
{
    (void)vfs;
    sqlite3_vfs *real = sqlite3_vfs_find(NULL);
    return real->xRandomness(real, len, out);
}

static int vfs_sleep(sqlite3_vfs *vfs, int microseconds)
{
    (void)vfs;
    sqlite3_vfs *real = sqlite3_vfs_find(NULL);
    return real->xSleep(real, microseconds);
}

static int vfs_time(sqlite3_vfs *vfs, sqlite3_int64 *out)
{
    (void)vfs;
    sqlite3_vfs *real = sqlite3_vfs_find(NULL);
    return real->xCurrentTimeInt64(real, out);
}

static int vfs_last_error(sqlite3_vfs *vfs, int len, char *out)
{
    (void)vfs;
    (void)len;
    (void)out;
    return 0;
}

nv_fault_vfs *nv_fault_vfs_new(nv_disk *disk, const char *name)
{
    nv_fault_vfs *fault = nv_calloc(1, sizeof(*fault));
    (void)snprintf(fault->name, sizeof(fault->name), "%s", name);
    fault->disk = disk;
    pthread_mutex_init(&fault->lock, NULL);
    nv_list_init(&fault->databases);
    fault->vfs = (sqlite3_vfs){
        .iVersion = 2,
        .szOsFile = sizeof(file),
        .mxPathname = PATH_SIZE - 1,
        .zName = fault->name,
        .xOpen = vfs_open,
        .xDelete = vfs_delete,
        .xAccess = vfs_access,
        .xFullPathname = vfs_full_path,
        .xRandomness = vfs_randomness,
        .xSleep = vfs_sleep,
        .xGetLastError = vfs_last_error,
        .xCurrentTimeInt64 = vfs_time,
    };
    int rc = sqlite3_vfs_register(&fault->vfs, 0);
    assert(rc == SQLITE_OK);
    (void)rc;
    return fault;
}

void nv_fault_vfs_free(nv_fault_vfs *fault)
{
    if (!fault) {
        return;
    }
    assert(nv_list_empty(&fault->databases));
    (void)sqlite3_vfs_unregister(&fault->vfs);
    pthread_mutex_destroy(&fault->lock);
    free(fault);
}
