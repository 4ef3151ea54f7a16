/**
 * Reading the telemetry log over HTTP: GET /nave/v1/events (docs/events-api.md).
 *
 *   log reader --chunk--> records --JSON--> a batch of lines --> the connection's buffer --> peer
 *        ^                                                             |
 *        +--- next chunk, only when this one is used up <--- sent -----+
 *
 * The peer's pace is the reader's pace: no more than limits.reader_queue_bytes wait in memory beside the chunk, and
 * nothing here ever holds up who writes to the log.
 */
#include "session/http_event_json.h"
#include "session/http_exchange.h"
#include "session/http_message.h"

#include "base/alloc.h"
#include "base/diag.h"
#include "codec/ids.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* Lines are collected to parts of about this size, so that framing and copying cost little. */
#define PART_BYTES (32u << 10)
/* Output is refilled up to here; enough for the peer to stay busy while the next part is made. */
#define QUEUE_BYTES (192u << 10)
/* One event is at most 256 KB, of which every byte may become six in JSON, with properties likewise. */
#define EVENT_MAX    (4u << 20)
#define HEARTBEAT_US (30 * NV_US_PER_S)

static _Atomic int64_t open_streams;

typedef struct position {
    bool known;
    uint32_t partition;
    uint64_t sequence;
} position;

typedef struct events_op {
    nv_http_exchange *x;
    nv_log_reader *reader;
    nv_log_read_options options;
    char device_id[NV_ID_MAX];
    nv_log_chunk *chunk;
    nv_record record; /* taken from the chunk, not written yet */
    bool has_record;
    bool asked; /* the reader owes a chunk */
    bool ended; /* the reader has nothing more: end when all is written */
    bool whole; /* ... and it ended well */
    bool sse;
    bool follow;
    bool seeking;    /* the event to resume after is being looked up */
    position resume; /* known: drop what stands before it */
    int64_t resume_us;
    uint64_t left;      /* events still wanted; UINT64_MAX = no bound */
    int64_t written_us; /* monotonic, of the last write */
    int64_t expires_us; /* wall, of the token: nobody reads on without one */
    nv_buf part;
} events_op;

static void pump(events_op *op);

static void events_free(void *arg)
{
    events_op *op = arg;
    nv_log_reader_close(op->reader);
    if (op->chunk) {
        nv_log_chunk_release(op->chunk);
    }
    nv_buf_deinit(&op->part);
    free(op);
    atomic_fetch_sub_explicit(&open_streams, 1, memory_order_relaxed);
}

/* ---- writing ------------------------------------------------------------------------------------------------ */

/** Append one event to the part. */
static void write_event(events_op *op)
{
    const nv_record *record = &op->record;
    nv_err err = NV_OK;
    if (op->sse) {
        err = nv_buf_printf(&op->part, "id: %u:%llu\ndata: ", record->partition, (unsigned long long)record->sequence);
    }
    nv_json_writer w = nv_json_writer_of(&op->part);
    nv_event_write_json(&w, record);
    if (w.err == NV_OK && err == NV_OK) {
        err = nv_buf_append_str(&op->part, op->sse ? "\n\n" : "\n");
    }
    if (w.err != NV_OK || err != NV_OK) {
        op->ended = true; /* larger than any event can be: better cut than skipped unseen */
        op->whole = false;
    }
}

static void flush_part(events_op *op)
{
    if (nv_buf_len(&op->part) > 0) {
        nv_http_stream_write(op->x, nv_buf_span(&op->part));
        nv_buf_clear(&op->part);
        op->written_us = nv_mono_us(op->x->hub->clock);
    }
}

/** When something is to be done: a sign of life, or the end of the token. */
static void set_heartbeat(events_op *op)
{
    const nv_clock *clock = op->x->hub->clock;
    int64_t left_us = op->expires_us - nv_wall_us(clock); /* both are far from the ends of the type */
    int64_t due_us = op->written_us + HEARTBEAT_US;
    int64_t end_us = left_us < HEARTBEAT_US ? nv_mono_us(clock) + left_us : INT64_MAX;
    nv_http_stream_set_deadline(op->x, end_us < due_us ? end_us : due_us);
}

