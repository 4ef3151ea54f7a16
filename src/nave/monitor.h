/** `nave monitor`, as its two ways to read share it: what is asked for, where it stands, one line at a time. */
#ifndef NV_NAVE_MONITOR_H
#define NV_NAVE_MONITOR_H

#include "base/span.h"
#include "nave/client.h"

#define NV_MONITOR_PARTITIONS 128u

typedef struct nv_monitor {
    const nv_args *args;
    bool json;
    const char *from;
    uint64_t left; /* messages to show, UINT64_MAX = no end */
    /* where we are */
    bool seen[NV_MONITOR_PARTITIONS];
    uint64_t sequence[NV_MONITOR_PARTITIONS];
    char last_time[40]; /* of the last line, or "" */
    char start[40];     /* over HTTP: never ask for what is older: "" = no bound */
    bool resumed;
} nv_monitor;

/** Show an event, unless it was shown before. @return false: enough, or nobody reads stdout */
bool nv_monitor_line(nv_monitor *m, nv_span line);

/** Follow by AMQP, in a consumer group. @return an exit code */
int nv_monitor_amqp(nv_monitor *m, nv_client *client);

#endif
