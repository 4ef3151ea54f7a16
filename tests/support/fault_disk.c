#include "support/fault_disk.h"

#include "base/alloc.h"
#include "base/rng.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

typedef struct inode {
    uint8_t *now; /* volatile content */
    size_t now_size;
    size_t now_capacity;
    uint8_t *kept; /* durable content */
    size_t kept_size;
    size_t kept_capacity;
    uint8_t *dirty; /* per sector of now_capacity */
    size_t refs;    /* names, pending changes, open files */
    bool locked;
} inode;

typedef struct entry {
    char *name; /* full path; owned */
    inode *node;
} entry;

typedef struct table {
    entry *rows;
    size_t count;
} table;

/** A change of a folder that is not durable yet: from -> gone, to -> node. Either name may be NULL. */
typedef struct change {
    char *from;
    char *to;
    inode *node;
} change;

typedef struct window {
    uint64_t first;
    uint64_t count;
    nv_err err;
} window;

struct nv_fault_disk {
    nv_disk disk; /* first member */
    pthread_mutex_t lock;
    nv_seeded_rng rng;
    table now;
    table kept;
    change *changes;
    size_t change_count;
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
    inode *node;
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

static uint64_t pick(nv_fault_disk *f, uint64_t below)
{
    return below ? nv_rng_u64(&f->rng.rng) % below : 0;
}

/* ---- inodes and names ------------------------------------------------------------------------------------- */

static size_t sectors(size_t bytes)
{
    return (bytes + NV_FAULT_SECTOR - 1) / NV_FAULT_SECTOR;
}

static void grow(uint8_t **bytes, size_t *capacity, size_t need)
{
    if (need > *capacity) {
        size_t size = sectors(need > *capacity * 2 ? need : *capacity * 2) * NV_FAULT_SECTOR;
        *bytes = nv_realloc(*bytes, size);
        memset(*bytes + *capacity, 0, size - *capacity);
        *capacity = size;
    }
}

static void grow_now(inode *node, size_t need)
{
    size_t before = sectors(node->now_capacity);
    grow(&node->now, &node->now_capacity, need);
    size_t after = sectors(node->now_capacity);
    if (after > before) {
        node->dirty = nv_realloc(node->dirty, after);
        memset(node->dirty + before, 0, after - before);
    }
}

static void unref(inode *node)
{
    if (node && --node->refs == 0) {
        free(node->now);
        free(node->kept);
        free(node->dirty);
        free(node);
    }
}

static entry *table_find(table *t, const char *name)
{
    for (size_t i = 0; i < t->count; i++) {
        if (strcmp(t->rows[i].name, name) == 0) {
            return &t->rows[i];
        }
    }
    return NULL;
}

static void table_set(table *t, const char *name, inode *node)
{
    entry *row = table_find(t, name);
    if (row) {
        node->refs++;
        unref(row->node);
        row->node = node;
        return;
    }
    t->rows = nv_realloc(t->rows, (t->count + 1) * sizeof(*t->rows));
    node->refs++;
    t->rows[t->count++] = (entry){nv_strdup(name), node};
}

static void table_remove(table *t, const char *name)
{
    entry *row = table_find(t, name);
    if (row) {
        free(row->name);
        unref(row->node);
        *row = t->rows[--t->count];
    }
}

static void table_clear(table *t)
{
    for (size_t i = 0; i < t->count; i++) {
        free(t->rows[i].name);
        unref(t->rows[i].node);
    }
    free(t->rows);
    *t = (table){NULL, 0};
}

static void apply(table *t, const change *c)
{
    if (c->from) {
        table_remove(t, c->from);
    }
    if (c->to) {
        table_set(t, c->to, c->node);
    }
}

static void change_free(change *c)
{
    free(c->from);
    free(c->to);
    unref(c->node);
}

/** Make a change visible and remember it until its folder is synced. */
static void change_add(nv_fault_disk *f, const char *from, const char *to, inode *node)
{
    change c = {from ? nv_strdup(from) : NULL, to ? nv_strdup(to) : NULL, node};
    node->refs++;
    f->changes = nv_realloc(f->changes, (f->change_count + 1) * sizeof(*f->changes));
    f->changes[f->change_count++] = c;
    apply(&f->now, &c);
}

static bool in_dir(const char *path, const char *dir)
{
    size_t len = strlen(dir);
    return path && strncmp(path, dir, len) == 0 && path[len] == '/' && !strchr(path + len + 1, '/');
}

static uint64_t used_bytes(const nv_fault_disk *f)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < f->now.count; i++) {
        sum += f->now.rows[i].node->now_size;
    }
    return sum;
}

