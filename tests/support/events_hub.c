#include "support/events_hub.h"

#include <stdlib.h>

void events_hub_init(events_hub *h, int64_t wall_us, uint64_t seed)
{
    nv_manual_clock_init(&h->clock, wall_us);
    nv_seeded_rng_init(&h->rng, seed);
    nv_exec_queue_init(&h->queue);
    h->execs[0] = &h->queue.exec;
}

void events_hub_deinit(events_hub *h)
{
    nv_exec_queue_deinit(&h->queue);
}

nv_err events_hub_open(events_hub *h, const events_hub_options *options, nv_buf *why)
{
    static const char *const names[] = {"myhub.example.net"};
    nv_state_config state = {.dir = "/data",
                             .vfs = options->vfs,
                             .clock = &h->clock.clock,
                             .rng = &h->rng.rng,
                             .checkpoint_pages = options->checkpoint_pages};
    nv_err err = nv_state_open(&h->state, &state, why);
    nv_log_config log = {.dir = "/log",
                         .partitions = 2,
                         .segment_bytes = 1 << 20,
                         .disk = options->disk,
                         .clock = &h->clock.clock,
                         .rng = nv_rng_system()};
    err = err == NV_OK ? nv_log_open(&h->log, &log, why) : err;
    nv_hub_config hub = {.host_names = names,
                         .host_name_count = 1,
                         .limits = &nv_limits_open,
                         .log = h->log,
                         .state = h->state,
                         .events = options->events,
                         .azure = options->azure,
                         .clock = &h->clock.clock,
                         .rng = &h->rng.rng,
                         .loops = h->execs,
                         .loop_count = 1};
    return err == NV_OK ? nv_hub_new(&h->hub, &hub, why) : err;
}

void events_hub_close_stores(events_hub *h)
{
    nv_state_close(h->state);
    nv_log_close(h->log);
    nv_exec_queue_run(&h->queue);
    nv_hub_free(h->hub);
    h->state = NULL;
    h->log = NULL;
    h->hub = NULL;
}

void events_hub_turn(events_hub *h)
{
    nv_exec_queue_run(&h->queue);
    nv_hub_loop_tick(&h->hub->loops[0], nv_mono_us(&h->clock.clock));
    nv_hub_loop_turn_end(&h->hub->loops[0]);
}

void events_hub_wait(events_hub *h)
{
    nv_exec_queue_run_wait(&h->queue);
    events_hub_turn(h);
}

typedef struct reading {
    nv_log_chunk *chunk;
    nv_err status;
    bool done;
} reading;

static void chunk_read(void *arg, nv_err status, nv_log_chunk *chunk)
{
    *(reading *)arg = (reading){chunk, status, true};
}

nv_err events_hub_read(events_hub *h, void (*each)(void *arg, const nv_record *record), void *arg)
{
    nv_log_reader *reader = NULL;
    nv_log_read_options options = {.from = NV_LOG_FROM_BEGINNING};
    if (nv_log_reader_open(&reader, h->log, &options, &h->queue.exec) != NV_OK) {
        abort();
    }
    reading r = {.status = NV_OK};
    while (r.status == NV_OK) {
        r.done = false;
        nv_log_reader_next(reader, chunk_read, &r);
        while (!r.done) {
            nv_exec_queue_run_wait(&h->queue);
        }
        nv_record record;
        while (r.chunk && nv_log_chunk_next(r.chunk, &record)) {
            each(arg, &record);
        }
        if (r.chunk) {
            nv_log_chunk_release(r.chunk);
        }
    }
    nv_log_reader_close(reader);
    return r.status == NV_E_EOF ? NV_OK : r.status;
}