static void on_tick(nv_http_exchange *x, int64_t now_us)
{
    events_op *op = x->op;
    if (nv_wall_us(x->hub->clock) >= op->expires_us) {
        nv_http_stream_end(x, true);
        return;
    }
    if (now_us - op->written_us >= HEARTBEAT_US) {
        if (nv_http_stream_queued(x) == 0) {
            nv_http_stream_write(x, nv_span_str(op->sse ? ": nothing new\n\n" : "\n"));
        }
        op->written_us = now_us; /* a peer that does not read needs no sign of life */
    }
    set_heartbeat(op);
}

static void on_sent(nv_http_exchange *x, int64_t now_us)
{
    (void)now_us;
    pump(x->op);
}

static void on_stop(nv_http_exchange *x, bool lost)
{
    (void)lost;
    nv_http_stream_end(x, true);
}

/* ---- reading ------------------------------------------------------------------------------------------------ */

/** Is this record at or before the event that the peer has seen last? Then it is not sent again. */
static bool seen_before(events_op *op)
{
    const nv_record *record = &op->record;
    if (!op->resume.known) {
        return false;
    }
    bool same = record->partition == op->resume.partition;
    if (same && record->sequence < op->resume.sequence) {
        return true;
    }
    if (same && record->sequence == op->resume.sequence) {
        op->resume.known = false;
        return true;
    }
    if (same || record->enqueued_us > op->resume_us) {
        op->resume.known = false; /* it is gone: everything from here on is new */
        return false;
    }
    return true;
}

/** The next record to write into op->record. @return false: the chunk is used up */
static bool take_record(events_op *op)
{
    while (!op->has_record && op->chunk && op->left > 0) {
        if (!nv_log_chunk_next(op->chunk, &op->record)) {
            nv_log_chunk_release(op->chunk);
            op->chunk = NULL;
        } else if (!seen_before(op)) {
            op->has_record = true;
        }
    }
    return op->has_record;
}

static void read_done(void *arg, nv_err status, nv_log_chunk *chunk);

static void ask(events_op *op)
{
    if (!op->asked && !op->chunk && !op->ended) {
        op->asked = true;
        nv_log_reader_next(op->reader, read_done, op);
    }
}

/** Fill the connection's buffer from the chunk; ends the exchange when everything is out. */
static void pump(events_op *op)
{
    nv_http_exchange *x = op->x;
    size_t bound = (size_t)x->hub->limits.reader_queue_bytes;
    size_t refill = bound < QUEUE_BYTES ? bound : QUEUE_BYTES;
    while (!op->ended && nv_http_stream_queued(x) + nv_buf_len(&op->part) < refill && take_record(op)) {
        size_t before = nv_buf_len(&op->part);
        write_event(op);
        size_t queued = nv_http_stream_queued(x) + nv_buf_len(&op->part);
        if (queued > bound && queued > nv_buf_len(&op->part) - before) {
            nv_buf_truncate(&op->part, before); /* it would pass the bound: it waits for room */
            break;
        }
        op->has_record = false;
        op->left -= op->left != UINT64_MAX;
        if (nv_buf_len(&op->part) >= PART_BYTES) {
            flush_part(op);
        }
    }
    flush_part(op);
    if (op->left == 0) {
        op->ended = op->whole = true;
    }
    if (op->ended && (!op->chunk || op->left == 0 || !op->whole)) {
        nv_http_stream_end(x, op->whole);
        return;
    }
    set_heartbeat(op);
    ask(op);
}

static nv_err open_reader(events_op *op)
{
    return nv_log_reader_open(&op->reader, op->x->hub->log, &op->options, op->x->loop->exec);
}

/**
 * Resuming over several partitions: the reader stands on the last event that the peer has seen. Its time is where all
 * partitions go on; what they hold from that time up to the event was sent before it.
 */
