#include "support/fault_disk.h"

#include "base/alloc.h"
#include "support/fault_model.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

typedef struct window {
    uint64_t first;
    uint64_t count;
    nv_err err;
} window;

struct nv_fault_disk {
    nv_disk disk; /* first member */
    pthread_mutex_t lock;
    nv_seeded_rng rng;
    fault_names names;
    uint64_t capacity;
    window bad_writes; /* in numbers of counts.writes */
    window bad_syncs;
    uint64_t cut_at; /* number of the operation; 0 = never */
    uint64_t epoch;  /* grows with each power cut */
    bool off;
    bool short_writes;
    bool direct;
    bool ignore_syncs;
    nv_fault_counts counts;
};

typedef struct fault_file {
    nv_file file; /* first member */
    fault_node *node;
    uint64_t epoch;
    unsigned flags;
    bool holds_lock;
} fault_file;

static nv_fault_disk *fault_of(nv_disk *disk)
{
    return (nv_fault_disk *)(void *)disk;
}

static fault_file *file_of(nv_file *file)
{
    return (fault_file *)(void *)file;
}

/** Counts one operation. @return false when the power is off, or goes with this one */
static bool step(nv_fault_disk *f)
{
    f->counts.operations++;
    if (f->cut_at && f->counts.operations >= f->cut_at) {
        f->off = true;
    }
    return !f->off;
}

static bool hits(const window *w, uint64_t number)
{
    return w->count && number >= w->first && number - w->first < w->count;
}

/* ---- the disk's functions --------------------------------------------------------------------------------- */

static nv_err open_locked(nv_fault_disk *f, const char *path, unsigned flags, nv_file **out)
{
    fault_node *node = fault_names_find(&f->names, path);
    if (node && (flags & NV_OPEN_EXCLUSIVE)) {
        return NV_E_EXISTS;
    }
    if (!node && !(flags & NV_OPEN_CREATE)) {
        return NV_E_NOT_FOUND;
    }
    if ((flags & NV_OPEN_DIRECT) && !f->direct) {
        return NV_E_INVALID;
    }
    if (!node) {
        if (!step(f)) {
            return NV_E_IO;
        }
        node = nv_calloc(1, sizeof(*node));
        fault_names_change(&f->names, NULL, path, node);
    } else if (flags & NV_OPEN_TRUNCATE) {
        node->now_size = 0;
    }
    fault_file *file = nv_malloc(sizeof(*file));
    *file = (fault_file){{&f->disk}, node, f->epoch, flags, false};
    node->refs++;
    *out = &file->file;
    return NV_OK;
}

static nv_err fault_open(nv_disk *disk, const char *path, unsigned flags, nv_file **out)
{
    nv_fault_disk *f = fault_of(disk);
    pthread_mutex_lock(&f->lock);
    nv_err err = f->off ? NV_E_IO : open_locked(f, path, flags, out);
    pthread_mutex_unlock(&f->lock);
    return err;
}

static nv_err fault_lock(nv_disk *disk, const char *path, nv_file **out)
{
    nv_fault_disk *f = fault_of(disk);
    pthread_mutex_lock(&f->lock);
    fault_node *node = fault_names_find(&f->names, path);
    nv_err err = f->off ? NV_E_IO : node && node->locked ? NV_E_IN_USE : NV_OK;
    if (err == NV_OK) {
        err = open_locked(f, path, NV_OPEN_READ | NV_OPEN_WRITE | NV_OPEN_CREATE, out);
    }
    if (err == NV_OK) {
        file_of(*out)->node->locked = true;
        file_of(*out)->holds_lock = true;
    }
    pthread_mutex_unlock(&f->lock);
    return err;
}