/* ---- durability ------------------------------------------------------------------------------------------- */

static void keep_sector(inode *node, size_t sector)
{
    size_t start = sector * NV_FAULT_SECTOR;
    size_t end = start + NV_FAULT_SECTOR;
    grow_now(node, end);
    grow(&node->kept, &node->kept_capacity, end);
    memcpy(node->kept + start, node->now + start, NV_FAULT_SECTOR);
}

static void keep_size(inode *node)
{
    grow(&node->kept, &node->kept_capacity, node->now_size);
    if (node->now_size < node->kept_size) {
        memset(node->kept + node->now_size, 0, node->kept_size - node->now_size);
    }
    node->kept_size = node->now_size;
}

/** Make dirty sectors durable: all, or each with even odds. All are clean afterwards. */
static void settle(nv_fault_disk *f, inode *node, bool all)
{
    size_t count = sectors(node->now_size);
    for (size_t i = 0; i < count; i++) {
        if (node->dirty[i] && (all || pick(f, 2))) {
            keep_sector(node, i);
        }
    }
    memset(node->dirty, 0, sectors(node->now_capacity));
    if (all || pick(f, 2)) {
        keep_size(node);
    }
}

/** What a cut leaves of one file: the durable bytes and some of the dirty sectors, then that is all there is. */
static void crash_inode(nv_fault_disk *f, inode *node)
{
    if (node->dirty) {
        settle(f, node, false);
    }
    node->locked = false;
    node->now_size = node->kept_size;
    grow_now(node, node->kept_size);
    if (node->now_capacity) {
        memset(node->now, 0, node->now_capacity);
    }
    if (node->kept_size) {
        memcpy(node->now, node->kept, node->kept_size);
    }
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
    entry *row = table_find(&f->now, path);
    if (row && (flags & NV_OPEN_EXCLUSIVE)) {
        return NV_E_EXISTS;
    }
    if (!row && !(flags & NV_OPEN_CREATE)) {
        return NV_E_NOT_FOUND;
    }
    if ((flags & NV_OPEN_DIRECT) && !f->direct) {
        return NV_E_INVALID;
    }
    inode *node = row ? row->node : nv_calloc(1, sizeof(*node));
    if (!row) {
        if (!step(f)) {
            free(node);
            return NV_E_IO;
        }
        change_add(f, NULL, path, node);
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
    entry *row = table_find(&f->now, path);
    nv_err err = f->off ? NV_E_IO : row && row->node->locked ? NV_E_IN_USE : NV_OK;
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
    entry *row = table_find(&f->now, from);
    if (err == NV_OK && !row) {
        err = NV_E_NOT_FOUND;
    }
    if (err == NV_OK) {
        change_add(f, from, to, row->node);
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
    entry *row = table_find(&f->now, from);
    if (err == NV_OK && !row) {
        err = NV_E_NOT_FOUND;
    }
    if (err == NV_OK && table_find(&f->now, to)) {
        err = NV_E_EXISTS;
    }
    if (err == NV_OK) {
        change_add(f, NULL, to, row->node);
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

static void sync_dir_locked(nv_fault_disk *f, const char *path)
{
    size_t left = 0;
    for (size_t i = 0; i < f->change_count; i++) {
        change *c = &f->changes[i];
        if (in_dir(c->from, path) || in_dir(c->to, path)) {
            apply(&f->kept, c);
            change_free(c);
        } else {
            f->changes[left++] = *c;
        }
    }
    f->change_count = left;
}

static nv_err fault_sync_dir(nv_disk *disk, const char *path)
{
    nv_fault_disk *f = fault_of(disk);
    pthread_mutex_lock(&f->lock);
    nv_err err = f->off || !step(f) ? NV_E_IO : NV_OK;
    if (err == NV_OK && !f->ignore_syncs) {
        sync_dir_locked(f, path);
    }
    pthread_mutex_unlock(&f->lock);
    return err;
}

static nv_err fault_list(nv_disk *disk, const char *path, nv_disk_entry_fn each, void *arg)
{
    nv_fault_disk *f = fault_of(disk);
    pthread_mutex_lock(&f->lock);
    nv_err err = f->off ? NV_E_IO : NV_OK;
    for (size_t i = 0; err == NV_OK && i < f->now.count; i++) {
        if (in_dir(f->now.rows[i].name, path)) {
            each(arg, f->now.rows[i].name + strlen(path) + 1);
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
    uint64_t used = used_bytes(f);
    *out = used < f->capacity ? f->capacity - used : 0;
    nv_err err = f->off ? NV_E_IO : NV_OK;
    pthread_mutex_unlock(&f->lock);
    return err;
}

static bool fault_exists(nv_disk *disk, const char *path)
{
    nv_fault_disk *f = fault_of(disk);
    pthread_mutex_lock(&f->lock);
    bool found = !f->off && table_find(&f->now, path) != NULL;
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

/** Put up to @p limit bytes into the volatile content and mark their sectors. */
static size_t put_bytes(inode *node, const struct iovec *parts, int count, uint64_t position, size_t limit)
{
    size_t at = (size_t)position;
    size_t left = limit;
    for (int i = 0; i < count && left > 0; i++) {
        size_t n = parts[i].iov_len < left ? parts[i].iov_len : left;
        if (n == 0) {
            continue;
        }
        grow_now(node, at + n);
        if (at > node->now_size) {
            memset(node->now + node->now_size, 0, at - node->now_size);
        }
        memcpy(node->now + at, parts[i].iov_base, n);
        memset(node->dirty + at / NV_FAULT_SECTOR, 1, sectors(at + n) - at / NV_FAULT_SECTOR);
        at += n;
        left -= n;
        node->now_size = at > node->now_size ? at : node->now_size;
    }
    return limit - left;
}

/** How many of @p total bytes the capacity lets in at @p position. */
static size_t fits(const nv_fault_disk *f, const inode *node, uint64_t position, size_t total)
{
    if (f->capacity == UINT64_MAX || position + total <= node->now_size) {
        return total;
    }
    uint64_t used = used_bytes(f);
    uint64_t room = used < f->capacity ? f->capacity - used : 0;
    uint64_t end = node->now_size + room;
    return end <= position ? 0 : end - position < total ? (size_t)(end - position) : total;
}

static nv_err write_locked(nv_fault_disk *f, fault_file *file, const struct iovec *parts, int count, uint64_t position,
                           size_t *written)
{
    inode *node = file->node;
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
        n = (size_t)pick(f, total + 1);
    } else if (f->short_writes && total > NV_DISK_BLOCK) {
        n = (size_t)(1 + pick(f, total / NV_DISK_BLOCK)) * NV_DISK_BLOCK;
    }
    size_t room = fits(f, node, position, n);
    n = file->flags & NV_OPEN_DIRECT ? room / NV_DISK_BLOCK * NV_DISK_BLOCK : room;
    *written = put_bytes(node, parts, count, position, n);
    if (!alive) {
        return NV_E_IO;
    }
    /* A direct write alone ends in the drive's cache: it may survive, and may not, like any other dirty sector. */
    if ((file->flags & NV_OPEN_DSYNC) && !f->ignore_syncs) {
        settle(f, node, !bad);
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
    inode *node = file_of(file)->node;
    if (err == NV_OK && position < node->now_size) {
        *got = len < node->now_size - position ? len : node->now_size - (size_t)position;
        memcpy(out, node->now + position, *got);
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
            settle(f, file_of(file)->node, false);
        } else if (!f->ignore_syncs) {
            settle(f, file_of(file)->node, true);
        }
    }
    pthread_mutex_unlock(&f->lock);
    return err;
}

static nv_err resize(nv_file *file, uint64_t size, bool only_grow)
{
    nv_fault_disk *f;
    nv_err err = enter(file, &f);
    inode *node = file_of(file)->node;
    if (err == NV_OK && size > node->now_size) {
        size_t need = (size_t)size - node->now_size;
        if (only_grow && fits(f, node, node->now_size, need) < need) {
            err = NV_E_NO_SPACE;
        } else if (!step(f)) {
            err = NV_E_IO;
        } else {
            grow_now(node, (size_t)size);
            memset(node->now + node->now_size, 0, need);
            node->now_size = (size_t)size;
        }
    } else if (err == NV_OK && !only_grow) {
        err = step(f) ? NV_OK : NV_E_IO;
        if (err == NV_OK && size < node->now_size) {
            memset(node->now + size, 0, node->now_size - (size_t)size);
            memset(node->dirty + size / NV_FAULT_SECTOR, 1, sectors(node->now_size) - (size_t)size / NV_FAULT_SECTOR);
            node->now_size = (size_t)size;
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

/** Clean sectors show what is durable; after a failed sync that is not what was written. */
static nv_err fault_drop_cache(nv_file *file)
{
    nv_fault_disk *f;
    nv_err err = enter(file, &f);
    inode *node = file_of(file)->node;
    for (size_t i = 0; err == NV_OK && i < sectors(node->now_size); i++) {
        size_t start = i * NV_FAULT_SECTOR;
        if (!node->dirty[i]) {
            grow(&node->kept, &node->kept_capacity, start + NV_FAULT_SECTOR);
            memcpy(node->now + start, node->kept + start, NV_FAULT_SECTOR);
        }
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
    unref(file_of(file)->node);
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

static void drop_changes(nv_fault_disk *f)
{
    for (size_t i = 0; i < f->change_count; i++) {
        change_free(&f->changes[i]);
    }
    f->change_count = 0;
}

void nv_fault_disk_free(nv_fault_disk *f)
{
    if (!f) {
        return;
    }
    drop_changes(f);
    free(f->changes);
    table_clear(&f->now);
    table_clear(&f->kept);
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
    size_t survive = (size_t)pick(f, f->change_count + 1);
    for (size_t i = 0; i < survive; i++) {
        apply(&f->kept, &f->changes[i]);
    }
    drop_changes(f);
    table_clear(&f->now);
    for (size_t i = 0; i < f->kept.count; i++) {
        crash_inode(f, f->kept.rows[i].node);
        table_set(&f->now, f->kept.rows[i].name, f->kept.rows[i].node);
    }
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
    counts.bytes = used_bytes(f);
    pthread_mutex_unlock(&f->lock);
    return counts;
}

void nv_fault_disk_put(nv_fault_disk *f, const char *path, const void *bytes, size_t len)
{
    pthread_mutex_lock(&f->lock);
    inode *node = nv_calloc(1, sizeof(*node));
    struct iovec part = {(void *)(uintptr_t)bytes, len};
    (void)put_bytes(node, &part, 1, 0, len);
    if (node->dirty) {
        settle(f, node, true);
    }
    table_set(&f->now, path, node);
    table_set(&f->kept, path, node);
    pthread_mutex_unlock(&f->lock);
}

size_t nv_fault_disk_peek(nv_fault_disk *f, const char *path, void *out, size_t len, uint64_t position)
{
    pthread_mutex_lock(&f->lock);
    entry *row = table_find(&f->now, path);
    size_t got = 0;
    if (row && position < row->node->now_size) {
        got = len < row->node->now_size - position ? len : row->node->now_size - (size_t)position;
        memcpy(out, row->node->now + position, got);
    }
    pthread_mutex_unlock(&f->lock);
    return got;
}

void nv_fault_disk_poke(nv_fault_disk *f, const char *path, const void *bytes, size_t len, uint64_t position)
{
    pthread_mutex_lock(&f->lock);
    entry *row = table_find(&f->now, path);
    if (row && position + len <= row->node->now_size) {
        struct iovec part = {(void *)(uintptr_t)bytes, len};
        (void)put_bytes(row->node, &part, 1, position, len);
        for (size_t i = (size_t)position / NV_FAULT_SECTOR; i < sectors((size_t)position + len); i++) {
            keep_sector(row->node, i);
            row->node->dirty[i] = 0;
        }
    }
    pthread_mutex_unlock(&f->lock);
}
