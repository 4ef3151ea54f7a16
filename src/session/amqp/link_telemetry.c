/*
 * Telemetry of devices and modules (amqp.md section 3.4). The hot path: a delivery in place, its outcome once the log
 * has it. A device repeats what stands before the body, so what the last message's said is kept, and the next one costs
 * a comparison and an append.
 *
 *   delivery -> head known? -> nv_telemetry_send -> runs -> stored(n) -> the n oldest are settled
 *
 * What is in flight is remembered as runs of records, because outcomes are told by their number alone: messages of one
 * record each, a batch whose records share one outcome, and records that nobody waits for.
 */
#include "session/amqp/device_links.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "core/twin.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#define HEAD_MAX    4096u /* longer heads are read each time */
#define BUFFER_KEPT 4096u /* buffers beyond it are given back once nothing is in flight */
#define BATCH_MAX   4096u /* messages of one delivery */
#define OVERHEAD    65536u
#define RUNS_FIRST  4u

typedef enum run_kind {
    RUN_SINGLES, /* each record is a delivery */
    RUN_BATCH,   /* all records are one delivery */
    RUN_SILENT   /* settled by their sender, or of a link that is gone */
} run_kind;

typedef struct run {
    uint32_t records;
    run_kind kind;
    nv_err status; /* BATCH: the first failure */
    bool open;     /* BATCH: more of it will follow */
} run;

struct amqp_telemetry {
    amqp_device *device;
    struct telemetry_link *link; /* NULL: gone */
    amqp_fault *fault;
    /* what is in flight, oldest first */
    run *runs;
    uint32_t capacity; /* power of two, or 0 */
    uint32_t first;
    uint32_t count;
    uint32_t batch_sent; /* messages of the delivery that is offered again */
    bool blocked;        /* the log had no room: stored() tells */
    /* the head of the last message, and what it says in the log's words */
    bool known;
    nv_buf head;
    nv_buf properties;
    size_t counted; /* what the properties add to the size of a message */
    nv_buf scratch; /* bodies of several sections */
};

typedef struct telemetry_link {
    amqp_device_link base; /* first member */
    struct amqp_telemetry *telemetry;
} telemetry_link;

/* A message as the log takes it; spans point into the delivery and into the buffers above. */
typedef struct event {
    nv_span properties;
    size_t size;
    nv_span body;
    nv_body_kind kind;
} event;

/* ---- runs ----------------------------------------------------------------------------------------------------------
 */

static run *run_at(const struct amqp_telemetry *t, uint32_t i)
{
    return &t->runs[(t->first + i) & (t->capacity - 1)];
}

static void grow_runs(struct amqp_telemetry *t)
{
    uint32_t capacity = t->capacity ? 2 * t->capacity : RUNS_FIRST;
    run *runs = nv_malloc(capacity * sizeof(*runs));
    for (uint32_t i = 0; i < t->count; i++) {
        runs[i] = *run_at(t, i);
    }
    free(t->runs);
    t->runs = runs;
    t->capacity = capacity;
    t->first = 0;
}

/* One more record in flight. */
static void push_record(struct amqp_telemetry *t, run_kind kind)
{
    run *last = t->count > 0 ? run_at(t, t->count - 1) : NULL;
    if (NV_LIKELY(last && last->kind == kind && (kind != RUN_BATCH || last->open))) {
        last->records++;
        return;
    }
    if (t->count == t->capacity) {
        grow_runs(t);
    }
    *run_at(t, t->count++) = (run){.records = 1, .kind = kind, .open = kind == RUN_BATCH};
}

/* ---- outcomes ------------------------------------------------------------------------------------------------------
 */

static void settle_oldest(struct amqp_telemetry *t, uint32_t count, nv_err status)
{
    nv_amqp_outcome outcome = {.kind = NV_AMQP_OUT_ACCEPTED};
    char text[AMQP_DESCRIPTION];
    if (NV_UNLIKELY(status != NV_OK)) {
        nv_hub_error error = nv_hub_error_of(status);
        amqp_describe(t->device->server, error, "", text);
        outcome.kind = NV_AMQP_OUT_REJECTED;
        outcome.problem = (nv_amqp_problem){.condition = amqp_condition_of(error), .description = nv_span_str(text)};
    }
    nv_amqp_link_settle_oldest(t->link->base.link, count, &outcome);
}