static nv_err change_names(nv_disk *disk, const char *from, const char *to)
{
    nv_fault_disk *f = fault_of(disk);
    pthread_mutex_lock(&f->lock);
    nv_err err = f->off || !step(f) ? NV_E_IO : NV_OK;
    fault_node *node = fault_names_find(&f->names, from);
    if (err == NV_OK && !node) {
        err = NV_E_NOT_FOUND;
    }
    if (err == NV_OK) {
        fault_names_change(&f->names, from, to, node);
    }
    pthread_mutex_unlock(&f->lock);
    return err;
}

static nv_err fault_remove(nv_disk *disk, const char *path)
{
    return change_names(disk, path, NULL);
}

static nv_err fault_link(nv_disk *disk, const char *from, const char *to)
{
    nv_fault_disk *f = fault_of(disk);
    pthread_mutex_lock(&f->lock);
    nv_err err = f->off || !step(f) ? NV_E_IO : NV_OK;
    fault_node *node = fault_names_find(&f->names, from);
    if (err == NV_OK && !node) {
        err = NV_E_NOT_FOUND;
    }
    if (err == NV_OK && fault_names_find(&f->names, to)) {
        err = NV_E_EXISTS;
    }
    if (err == NV_OK) {
        fault_names_change(&f->names, NULL, to, node);
    }
    pthread_mutex_unlock(&f->lock);
    return err;
}

static nv_err fault_make_dir(nv_disk *disk, const char *path)
{
    (void)path; /* folders are prefixes here: they exist once a name uses them */
    nv_fault_disk *f = fault_of(disk);
    pthread_mutex_lock(&f->lock);
    nv_err err = f->off ? NV_E_IO : NV_OK;
    pthread_mutex_unlock(&f->lock);
    return err;
}

static nv_err fault_sync_dir(nv_disk *disk, const char *path)
{
    nv_fault_disk *f = fault_of(disk);
    pthread_mutex_lock(&f->lock);
    nv_err err = f->off || !step(f) ? NV_E_IO : NV_OK;
    if (err == NV_OK && !f->ignore_syncs) {
        fault_names_sync(&f->names, path);
    }
    pthread_mutex_unlock(&f->lock);
    return err;
}

static nv_err fault_list(nv_disk *disk, const char *path, nv_disk_entry_fn each, void *arg)
{
    nv_fault_disk *f = fault_of(disk);
    pthread_mutex_lock(&f->lock);
    nv_err err = f->off ? NV_E_IO : NV_OK;
    for (size_t i = 0; err == NV_OK && i < f->names.now.count; i++) {
        if (fault_in_dir(f->names.now.rows[i].name, path)) {
            each(arg, f->names.now.rows[i].name + strlen(path) + 1);
        }
    }
    pthread_mutex_unlock(&f->lock);
    return err;
}

static nv_err fault_free_space(nv_disk *disk, const char *path, uint64_t *out)
{
    (void)path;
    nv_fault_disk *f = fault_of(disk);
    pthread_mutex_lock(&f->lock);
    uint64_t used = fault_names_bytes(&f->names);
    *out = used < f->capacity ? f->capacity - used : 0;
    nv_err err = f->off ? NV_E_IO : NV_OK;
    pthread_mutex_unlock(&f->lock);
    return err;
}

static bool fault_exists(nv_disk *disk, const char *path)
{
    nv_fault_disk *f = fault_of(disk);
    pthread_mutex_lock(&f->lock);
    bool found = !f->off && fault_names_find(&f->names, path) != NULL;
    pthread_mutex_unlock(&f->lock);
    return found;
}

/* ---- files ------------------------------------------------------------------------------------------------ */

/** Lock the disk; @return NV_E_IO when the file died with the power */
static nv_err enter(nv_file *file, nv_fault_disk **f)
{
    *f = fault_of(file->disk);
    pthread_mutex_lock(&(*f)->lock);
    return (*f)->off || file_of(file)->epoch != (*f)->epoch ? NV_E_IO : NV_OK;
}

static bool aligned(const struct iovec *parts, int count, uint64_t position)
{
    bool ok = position % NV_DISK_BLOCK == 0;
    for (int i = 0; i < count; i++) {
        ok = ok && parts[i].iov_len % NV_DISK_BLOCK == 0 && (uintptr_t)parts[i].iov_base % NV_DISK_BLOCK == 0;
    }
    return ok;
}

