/** `nave bench amqp`: the modes. Each opens its own fleet, measures, prints, and returns the exit code. */
#ifndef NV_NAVE_BENCH_AMQP_H
#define NV_NAVE_BENCH_AMQP_H

#include "nave/bench/amqp_fleet.h"
#include "nave/bench/mqtt.h"

int nv_bench_amqp_main(int argc, char **argv);

/** Also NV_BENCH_AMQP_THROUGH. */
int nv_bench_amqp_send(const nv_bench_amqp_options *o);
int nv_bench_amqp_read(const nv_bench_amqp_options *o);
int nv_bench_amqp_idle(const nv_bench_amqp_options *o);

/* ---- what send and read share: readers of the log or of a queue (amqp_reader.c) --------------------------------- */

typedef struct nv_amqp_readers nv_amqp_readers;

typedef struct nv_amqp_reader_link {
    nv_amqp_readers *readers;
    nv_amqp_peer *peer;
    nv_amqp_link *link; /* NULL between two attachments */
    uint32_t partition;
    bool known;    /* the two below */
    int64_t next;  /* sequence number of the next event */
    int64_t last;  /* of the last one that was there when the link was attached */
    bool was_open; /* it was attached once */
} nv_amqp_reader_link;

struct nv_amqp_readers {
    nv_amqp_fleet *fleet;
    bool again; /* from the beginning, and again when the end is reached; false: only what is new */
    nv_amqp_reader_link *links;
    uint32_t count;
    uint64_t messages;
    uint64_t bytes; /* of the messages as encoded */
    uint64_t rounds;
    /** NULL, or called for each message. */
    void (*message)(nv_amqp_readers *readers, nv_span bytes);
    void *owner;
};

/** @p reader_peers connections, which the fleet has behind those of its devices. */
void nv_amqp_readers_init(nv_amqp_readers *readers, nv_amqp_fleet *fleet, uint32_t reader_peers, bool again);
void nv_amqp_readers_deinit(nv_amqp_readers *readers);
/** For the fleet's ready(): attach the links of a reader. */
void nv_amqp_readers_attach(nv_amqp_readers *readers, nv_amqp_peer *peer);

#endif
