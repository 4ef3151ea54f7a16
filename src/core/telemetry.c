/*
 * Two batches take turns: one collects while the other is in flight. A turn's input goes into the open batch; at the
 * end of the turn the batch is submitted unless one is in flight, else it goes when that one completes. So the log's
 * commits pace the batches, without a timer, and a lone message never waits.
 *
 * A batch that fills up within a turn is submitted early and a spare takes its place; when all are in flight, senders
 * are turned away and told when there is room.
 *
 *   send -> [open] --turn end / completion--> fifo: [in flight] [in flight] -> done -> stored() per client
 */
#include "core/telemetry.h"

#include "base/alloc.h"
#include "base/attrs.h"
#include "base/metrics.h"

#include <assert.h>
#include <stdlib.h>

#define BATCHES 4u /* two take turns, two are for bursts */

/* What one client has in a batch. */
typedef struct share {
    nv_telemetry_client *client;
    uint32_t count;
} share;

typedef enum batch_state { BATCH_FREE, BATCH_OPEN, BATCH_FLYING, BATCH_FINISHED } batch_state;

typedef struct batch {
    nv_list fifo; /* in nv_telemetry.fifo while flying or finished */
    batch_state state;
    nv_telemetry *telemetry;
    nv_log_batch *records;
    uint64_t serial; /* of its current filling; never 0, so that a zeroed client is in none */
    share *shares;
    uint32_t share_count;
    uint32_t share_capacity;
    int64_t body_bytes;
    nv_err status; /* when finished */
} batch;

struct nv_telemetry {
    nv_hub_loop *loop;
    batch *open; /* NULL: all are in flight */
    nv_list fifo;
    nv_list waiting; /* clients that were turned away */
    uint64_t next_serial;
    uint32_t flying;
    bool delivering;
    batch batches[BATCHES];
};

static void on_done(nv_log_batch *records, nv_err status, void *arg);

nv_telemetry *nv_telemetry_new(nv_hub_loop *loop)
{
    nv_telemetry *telemetry = nv_calloc(1, sizeof(*telemetry));
    telemetry->loop = loop;
    nv_list_init(&telemetry->fifo);
    nv_list_init(&telemetry->waiting);
    for (size_t i = 0; i < BATCHES; i++) {
        nv_list_init(&telemetry->batches[i].fifo);
        telemetry->batches[i].telemetry = telemetry;
    }
    return telemetry;
}

void nv_telemetry_free(nv_telemetry *telemetry)
{
    if (!telemetry) {
        return;
    }
    assert(telemetry->flying == 0 && nv_list_empty(&telemetry->fifo));
    for (size_t i = 0; i < BATCHES; i++) {
        nv_log_batch_free(telemetry->batches[i].records);
        free(telemetry->batches[i].shares);
    }
    free(telemetry);
}

uint8_t *nv_telemetry_stamp_new(const nv_identity *sender, nv_span model_id, nv_auth_scope scope, nv_auth_type type,
                                size_t *len)
{
    nv_stamp stamp = {.device_id = sender->device_id,
                      .module_id = sender->module_id,
                      .generation_id = sender->generation_id,
                      .model_id = model_id,
                      .scope = scope,
                      .type = type};
    nv_buf encoded;
    nv_buf_init(&encoded, UINT16_MAX);
    nv_err err = nv_stamp_encode(&encoded, &stamp);
    if (err != NV_OK) {
        stamp.model_id = NV_SPAN_EMPTY; /* without it there is room: ids are short */
        err = nv_stamp_encode(&encoded, &stamp);
    }
    *len = err == NV_OK ? nv_buf_len(&encoded) : 0;
    uint8_t *bytes = nv_malloc(*len + 1); /* as many as it takes: every sender that is connected has them */
    if (*len > 0) {
        memcpy(bytes, nv_buf_span(&encoded).ptr, *len);
    }
    nv_buf_deinit(&encoded);
    return bytes;
}

void nv_telemetry_client_init(nv_telemetry *telemetry, nv_telemetry_client *client, nv_span device_id, nv_span stamp)
{
    nv_hub *hub = telemetry->loop->hub;
    client->pending = 0;
    client->partition = nv_log_partition_of(hub->log, device_id);
    client->stamp = (nv_log_stamp){nv_hub_next_stamp_id(hub), stamp};
    client->_batch = 0;
    client->_share = 0;
    nv_list_init(&client->_waiting);
}

void nv_telemetry_client_deinit(nv_telemetry_client *client)
{
    if (client->_waiting.next) {
        nv_list_remove(&client->_waiting);
    }
}

/* ---- filling ---------------------------------------------------------------------------------------------- */

static bool open_batch(nv_telemetry *telemetry)
{
    for (size_t i = 0; i < BATCHES && !telemetry->open; i++) {
        batch *b = &telemetry->batches[i];
        if (b->state == BATCH_FREE) {
            if (!b->records) {
                b->records = nv_log_batch_new(telemetry->loop->hub->log, telemetry->loop->exec, on_done, b);
            }
            b->state = BATCH_OPEN;
            b->serial = ++telemetry->next_serial;
            telemetry->open = b;
        }
    }
    return telemetry->open != NULL;
}

