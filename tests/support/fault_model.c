#include "support/fault_model.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

uint64_t fault_pick(nv_rng *rng, uint64_t below)
{
    return below ? nv_rng_u64(rng) % below : 0;
}

/* ---- files ------------------------------------------------------------------------------------------------ */

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

void fault_node_grow(fault_node *node, size_t need)
{
    size_t before = sectors(node->now_capacity);
    grow(&node->now, &node->now_capacity, need);
    size_t after = sectors(node->now_capacity);
    if (after > before) {
        node->dirty = nv_realloc(node->dirty, after);
        memset(node->dirty + before, 0, after - before);
    }
}

void fault_node_unref(fault_node *node)
{
    if (node && --node->refs == 0) {
        free(node->now);
        free(node->kept);
        free(node->dirty);
        free(node);
    }
}

size_t fault_node_put(fault_node *node, const struct iovec *parts, int count, uint64_t position, size_t limit)
{
    size_t at = (size_t)position;
    size_t left = limit;
    for (int i = 0; i < count && left > 0; i++) {
        size_t n = parts[i].iov_len < left ? parts[i].iov_len : left;
        if (n == 0) {
            continue;
        }
        fault_node_grow(node, at + n);
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

size_t fault_node_get(const fault_node *node, void *out, size_t len, uint64_t position)
{
    if (position >= node->now_size) {
        return 0;
    }
    size_t got = len < node->now_size - position ? len : node->now_size - (size_t)position;
    memcpy(out, node->now + position, got);
    return got;
}

void fault_node_shrink(fault_node *node, size_t size)
{
    memset(node->now + size, 0, node->now_size - size);
    memset(node->dirty + size / NV_FAULT_SECTOR, 1, sectors(node->now_size) - size / NV_FAULT_SECTOR);
    node->now_size = size;
}

static void keep_sector(fault_node *node, size_t sector)
{
    size_t start = sector * NV_FAULT_SECTOR;
    size_t end = start + NV_FAULT_SECTOR;
    fault_node_grow(node, end);
    grow(&node->kept, &node->kept_capacity, end);
    memcpy(node->kept + start, node->now + start, NV_FAULT_SECTOR);
}

static void keep_size(fault_node *node)
{
    grow(&node->kept, &node->kept_capacity, node->now_size);
    if (node->now_size < node->kept_size) {
        memset(node->kept + node->now_size, 0, node->kept_size - node->now_size);
    }
    node->kept_size = node->now_size;
}

void fault_node_settle(fault_node *node, nv_rng *rng, bool all)
{
    size_t count = sectors(node->now_size);
    for (size_t i = 0; i < count; i++) {
        if (node->dirty[i] && (all || fault_pick(rng, 2))) {
            keep_sector(node, i);
        }
    }
    memset(node->dirty, 0, sectors(node->now_capacity));
    if (all || fault_pick(rng, 2)) {
        keep_size(node);
    }
}

void fault_node_keep(fault_node *node, uint64_t position, size_t len)
{
    for (size_t i = (size_t)position / NV_FAULT_SECTOR; i < sectors((size_t)position + len); i++) {
        keep_sector(node, i);
        node->dirty[i] = 0;
    }
}

void fault_node_drop_cache(fault_node *node)
{
    for (size_t i = 0; i < sectors(node->now_size); i++) {
        size_t start = i * NV_FAULT_SECTOR;
        if (!node->dirty[i]) {
            grow(&node->kept, &node->kept_capacity, start + NV_FAULT_SECTOR);
            memcpy(node->now + start, node->kept + start, NV_FAULT_SECTOR);
        }
    }
}

/** What a cut leaves of one file: the durable bytes and some of the dirty sectors, then that is all there is. */
static void crash_node(fault_node *node, nv_rng *rng)
{
    if (node->dirty) {
        fault_node_settle(node, rng, false);
    }
    node->locked = false;
    node->now_size = node->kept_size;
    fault_node_grow(node, node->kept_size);
    if (node->now_capacity) {
        memset(node->now, 0, node->now_capacity);
    }
    if (node->kept_size) {
        memcpy(node->now, node->kept, node->kept_size);
    }
}

/* ---- names ------------------------------------------------------------------------------------------------ */

/** A change of a folder that is not durable yet: from -> gone, to -> node. Either name may be NULL. */
struct fault_change {
    char *from;
    char *to;
    fault_node *node;
};

static fault_entry *table_find(const fault_table *t, const char *name)
{
    for (size_t i = 0; i < t->count; i++) {
        if (strcmp(t->rows[i].name, name) == 0) {
            return &t->rows[i];
        }
    }
    return NULL;
}

static void table_set(fault_table *t, const char *name, fault_node *node)
{
    fault_entry *row = table_find(t, name);
    if (row) {
        node->refs++;
        fault_node_unref(row->node);
        row->node = node;
        return;
    }
    t->rows = nv_realloc(t->rows, (t->count + 1) * sizeof(*t->rows));
    node->refs++;
    t->rows[t->count++] = (fault_entry){nv_strdup(name), node};
}

static void table_remove(fault_table *t, const char *name)
{
    fault_entry *row = table_find(t, name);
    if (row) {
        free(row->name);
        fault_node_unref(row->node);
        *row = t->rows[--t->count];
    }
}

static void table_clear(fault_table *t)
{
    for (size_t i = 0; i < t->count; i++) {
        free(t->rows[i].name);
        fault_node_unref(t->rows[i].node);
    }
    free(t->rows);
    *t = (fault_table){NULL, 0};
}

static void apply(fault_table *t, const fault_change *c)
{
    if (c->from) {
        table_remove(t, c->from);
    }
    if (c->to) {
        table_set(t, c->to, c->node);
    }
}

static void change_free(fault_change *c)
{
    free(c->from);
    free(c->to);
    fault_node_unref(c->node);
}

void fault_names_change(fault_names *names, const char *from, const char *to, fault_node *node)
{
    fault_change c = {from ? nv_strdup(from) : NULL, to ? nv_strdup(to) : NULL, node};
    node->refs++;
    names->changes = nv_realloc(names->changes, (names->change_count + 1) * sizeof(*names->changes));
    names->changes[names->change_count++] = c;
    apply(&names->now, &c);
}

void fault_names_put(fault_names *names, const char *path, fault_node *node)
{
    table_set(&names->now, path, node);
    table_set(&names->kept, path, node);
}

fault_node *fault_names_find(const fault_names *names, const char *path)
{
    const fault_entry *row = table_find(&names->now, path);
    return row ? row->node : NULL;
}

bool fault_in_dir(const char *path, const char *dir)
{
    size_t len = strlen(dir);
    return path && strncmp(path, dir, len) == 0 && path[len] == '/' && !strchr(path + len + 1, '/');
}

void fault_names_sync(fault_names *names, const char *dir)
{
    size_t left = 0;
    for (size_t i = 0; i < names->change_count; i++) {
        fault_change *c = &names->changes[i];
        if (fault_in_dir(c->from, dir) || fault_in_dir(c->to, dir)) {
            apply(&names->kept, c);
            change_free(c);
        } else {
            names->changes[left++] = *c;
        }
    }
    names->change_count = left;
}

static void drop_changes(fault_names *names)
{
    for (size_t i = 0; i < names->change_count; i++) {
        change_free(&names->changes[i]);
    }
    names->change_count = 0;
}

void fault_names_crash(fault_names *names, nv_rng *rng)
{
    size_t survive = (size_t)fault_pick(rng, names->change_count + 1);
    for (size_t i = 0; i < survive; i++) {
        apply(&names->kept, &names->changes[i]);
    }
    drop_changes(names);
    table_clear(&names->now);
    for (size_t i = 0; i < names->kept.count; i++) {
        crash_node(names->kept.rows[i].node, rng);
        table_set(&names->now, names->kept.rows[i].name, names->kept.rows[i].node);
    }
}

uint64_t fault_names_bytes(const fault_names *names)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < names->now.count; i++) {
        sum += names->now.rows[i].node->now_size;
    }
    return sum;
}

void fault_names_deinit(fault_names *names)
{
    drop_changes(names);
    free(names->changes);
    table_clear(&names->now);
    table_clear(&names->kept);
    *names = (fault_names){0};
}