/** How many of @p total bytes the capacity lets in at @p position. */
static size_t fits(const nv_fault_disk *f, const fault_node *node, uint64_t position, size_t total)
{
    if (f->capacity == UINT64_MAX || position + total <= node->now_size) {
        return total;
    }
    uint64_t used = fault_names_bytes(&f->names);
    uint64_t room = used < f->capacity ? f->capacity - used : 0;
    uint64_t end = node->now_size + room;
    return end <= position ? 0 : end - position < total ? (size_t)(end - position) : total;
}

static nv_err write_locked(nv_fault_disk *f, fault_file *file, const struct iovec *parts, int count, uint64_t position,
                           size_t *written)
{
    fault_node *node = file->node;
    size_t total = 0;
    for (int i = 0; i < count; i++) {
        total += parts[i].iov_len;
    }
    if ((file->flags & NV_OPEN_DIRECT) && !aligned(parts, count, position)) {
        return NV_E_INVALID;
    }
    f->counts.writes++;
    bool alive = step(f);
    bool bad = hits(&f->bad_writes, f->counts.writes);
    size_t n = total;
    if (!alive || bad) { /* the write in flight: some of it arrives */
        n = (size_t)fault_pick(&f->rng.rng, total + 1);
    } else if (f->short_writes && total > NV_DISK_BLOCK) {
        n = (size_t)(1 + fault_pick(&f->rng.rng, total / NV_DISK_BLOCK)) * NV_DISK_BLOCK;
    }
    size_t room = fits(f, node, position, n);
    n = file->flags & NV_OPEN_DIRECT ? room / NV_DISK_BLOCK * NV_DISK_BLOCK : room;
    *written = fault_node_put(node, parts, count, position, n);
    if (!alive) {
        return NV_E_IO;
    }
    /* A direct write alone ends in the drive's cache: it may survive, and may not, like any other dirty sector. */
    if ((file->flags & NV_OPEN_DSYNC) && !f->ignore_syncs) {
        fault_node_settle(node, &f->rng.rng, !bad);
    }
    if (bad) {
        return f->bad_writes.err;
    }
    return *written == 0 && total > 0 ? NV_E_NO_SPACE : NV_OK;
}

static nv_err fault_pwritev(nv_file *file, const struct iovec *parts, int count, uint64_t position, size_t *written)
{
    nv_fault_disk *f;
    *written = 0;
    nv_err err = enter(file, &f);
    if (err == NV_OK) {
        err = write_locked(f, file_of(file), parts, count, position, written);
    }
    pthread_mutex_unlock(&f->lock);
    return err;
}

static nv_err fault_pread(nv_file *file, void *out, size_t len, uint64_t position, size_t *got)
{
    nv_fault_disk *f;
    *got = 0;
    nv_err err = enter(file, &f);
    if (err == NV_OK) {
        *got = fault_node_get(file_of(file)->node, out, len, position);
        f->counts.read_bytes += *got;
    }
    pthread_mutex_unlock(&f->lock);
    return err;
}

static nv_err fault_sync(nv_file *file)
{
    nv_fault_disk *f;
    nv_err err = enter(file, &f);
    if (err == NV_OK) {
        f->counts.syncs++;
        if (!step(f)) {
            err = NV_E_IO;
        } else if (hits(&f->bad_syncs, f->counts.syncs)) {
            err = f->bad_syncs.err;
            fault_node_settle(file_of(file)->node, &f->rng.rng, false);
        } else if (!f->ignore_syncs) {
            fault_node_settle(file_of(file)->node, &f->rng.rng, true);
        }
    }
    pthread_mutex_unlock(&f->lock);
    return err;
}