static void add_share(batch *b, nv_telemetry_client *client)
{
    if (b->share_count == b->share_capacity) {
        b->share_capacity = b->share_capacity ? b->share_capacity * 2 : 64;
        b->shares = nv_realloc(b->shares, b->share_capacity * sizeof(*b->shares));
    }
    client->_batch = b->serial;
    client->_share = b->share_count;
    b->shares[b->share_count++] = (share){client, 0};
}

/* Hand the open batch over. Refused or not, it stands in the fifo now, so that clients hear of it in order. */
static void submit(nv_telemetry *telemetry)
{
    batch *b = telemetry->open;
    telemetry->open = NULL;
    nv_list_push_back(&telemetry->fifo, &b->fifo);
    b->status = nv_log_submit(b->records);
    if (b->status == NV_OK) {
        b->state = BATCH_FLYING;
        telemetry->flying++;
    } else {
        b->state = BATCH_FINISHED;
    }
}

static nv_err turn_away(nv_telemetry *telemetry, nv_telemetry_client *client)
{
    if (!nv_list_linked(&client->_waiting)) {
        nv_list_push_back(&telemetry->waiting, &client->_waiting);
    }
    return NV_E_AGAIN;
}

nv_err nv_telemetry_send_kind(nv_telemetry *telemetry, nv_telemetry_client *client, nv_source source, nv_body_kind kind,
                              nv_span properties, nv_span body)
{
    if (NV_UNLIKELY(!telemetry->open) && !open_batch(telemetry)) {
        return turn_away(telemetry, client);
    }
    batch *b = telemetry->open;
    nv_err err = nv_log_batch_add(b->records, client->partition, &client->stamp, source, kind, properties, body);
    if (NV_UNLIKELY(err == NV_E_AGAIN)) {
        submit(telemetry);
        if (!open_batch(telemetry)) {
            return turn_away(telemetry, client);
        }
        b = telemetry->open;
        err = nv_log_batch_add(b->records, client->partition, &client->stamp, source, kind, properties, body);
    }
    if (NV_UNLIKELY(err != NV_OK)) {
        return err;
    }
    if (client->_batch != b->serial) {
        add_share(b, client);
    }
    b->shares[client->_share].count++;
    b->body_bytes += (int64_t)body.len;
    client->pending++;
    return NV_OK;
}

nv_err nv_telemetry_send(nv_telemetry *telemetry, nv_telemetry_client *client, nv_source source, nv_span properties,
                         nv_span body)
{
    return nv_telemetry_send_kind(telemetry, client, source, NV_BODY_DATA, properties, body);
}

/* ---- completing ------------------------------------------------------------------------------------------- */

static void count_batch(const batch *b)
{
    int64_t messages = (int64_t)nv_log_batch_count(b->records);
    if (b->status == NV_OK) {
        nv_metric_add(NV_M_TELEMETRY_MESSAGES, messages);
        nv_metric_add(NV_M_TELEMETRY_BYTES, b->body_bytes);
    } else {
        nv_metric_add(NV_M_TELEMETRY_FAILED, messages);
    }
}

static void tell_clients(batch *b)
{
    count_batch(b);
    for (uint32_t i = 0; i < b->share_count; i++) {
        nv_telemetry_client *client = b->shares[i].client;
        client->pending -= b->shares[i].count;
        client->stored(client, b->shares[i].count, b->status); /* the client may be gone after this */
    }
    b->share_count = 0;
    b->body_bytes = 0;
    nv_log_batch_clear(b->records);
    b->state = BATCH_FREE;
}

static void tell_waiting(nv_telemetry *telemetry)
{
    nv_list told;
    nv_list_init(&told);
    nv_list_splice(&told, &telemetry->waiting); /* who is turned away again goes to the next round */
    for (nv_list *node = nv_list_pop_front(&told); node; node = nv_list_pop_front(&told)) {
        nv_telemetry_client *client = nv_container_of(node, nv_telemetry_client, _waiting);
        client->stored(client, 0, NV_OK);
    }
}

/* Tell the clients of every batch at the head of the fifo that is finished. */
static void deliver(nv_telemetry *telemetry)
{
    if (telemetry->delivering) {
        return;
    }
    telemetry->delivering = true;
    bool any = false;
    while (!nv_list_empty(&telemetry->fifo)) {
        batch *head = nv_container_of(telemetry->fifo.next, batch, fifo);
        if (head->state != BATCH_FINISHED) {
            break;
        }
        nv_list_remove(&head->fifo);
        tell_clients(head);
        any = true;
    }
    telemetry->delivering = false;
    if (any && !nv_list_empty(&telemetry->waiting)) {
        tell_waiting(telemetry);
    }
}

static bool ready_to_submit(const nv_telemetry *telemetry)
{
    return telemetry->open && telemetry->open->share_count > 0 && telemetry->flying == 0;
}

static void on_done(nv_log_batch *records, nv_err status, void *arg)
{
    (void)records;
    batch *b = arg;
    nv_telemetry *telemetry = b->telemetry;
    b->state = BATCH_FINISHED;
    b->status = status;
    telemetry->flying--;
    if (status == NV_OK && ready_to_submit(telemetry)) {
        submit(telemetry); /* first, so that the log works while the acknowledgements are written */
    }
    deliver(telemetry);
    nv_telemetry_turn_end(telemetry);
}

void nv_telemetry_turn_end(nv_telemetry *telemetry)
{
    if (ready_to_submit(telemetry)) {
        submit(telemetry);
    }
    deliver(telemetry); /* what the log refused */
}