/* Of @p n records of the first run the log has said what became of them. */
static void settle_in(struct amqp_telemetry *t, run *r, uint32_t n, nv_err status)
{
    r->records -= n;
    if (r->kind == RUN_SINGLES) {
        settle_oldest(t, n, status);
    } else if (r->kind == RUN_BATCH) {
        r->status = r->status == NV_OK ? status : r->status;
        if (r->records == 0 && !r->open) {
            settle_oldest(t, 1, r->status);
        }
    }
    if (r->records == 0 && !r->open) {
        t->first = (t->first + 1) & (t->capacity - 1);
        t->count--;
    }
}

static void settle_records(struct amqp_telemetry *t, uint32_t count, nv_err status)
{
    while (count > 0 && t->count > 0) {
        run *r = run_at(t, 0);
        uint32_t n = count < r->records ? count : r->records;
        assert(n > 0);
        settle_in(t, r, n, status);
        count -= n;
    }
}

static void say_not_stored(const amqp_device *device, uint32_t count, nv_err status)
{
    char detail[NV_REFUSAL_DETAIL];
    (void)snprintf(detail, sizeof(detail), "%u messages were not stored: %s", count, nv_err_text(status));
    nv_hub_refuse(amqp_hub(device->server), "amqp", device->server->conn.session.carrier->peer,
                  device->identity->device_id, device->identity->module_id, NV_REFUSAL_STORAGE, detail);
}

/* Large buffers last as long as what needed them. */
static void trim(struct amqp_telemetry *t)
{
    nv_buf *buffers[] = {&t->head, &t->properties, &t->scratch};
    if (t->device->client.pending > 0 || t->batch_sent > 0) {
        return;
    }
    for (size_t i = 0; i < NV_COUNT_OF(buffers); i++) {
        if (NV_UNLIKELY(buffers[i]->capacity > BUFFER_KEPT)) {
            nv_buf_deinit(buffers[i]);
            t->known = false;
        }
    }
}

static void on_stored(nv_telemetry_client *client, uint32_t count, nv_err status)
{
    amqp_device *device = nv_container_of(client, amqp_device, client);
    struct amqp_telemetry *t = device->telemetry;
    amqp_device_operation_begin(device);
    if (count > 0) {
        settle_records(t, count, status);
        trim(t);
    }
    if (NV_UNLIKELY(status != NV_OK)) {
        say_not_stored(device, count, status);
    } else if (count > 0 && t->link) {
        amqp_device_active(device);
    }
    if (NV_UNLIKELY(t->blocked)) {
        t->blocked = false;
        nv_amqp_conn_resume(&device->server->conn);
    }
    amqp_device_operation_end(device); /* the device may be gone */
}

/* ---- messages ------------------------------------------------------------------------------------------------------
 */

/* @p rest is one data section and nothing else, written as everybody does. */
static bool read_lone_data(nv_span rest, nv_span *body)
{
    const uint8_t *at = rest.ptr;
    if (NV_LIKELY(rest.len >= 5 && at[0] == 0x00 && at[1] == 0x53 && at[2] == NV_AMQP_DATA)) {
        if (at[3] == 0xa0) {
            *body = nv_span_skip(rest, 5);
            return body->len == at[4];
        }
        if (at[3] == 0xb0 && rest.len >= 8) {
            *body = nv_span_skip(rest, 8);
            return body->len == nv_load_u32_be(at + 4);
        }
    }
    return false;
}

static bool is_last_head(const struct amqp_telemetry *t, nv_span bytes)
{
    return t->known && nv_span_starts_with(bytes, nv_buf_span(&t->head));
}