static void seek_done(events_op *op, nv_err status, nv_log_chunk *chunk)
{
    op->seeking = false;
    op->options.from = NV_LOG_FROM_BEGINNING; /* the event is gone: whatever there is is new */
    nv_record record;
    if (status == NV_OK && nv_log_chunk_next(chunk, &record) && record.sequence == op->resume.sequence) {
        op->options.from = NV_LOG_FROM_TIME;
        op->options.time_us = op->resume_us = record.enqueued_us;
    } else {
        op->resume.known = false;
    }
    if (chunk) {
        nv_log_chunk_release(chunk);
    }
    nv_log_reader_close(op->reader);
    op->reader = NULL;
    op->options.partitions = 0;
    op->options.chunk_bytes = 0;
    op->options.follow = op->follow;
    if (open_reader(op) != NV_OK) {
        op->ended = true;
    }
}

static void log_broken(const events_op *op, nv_err status)
{
    nv_subject who = {.connection = op->x->auth.peer->connection_id};
    nv_diag(NV_LEVEL_ERROR, "http", &who, "reading events failed: %s; the answer is cut short", nv_err_text(status));
}

static void read_done(void *arg, nv_err status, nv_log_chunk *chunk)
{
    events_op *op = arg;
    op->asked = false;
    if (op->seeking) {
        seek_done(op, status, chunk);
    } else if (status == NV_OK) {
        op->chunk = chunk;
    } else if (status == NV_E_EOF) {
        op->ended = op->whole = true;
    } else if (status != NV_E_GONE) {
        log_broken(op, status);
        op->ended = true;
        op->whole = false;
    }
    pump(op);
}

/* ---- parameters --------------------------------------------------------------------------------------------- */

static const char *read_from(events_op *op, nv_span text)
{
    uint64_t sequence = 0;
    if (nv_span_eq_nocase(text, nv_span_str("beginning"))) {
        op->options.from = NV_LOG_FROM_BEGINNING;
    } else if (nv_span_eq_nocase(text, nv_span_str("now"))) {
        op->options.from = NV_LOG_FROM_NOW;
    } else if (nv_span_to_u64(text, &sequence)) {
        op->options.from = NV_LOG_FROM_SEQUENCE;
        op->options.sequence = sequence;
        if (op->options.partitions == 0) {
            return "from=<sequence> needs partition=";
        }
    } else if (nv_http_read_time(text, &op->options.time_us)) {
        op->options.from = NV_LOG_FROM_TIME;
    } else {
        return "from is beginning, now, a time such as 2024-05-01T10:20:30Z, or a sequence number";
    }
    return NULL;
}

/** "partition:sequence" of the last event that an EventSource has seen. */
static const char *read_last_event_id(events_op *op)
{
    nv_span text = NV_SPAN_EMPTY;
    if (!nv_http_find_header(op->x->request, "last-event-id", &text) || text.len == 0) {
        return NULL;
    }
    size_t colon = nv_span_find(text, ':');
    uint64_t partition = 0;
    uint64_t sequence = 0;
    if (!nv_span_to_u64(nv_span_first(text, colon), &partition) ||
        !nv_span_to_u64(nv_span_skip(text, colon + 1), &sequence) || sequence == UINT64_MAX ||
        partition >= nv_log_partitions(op->x->hub->log)) {
        return "Last-Event-ID is partition:sequence";
    }
    uint32_t mask = UINT32_C(1) << partition;
    op->options.from = NV_LOG_FROM_SEQUENCE;
    if (op->options.partitions == mask || nv_log_partitions(op->x->hub->log) == 1) {
        op->options.partitions = mask;
        op->options.sequence = sequence + 1;
        return NULL;
    }
    if (op->options.partitions != 0) {
        return "Last-Event-ID names another partition than partition=";
    }
    op->seeking = true;
    op->resume = (position){true, (uint32_t)partition, sequence};
    op->options.partitions = mask;
    op->options.sequence = sequence;
    op->options.chunk_bytes = 4096;
    op->options.follow = false;
    return NULL;
}

static bool read_flag(nv_http_exchange *x, const char *name, bool fallback, bool *out)
{
    char text[8];
    nv_span value;
    *out = fallback;
    nv_err err = nv_http_query_get(x, name, text, sizeof(text), &value);
    if (err == NV_OK) {
        *out = nv_span_eq_nocase(value, nv_span_str("true"));
        return *out || nv_span_eq_nocase(value, nv_span_str("false"));
    }
    return err == NV_E_NOT_FOUND;
}

