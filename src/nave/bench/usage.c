#include "nave/bench/usage.h"

#include "base/alloc.h"

#include <ctype.h>
#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

typedef struct proc_entry {
    pid_t pid;
    pid_t parent;
    uint64_t own_ticks;
    uint64_t waited_ticks; /* children that ended and were waited for */
    bool member;
} proc_entry;

typedef struct proc_list {
    proc_entry *entries;
    size_t count;
    size_t capacity;
} proc_list;

static bool read_entry(pid_t pid, proc_entry *out)
{
    char path[64];
    char line[1024];
    (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "re");
    if (!file) {
        return false;
    }
    bool got = fgets(line, sizeof(line), file) != NULL;
    fclose(file);
    /* The command stands in parentheses and may hold any byte, so the fields are counted from the last one. */
    char *at = got ? strrchr(line, ')') : NULL;
    int parent = 0;
    unsigned long utime = 0;
    unsigned long stime = 0;
    long cutime = 0;
    long cstime = 0;
    if (!at || sscanf(at + 1, " %*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %ld %ld", &parent, &utime, &stime,
                      &cutime, &cstime) != 5) {
        return false;
    }
    *out = (proc_entry){
        .pid = pid, .parent = parent, .own_ticks = utime + stime, .waited_ticks = (uint64_t)cutime + (uint64_t)cstime};
    return true;
}

static void push(proc_list *list, const proc_entry *entry)
{
    if (list->count == list->capacity) {
        list->capacity = list->capacity ? list->capacity * 2 : 256;
        list->entries = nv_realloc(list->entries, list->capacity * sizeof(*list->entries));
    }
    list->entries[list->count++] = *entry;
}

/* Every process of the machine, those that descend from root marked. The caller frees the entries. */
static proc_list read_family(pid_t root)
{
    proc_list list = {0};
    DIR *dir = opendir("/proc");
    for (struct dirent *d = dir ? readdir(dir) : NULL; d; d = readdir(dir)) {
        proc_entry entry;
        if (isdigit((unsigned char)d->d_name[0]) && read_entry((pid_t)strtol(d->d_name, NULL, 10), &entry)) {
            entry.member = entry.pid == root;
            push(&list, &entry);
        }
    }
    if (dir) {
        closedir(dir);
    }
    for (bool changed = true; changed;) {
        changed = false;
        for (size_t i = 0; i < list.count; i++) {
            for (size_t j = 0; !list.entries[i].member && j < list.count; j++) {
                if (list.entries[j].member && list.entries[j].pid == list.entries[i].parent) {
                    list.entries[i].member = changed = true;
                }
            }
        }
    }
    return list;
}

static double server_seconds(pid_t root)
{
    proc_list list = read_family(root);
    uint64_t ticks = 0;
    for (size_t i = 0; i < list.count; i++) {
        if (list.entries[i].member) {
            ticks += list.entries[i].own_ticks + list.entries[i].waited_ticks;
        }
    }
    free(list.entries);
    return (double)ticks / (double)sysconf(_SC_CLK_TCK);
}

static void machine_seconds(double *busy, double *stolen)
{
    unsigned long long v[8] = {0}; /* user nice system idle iowait irq softirq steal */
    FILE *file = fopen("/proc/stat", "re");
    if (file) {
        int got = fscanf(file, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &v[0], &v[1], &v[2], &v[3], &v[4], &v[5],
                         &v[6], &v[7]);
        (void)got; /* what is missing stays 0 */
        fclose(file);
    }
    double tick = (double)sysconf(_SC_CLK_TCK);
    *busy = (double)(v[0] + v[1] + v[2] + v[5] + v[6]) / tick;
    *stolen = (double)v[7] / tick;
}

void nv_usage_read(nv_usage *out, pid_t server)
{
    struct timespec now;
    struct timespec own;
    out->server_s = server > 0 ? server_seconds(server) : 0;
    machine_seconds(&out->machine_s, &out->stolen_s);
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &own);
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    out->own_s = (double)own.tv_sec + (double)own.tv_nsec / 1e9;
    out->wall_s = (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int64_t resident_of(pid_t pid)
{
    char path[64];
    char line[256];
    long long kilobytes = 0;
    /* The roll-up counts pages; the cheaper statm lags behind by a batch per processor. */
    (void)snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)pid);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof(line), file)) {
        if (sscanf(line, "Rss: %lld kB", &kilobytes) == 1) {
            break;
        }
    }
    if (file) {
        fclose(file);
    }
    return kilobytes * 1024;
}

int64_t nv_usage_resident_bytes(pid_t server)
{
    proc_list list = read_family(server);
    int64_t bytes = 0;
    for (size_t i = 0; i < list.count; i++) {
        bytes += list.entries[i].member ? resident_of(list.entries[i].pid) : 0;
    }
    free(list.entries);
    return bytes;
}