/* Keep the head of a message whose body is a lone data section. */
static void keep_head(struct amqp_telemetry *t, nv_span bytes, const nv_amqp_message *m)
{
    nv_span body = NV_SPAN_EMPTY;
    if (m->body_kind != NV_AMQP_BODY_IS_DATA || m->sections != 1) {
        return;
    }
    size_t before = (size_t)(m->body.ptr - bytes.ptr);
    for (size_t head = 5; head <= 8 && before >= head; head += 3) {
        size_t len = before - head;
        if (len <= HEAD_MAX && read_lone_data(nv_span_skip(bytes, len), &body) && body.ptr == m->body.ptr) {
            nv_buf_clear(&t->head);
            t->known = nv_buf_append(&t->head, nv_span_first(bytes, len)) == NV_OK;
            return;
        }
    }
}

static nv_err learn(struct amqp_telemetry *t, nv_span bytes, event *out)
{
    nv_amqp_message message;
    t->known = false;
    nv_buf_clear(&t->properties);
    nv_buf_clear(&t->scratch);
    nv_err err = nv_amqp_message_read(bytes, &message);
    err = err == NV_OK ? amqp_record_of_message(&message, &t->properties, &t->scratch, &out->kind, &out->body) : err;
    err = err == NV_OK ? nv_record_size(nv_buf_span(&t->properties), NV_SPAN_EMPTY, &t->counted) : err;
    if (err == NV_OK) {
        keep_head(t, bytes, &message);
    }
    return err;
}

static nv_err read_event(struct amqp_telemetry *t, nv_span bytes, event *out)
{
    size_t head = nv_buf_len(&t->head);
    if (NV_LIKELY(is_last_head(t, bytes) && read_lone_data(nv_span_skip(bytes, head), &out->body))) {
        out->kind = NV_BODY_DATA;
    } else {
        nv_err err = learn(t, bytes, out);
        if (err != NV_OK) {
            return err;
        }
    }
    out->properties = nv_buf_span(&t->properties);
    out->size = out->body.len + t->counted;
    return NV_OK;
}

static void reject_size(const struct amqp_telemetry *t, const nv_amqp_delivery *d, size_t size)
{
    char text[AMQP_DESCRIPTION];
    char detail[128];
    (void)snprintf(detail, sizeof(detail), "%zu bytes with properties, the limit is %lld", size,
                   (long long)amqp_hub(t->device->server)->limits.message_bytes);
    amqp_describe(t->device->server, NV_HUB_ERROR_MessageTooLarge, detail, text);
    amqp_reject(t->link->base.link, d, NV_AMQP_ERR_MESSAGE_SIZE_EXCEEDED, text);
}

/* @return false: it is wrong, and was rejected */
static bool take_event(struct amqp_telemetry *t, const nv_amqp_delivery *d, nv_span bytes, event *out)
{
    nv_err err = read_event(t, bytes, out);
    if (NV_UNLIKELY(err != NV_OK)) {
        amqp_reject_unreadable(t->link->base.link, d, err);
        return false;
    }
    if (NV_UNLIKELY(out->size > (size_t)amqp_hub(t->device->server)->limits.message_bytes)) {
        reject_size(t, d, out->size);
        return false;
    }
    return true;
}

static nv_err send(struct amqp_telemetry *t, const event *e)
{
    return nv_telemetry_send_kind(amqp_loop(t->device->server)->telemetry, &t->device->client, NV_SOURCE_TELEMETRY,
                                  e->kind, e->properties, e->body);
}

/* ---- deliveries ----------------------------------------------------------------------------------------------------
 */

static bool on_single(struct amqp_telemetry *t, const nv_amqp_delivery *d, nv_span bytes)
{
    event e;
    if (!take_event(t, d, bytes, &e)) {
        return true;
    }
    if (NV_UNLIKELY(amqp_hub(t->device->server)->faults)) {
        if (amqp_fault_rejects(t->device, t->link->base.link, d)) {
            return true;
        }
        amqp_fault_order(t->device, &t->fault, e.properties);
    }
    nv_err err = send(t, &e);
    if (NV_LIKELY(err == NV_OK)) {
        push_record(t, d->settled ? RUN_SILENT : RUN_SINGLES);
        return true;
    }
    if (err == NV_E_AGAIN) {
        t->blocked = true;
        return false;
    }
    reject_size(t, d, e.size);
    return true;
}