/** @return NULL, or what is wrong with the request */
static const char *read_selection(events_op *op)
{
    nv_http_exchange *x = op->x;
    char text[64];
    nv_span value;
    uint64_t number = 0;
    nv_err err = nv_http_query_get(x, "partition", text, sizeof(text), &value);
    if (err == NV_OK && nv_span_to_u64(value, &number) && number < nv_log_partitions(x->hub->log)) {
        op->options.partitions = UINT32_C(1) << number;
    } else if (err != NV_E_NOT_FOUND) {
        return "partition is the number of a partition of this hub, from 0";
    }
    err = nv_http_query_get(x, "device", op->device_id, sizeof(op->device_id), &op->options.device_id);
    if (err != NV_E_NOT_FOUND && (err != NV_OK || !nv_device_id_valid(op->options.device_id))) {
        return "device is a device id";
    }
    err = nv_http_query_get(x, "max", text, sizeof(text), &value);
    if (err != NV_E_NOT_FOUND && (err != NV_OK || !nv_span_to_u64(value, &op->left) || op->left == 0)) {
        return "max is a positive number";
    }
    if (!read_flag(x, "follow", op->sse, &op->follow)) {
        return "follow is true or false";
    }
    op->options.follow = op->follow;
    return NULL;
}

static const char *read_parameters(events_op *op)
{
    const char *wrong = read_selection(op);
    char text[64];
    nv_span value;
    nv_err err = nv_http_query_get(op->x, "from", text, sizeof(text), &value);
    if (!wrong && err != NV_E_NOT_FOUND) {
        wrong = err == NV_OK ? read_from(op, value) : "from is not valid";
    }
    return wrong ? wrong : read_last_event_id(op);
}

static bool wants_sse(const nv_http_exchange *x)
{
    static const char type[] = "text/event-stream";
    nv_span accept;
    return nv_http_find_header(x->request, "accept", &accept) && accept.len >= sizeof(type) - 1 &&
           memmem(accept.ptr, accept.len, type, sizeof(type) - 1);
}

static events_op *events_new(nv_http_exchange *x)
{
    events_op *op = nv_calloc(1, sizeof(*op));
    op->x = x;
    op->left = UINT64_MAX;
    op->sse = wants_sse(x);
    op->written_us = nv_mono_us(x->hub->clock);
    nv_span token = NV_SPAN_EMPTY;
    (void)nv_http_find_header(x->request, "authorization", &token);
    op->expires_us = nv_auth_token_expires_us(x->hub, token);
    nv_buf_init(&op->part, EVENT_MAX + PART_BYTES);
    x->op = op;
    x->op_free = events_free;
    return op;
}

void nv_http_events(nv_http_exchange *x)
{
    if (atomic_fetch_add_explicit(&open_streams, 1, memory_order_relaxed) >= x->hub->limits.readers) {
        atomic_fetch_sub_explicit(&open_streams, 1, memory_order_relaxed);
        nv_http_fail(x, NV_HUB_ERROR_ThrottlingException, "Too many readers of events are connected");
        return;
    }
    events_op *op = events_new(x);
    const char *wrong = read_parameters(op);
    const char *type = op->sse ? "text/event-stream" : "application/x-ndjson";
    if (wrong) {
        nv_http_fail(x, NV_HUB_ERROR_ArgumentInvalid, wrong);
    } else if (x->request->method == NV_HTTP_HEAD) {
        nv_http_send(x, &(nv_http_reply){.status = 200, .content_type = type});
    } else if (open_reader(op) != NV_OK) {
        nv_http_fail(x, NV_HUB_ERROR_ServiceUnavailable, "The telemetry log cannot be read now");
    } else {
        x->stream_sent = on_sent;
        x->stream_tick = on_tick;
        x->stream_stop = on_stop;
        nv_http_stream_begin(x, type);
        set_heartbeat(op);
        ask(op);
    }
}