static nv_err resize(nv_file *file, uint64_t size, bool only_grow)
{
    nv_fault_disk *f;
    nv_err err = enter(file, &f);
    fault_node *node = file_of(file)->node;
    if (err == NV_OK && size > node->now_size) {
        size_t need = (size_t)size - node->now_size;
        if (only_grow && fits(f, node, node->now_size, need) < need) {
            err = NV_E_NO_SPACE;
        } else if (!step(f)) {
            err = NV_E_IO;
        } else {
            fault_node_grow(node, (size_t)size);
            memset(node->now + node->now_size, 0, need);
            node->now_size = (size_t)size;
        }
    } else if (err == NV_OK && !only_grow) {
        err = step(f) ? NV_OK : NV_E_IO;
        if (err == NV_OK && size < node->now_size) {
            fault_node_shrink(node, (size_t)size);
        }
    }
    pthread_mutex_unlock(&f->lock);
    return err;
}

static nv_err fault_truncate(nv_file *file, uint64_t size)
{
    return resize(file, size, false);
}

static nv_err fault_allocate(nv_file *file, uint64_t size)
{
    return resize(file, size, true);
}

static nv_err fault_size(nv_file *file, uint64_t *out)
{
    nv_fault_disk *f;
    nv_err err = enter(file, &f);
    *out = file_of(file)->node->now_size;
    pthread_mutex_unlock(&f->lock);
    return err;
}

static nv_err fault_drop_cache(nv_file *file)
{
    nv_fault_disk *f;
    nv_err err = enter(file, &f);
    if (err == NV_OK) {
        fault_node_drop_cache(file_of(file)->node);
    }
    pthread_mutex_unlock(&f->lock);
    return err;
}

static void fault_advise(nv_file *file, nv_disk_advice advice)
{
    (void)file;
    (void)advice;
}

static void fault_prefetch(nv_file *file, uint64_t position, size_t len)
{
    (void)file;
    (void)position;
    (void)len;
}

static void fault_close(nv_file *file)
{
    nv_fault_disk *f;
    (void)enter(file, &f);
    if (file_of(file)->holds_lock && file_of(file)->epoch == f->epoch) {
        file_of(file)->node->locked = false;
    }
    fault_node_unref(file_of(file)->node);
    pthread_mutex_unlock(&f->lock);
    free(file);
}

/* ---- the test's side -------------------------------------------------------------------------------------- */

nv_fault_disk *nv_fault_disk_new(uint64_t seed)
{
    static const nv_disk_ops ops = {
        .open = fault_open,
        .lock = fault_lock,
        .remove = fault_remove,
        .rename = change_names,
        .link = fault_link,
        .make_dir = fault_make_dir,
        .sync_dir = fault_sync_dir,
        .list = fault_list,
        .free_space = fault_free_space,
        .exists = fault_exists,
        .pwritev = fault_pwritev,
        .pread = fault_pread,
        .sync = fault_sync,
        .truncate = fault_truncate,
        .allocate = fault_allocate,
        .size = fault_size,
        .drop_cache = fault_drop_cache,
        .advise = fault_advise,
        .prefetch = fault_prefetch,
        .close = fault_close,
    };
    nv_fault_disk *f = nv_calloc(1, sizeof(*f));
    f->disk.ops = &ops;
    f->capacity = UINT64_MAX;
    f->direct = true;
    f->epoch = 1;
    nv_seeded_rng_init(&f->rng, seed);
    pthread_mutex_init(&f->lock, NULL);
    return f;
}