/* All of it, before any of it is sent: a batch is stored whole, or not at all where that can be known. @p count: its
 * messages. @return false: it was rejected */
static bool check_batch(struct amqp_telemetry *t, const nv_amqp_delivery *d, uint32_t *count)
{
    nv_reader at = nv_reader_of(d->bytes);
    nv_span bytes;
    event e;
    *count = 0;
    while (nv_amqp_data_next(&at, &bytes)) {
        if (++*count > BATCH_MAX) {
            amqp_reject(t->link->base.link, d, NV_AMQP_ERR_ARGUMENT_OUT_OF_RANGE,
                        "more than 4,096 messages in a batch");
            return false;
        }
        if (!take_event(t, d, bytes, &e)) {
            return false;
        }
    }
    if (at.err != NV_OK) {
        amqp_reject_unreadable(t->link->base.link, d, at.err);
    }
    return at.err == NV_OK;
}

/* The last record of a batch is sent, or nothing more of it will be. */
static void close_batch(struct amqp_telemetry *t, nv_err status)
{
    run *r = t->count > 0 ? run_at(t, t->count - 1) : NULL;
    t->batch_sent = 0;
    if (!r || r->kind != RUN_BATCH || !r->open) {
        return;
    }
    r->open = false;
    r->status = r->status == NV_OK ? status : r->status;
    if (r->records == 0) { /* the log was quicker */
        settle_in(t, r, 0, r->status);
    }
}

static nv_err send_next(struct amqp_telemetry *t, const nv_amqp_delivery *d, nv_span bytes)
{
    event e;
    nv_err err = read_event(t, bytes, &e);
    if (err == NV_OK && NV_UNLIKELY(amqp_hub(t->device->server)->faults)) {
        amqp_fault_order(t->device, &t->fault, e.properties);
    }
    err = err == NV_OK ? send(t, &e) : err;
    if (err == NV_OK) {
        push_record(t, d->settled ? RUN_SILENT : RUN_BATCH);
        t->batch_sent++;
    }
    return err;
}

static bool on_batch(struct amqp_telemetry *t, const nv_amqp_delivery *d)
{
    uint32_t count = 0;
    if (t->batch_sent == 0) {
        if (amqp_hub(t->device->server)->faults && amqp_fault_rejects(t->device, t->link->base.link, d)) {
            return true;
        }
        if (!check_batch(t, d, &count)) {
            return true;
        }
        if (count == 0) {
            amqp_accept_one(t->link->base.link, d);
            return true;
        }
    }
    nv_reader at = nv_reader_of(d->bytes);
    nv_span bytes;
    nv_err err = NV_OK;
    for (uint32_t i = 0; err == NV_OK && nv_amqp_data_next(&at, &bytes); i++) {
        err = i < t->batch_sent ? NV_OK : send_next(t, d, bytes);
    }
    if (err == NV_E_AGAIN) {
        t->blocked = true;
        return false;
    }
    if (t->batch_sent == 0) { /* the log can never take its first */
        reject_size(t, d, d->bytes.len);
    } else {
        close_batch(t, err == NV_OK ? NV_OK : NV_E_TOO_BIG);
    }
    return true;
}

/* A batch of one, as the C SDK sends all of its telemetry, is a message in a wrapper. */
static bool lone_message(nv_span batch, nv_span *bytes)
{
    nv_reader at = nv_reader_of(batch);
    return nv_amqp_data_next(&at, bytes) && nv_reader_left(&at) == 0;
}