void nv_fault_disk_free(nv_fault_disk *f)
{
    if (!f) {
        return;
    }
    fault_names_deinit(&f->names);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

nv_disk *nv_fault_disk_disk(nv_fault_disk *f)
{
    return &f->disk;
}

void nv_fault_disk_set_capacity(nv_fault_disk *f, uint64_t bytes)
{
    pthread_mutex_lock(&f->lock);
    f->capacity = bytes;
    pthread_mutex_unlock(&f->lock);
}

void nv_fault_disk_fail_writes(nv_fault_disk *f, uint64_t first, uint64_t count, nv_err err)
{
    pthread_mutex_lock(&f->lock);
    f->bad_writes = (window){f->counts.writes + first, count, err};
    pthread_mutex_unlock(&f->lock);
}

void nv_fault_disk_fail_syncs(nv_fault_disk *f, uint64_t first, uint64_t count, nv_err err)
{
    pthread_mutex_lock(&f->lock);
    f->bad_syncs = (window){f->counts.syncs + first, count, err};
    pthread_mutex_unlock(&f->lock);
}

void nv_fault_disk_set_short_writes(nv_fault_disk *f, bool on)
{
    pthread_mutex_lock(&f->lock);
    f->short_writes = on;
    pthread_mutex_unlock(&f->lock);
}

void nv_fault_disk_set_direct(nv_fault_disk *f, bool supported)
{
    pthread_mutex_lock(&f->lock);
    f->direct = supported;
    pthread_mutex_unlock(&f->lock);
}

void nv_fault_disk_set_ignore_syncs(nv_fault_disk *f, bool on)
{
    pthread_mutex_lock(&f->lock);
    f->ignore_syncs = on;
    pthread_mutex_unlock(&f->lock);
}

void nv_fault_disk_cut_after(nv_fault_disk *f, uint64_t operations)
{
    pthread_mutex_lock(&f->lock);
    f->cut_at = operations ? f->counts.operations + operations : 0;
    pthread_mutex_unlock(&f->lock);
}

void nv_fault_disk_cut(nv_fault_disk *f)
{
    pthread_mutex_lock(&f->lock);
    f->off = true;
    pthread_mutex_unlock(&f->lock);
}

bool nv_fault_disk_is_cut(nv_fault_disk *f)
{
    pthread_mutex_lock(&f->lock);
    bool off = f->off;
    pthread_mutex_unlock(&f->lock);
    return off;
}

void nv_fault_disk_power_on(nv_fault_disk *f)
{
    pthread_mutex_lock(&f->lock);
    fault_names_crash(&f->names, &f->rng.rng);
    f->epoch++;
    f->off = false;
    f->cut_at = 0;
    f->bad_writes.count = f->bad_syncs.count = 0;
    pthread_mutex_unlock(&f->lock);
}

nv_fault_counts nv_fault_disk_counts(nv_fault_disk *f)
{
    pthread_mutex_lock(&f->lock);
    nv_fault_counts counts = f->counts;
    counts.bytes = fault_names_bytes(&f->names);
    pthread_mutex_unlock(&f->lock);
    return counts;
}

void nv_fault_disk_put(nv_fault_disk *f, const char *path, const void *bytes, size_t len)
{
    pthread_mutex_lock(&f->lock);
    fault_node *node = nv_calloc(1, sizeof(*node));
    struct iovec part = {(void *)(uintptr_t)bytes, len};
    (void)fault_node_put(node, &part, 1, 0, len);
    if (node->dirty) {
        fault_node_settle(node, &f->rng.rng, true);
    }
    fault_names_put(&f->names, path, node);
    pthread_mutex_unlock(&f->lock);
}

size_t nv_fault_disk_peek(nv_fault_disk *f, const char *path, void *out, size_t len, uint64_t position)
{
    pthread_mutex_lock(&f->lock);
    fault_node *node = fault_names_find(&f->names, path);
    size_t got = node ? fault_node_get(node, out, len, position) : 0;
    pthread_mutex_unlock(&f->lock);
    return got;
}

void nv_fault_disk_poke(nv_fault_disk *f, const char *path, const void *bytes, size_t len, uint64_t position)
{
    pthread_mutex_lock(&f->lock);
    fault_node *node = fault_names_find(&f->names, path);
    if (node && position + len <= node->now_size) {
        struct iovec part = {(void *)(uintptr_t)bytes, len};
        (void)fault_node_put(node, &part, 1, position, len);
        fault_node_keep(node, position, len);
    }
    pthread_mutex_unlock(&f->lock);
}