static bool on_delivery(nv_amqp_link *link, const nv_amqp_delivery *d)
{
    struct amqp_telemetry *t = ((telemetry_link *)link->owner)->telemetry;
    nv_span bytes = d->bytes;
    if (NV_UNLIKELY(t->device->server->draining)) {
        return false;
    }
    if (NV_LIKELY(d->format == 0)) {
        return on_single(t, d, bytes);
    }
    if (d->format != NV_AMQP_FORMAT_BATCH) {
        amqp_reject(link, d, NV_AMQP_ERR_NOT_IMPLEMENTED, "message formats are 0 and 0x80013700");
        return true;
    }
    return t->batch_sent == 0 && lone_message(bytes, &bytes) ? on_single(t, d, bytes) : on_batch(t, d);
}

/* ---- links ---------------------------------------------------------------------------------------------------------
 */

/* What is in flight is stored all the same, and nobody waits for it. */
static void end_link(amqp_device_link *self)
{
    struct amqp_telemetry *t = nv_container_of(self, telemetry_link, base)->telemetry;
    for (uint32_t i = 0; i < t->count; i++) {
        run *r = run_at(t, i);
        r->kind = RUN_SILENT;
        r->open = false;
    }
    if (t->count > 0 && run_at(t, t->count - 1)->records == 0) { /* a batch that will not go on */
        t->count--;
    }
    t->batch_sent = 0;
    t->link = NULL;
    free(self);
}

static const nv_amqp_link_ops ops = {.delivery = on_delivery, .detached = amqp_device_link_detached};

/* ---- the sender as the log knows it ---------------------------------------------------------------------------------
 */

/* A model id may come with a later link: it holds from then on, unless something is still in flight. */
static void use_stamp(amqp_device *device, nv_span model_id)
{
    size_t len = 0;
    uint8_t *stamp = nv_telemetry_stamp_new(device->identity, model_id, device->scope, device->type, &len);
    bool same = device->stamp && nv_span_eq(device->client.stamp.bytes, nv_span_of(stamp, len));
    if (same || device->client.pending > 0) {
        free(stamp);
        return;
    }
    nv_telemetry_client_deinit(&device->client);
    free(device->stamp);
    device->stamp = stamp;
    device->client.stored = on_stored;
    nv_telemetry_client_init(amqp_loop(device->server)->telemetry, &device->client, device->identity->device_id,
                             nv_span_of(stamp, len));
    if (model_id.len > 0) {
        nv_twin_announce_model(amqp_loop(device->server), device->identity, model_id);
    }
}

static struct amqp_telemetry *telemetry_of(amqp_device *device)
{
    if (!device->telemetry) {
        size_t max = (size_t)amqp_hub(device->server)->limits.message_bytes + OVERHEAD;
        struct amqp_telemetry *t = nv_calloc(1, sizeof(*t));
        t->device = device;
        nv_buf_init(&t->head, HEAD_MAX);
        nv_buf_init(&t->properties, max);
        nv_buf_init(&t->scratch, max);
        device->telemetry = t;
    }
    return device->telemetry;
}

void amqp_open_telemetry(amqp_server *s, amqp_device *device, nv_amqp_link *link, const amqp_address *address)
{
    (void)address;
    use_stamp(device, amqp_link_property(link, "com.microsoft:model-id"));
    struct amqp_telemetry *t = telemetry_of(device);
    telemetry_link *l = nv_calloc(1, sizeof(*l));
    l->base.end = end_link;
    l->telemetry = t;
    amqp_device_link_add(device, &l->base, link); /* an older one is ended here */
    t->link = l;
    nv_amqp_accept accept = {.ops = &ops, .owner = l, .credit = nv_limit_31(amqp_hub(s)->limits.amqp_credit)};
    nv_amqp_link_accept(link, &accept);
}

amqp_device_link *amqp_telemetry_link(const amqp_device *device)
{
    return device->telemetry && device->telemetry->link ? &device->telemetry->link->base : NULL;
}

void amqp_telemetry_free(struct amqp_telemetry *telemetry)
{
    if (!telemetry) {
        return;
    }
    nv_telemetry_client_deinit(&telemetry->device->client);
    amqp_fault_free(telemetry->fault);
    nv_buf_deinit(&telemetry->head);
    nv_buf_deinit(&telemetry->properties);
    nv_buf_deinit(&telemetry->scratch);
    free(telemetry->runs);
    free(telemetry);
}
