/*
 * Readers of the Event Hubs-compatible endpoint (amqp.md sections 5.5 to 5.7): one link reads one partition for one
 * consumer group, at the pace of its credit, straight from the log.
 *
 *   log reader --chunk--> records --head + body--> nv_amqp_link_send --> the connection's output --> peer
 *        ^                                              |
 *        +--- next chunk, only when this one is used up-+-- no credit, output over its mark: room() goes on
 *                                                       +-- enough for one turn: the others come first
 *
 * A link holds at most one chunk, shares its bytes with the log where it can, and copies them once, into the output.
 * Nothing here waits for a peer, so a slow one costs its chunk and no time.
 */
#include "session/amqp/server_internal.h"

#include "base/alloc.h"
#include "core/event_hub.h"
#include "session/amqp/event_message.h"
#include "session/amqp/filter.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* Written in one go before other links and connections have their turn. */
#define TURN_BYTES (128u << 10)

#define METRIC_CAPABILITY "com.microsoft:enable-receiver-runtime-metric"

typedef struct events_link {
    nv_receiver receiver;
    nv_amqp_link *link; /* NULL: gone */
    amqp_server *server;
    nv_log_reader *reader;
    nv_log_chunk *chunk;
    nv_record record; /* taken from the chunk, not sent yet */
    bool has_record;
    bool asked;   /* the reader owes a chunk */
    bool posted;  /* turn is on its way */
    bool opening; /* the receiver's answer is awaited */
    bool closed;  /* the receiver is */
    bool metrics; /* the peer wants them */
    bool started; /* next_sequence is known */
    uint64_t next_sequence;
    amqp_position position;
    nv_task turn;
    amqp_event_head head;
} events_link;

static void pump(events_link *self);

/* ---- the end ------------------------------------------------------------------------------------------------ */

static void release(events_link *self)
{
    if (self->closed && !self->posted) {
        amqp_server *s = self->server;
        free(self);
        amqp_operation_end(s);
    }
}

static void answered(events_link *self)
{
    if (self->opening) {
        self->opening = false;
        amqp_operation_end(self->server);
    }
}

static void receiver_closed(nv_receiver *receiver)
{
    events_link *self = nv_container_of(receiver, events_link, receiver);
    self->closed = true;
    answered(self);
    release(self);
}

/** The link is over: nothing of it is used any more. The connection lives until its receiver is closed. */
static void end(events_link *self)
{
    amqp_operation_begin(self->server);
    self->link = NULL;
    nv_log_reader_close(self->reader);
    self->reader = NULL;
    if (self->chunk) {
        nv_log_chunk_release(self->chunk);
        self->chunk = NULL;
    }
    self->has_record = false;
    amqp_event_head_deinit(&self->head);
    nv_receiver_close(&self->receiver, receiver_closed);
}

static void detach(events_link *self, nv_amqp_condition condition, const char *text)
{
    nv_amqp_link *link = self->link;
    end(self);
    nv_amqp_link_detach(link, condition, text);
}

/* ---- reading ------------------------------------------------------------------------------------------------ */

static void read_done(void *arg, nv_err status, nv_log_chunk *chunk)
{
    events_link *self = arg;
    self->asked = false;
    if (status == NV_OK) {
        self->chunk = chunk;
    } else if (status != NV_E_GONE) { /* gone: retention was faster, the oldest there is follows */
        nv_subject who = {.connection = self->server->conn.session.carrier->peer->connection_id};
        nv_diag(NV_LEVEL_ERROR, "amqp", &who, "reading events of partition %" PRIu32 " failed: %s",
                self->receiver.partition, nv_err_text(status));
        detach(self, NV_AMQP_ERR_INTERNAL_ERROR, "the hub cannot read its event log: see its own log for the cause");
        return;
    }
    pump(self);
}

static void ask(events_link *self)
{
    if (!self->asked) {
        self->asked = true;
        nv_log_reader_next(self->reader, read_done, self);
    }
}

/** The next record to send into self->record. @return false: the chunk is used up */
static bool take_record(events_link *self)
{
    if (!self->has_record && self->chunk) {
        self->has_record = nv_log_chunk_next(self->chunk, &self->record);
        if (!self->has_record) {
            nv_log_chunk_release(self->chunk);
            self->chunk = NULL;
        }
    }
    return self->has_record;
}

/** Is everything sent that there is now? Otherwise the reader will bring it. */
static bool is_up_to_date(const events_link *self)
{
    nv_log_partition_info info;
    if (nv_log_get_partition(amqp_hub(self->server)->log, self->receiver.partition, &info) != NV_OK ||
        info.first_sequence == info.next_sequence) {
        return true;
    }
    if (self->started) {
        return self->next_sequence >= info.next_sequence;
    }
    switch (self->position.kind) {
    case AMQP_FROM_SEQUENCE:
        return self->position.first >= info.next_sequence;
    case AMQP_FROM_OFFSET:
        return self->position.first > info.last_offset;
    case AMQP_FROM_TIME:
        return self->position.time_us > info.last_enqueued_us;
    case AMQP_FROM_LATEST: /* position.first: where the end was */
        return self->position.first >= info.next_sequence;
    case AMQP_FROM_BEGINNING:
        return false;
    }
    return false;
}

/* ---- sending ------------------------------------------------------------------------------------------------ */

static void refresh_metrics(events_link *self)
{
    const nv_hub *hub = amqp_hub(self->server);
    nv_log_partition_info info;
    if (self->metrics && nv_log_get_partition(hub->log, self->receiver.partition, &info) == NV_OK) {
        amqp_event_head_set_metrics(&self->head, &info, nv_wall_us(hub->clock));
    }
}

static void too_big(events_link *self)
{
    char text[160];
    (void)snprintf(text, sizeof(text),
                   "event %" PRIu64 " of partition %" PRIu32
                   " is larger than the max-message-size of this link (%" PRIu64 " bytes)",
                   self->record.sequence, self->record.partition, self->link->peer_max_message);
    detach(self, NV_AMQP_ERR_MESSAGE_SIZE_EXCEEDED, text);
}

/** @return bytes that were sent; 0: there was no room, or the link is over */
static size_t send_record(events_link *self)
{
    nv_amqp_link *link = self->link;
    uint32_t id;
    nv_amqp_send send = {.settled = link->snd_settle_mode == 1,
                         .head = amqp_event_head_of(&self->head, &self->record),
                         .body = self->record.body};
    nv_err err = nv_amqp_link_send(link, &send, &id);
    if (err == NV_E_TOO_BIG) {
        too_big(self);
    } else if (err != NV_OK && err != NV_E_AGAIN) {
        detach(self, NV_AMQP_ERR_RESOURCE_LIMIT_EXCEEDED, "the hub is short of memory: try again later");
    }
    if (err != NV_OK) {
        return 0;
    }
    self->has_record = false;
    self->started = true;
    self->next_sequence = self->record.sequence + 1;
    return send.head.len + send.body.len;
}

static void on_turn(nv_task *task)
{
    events_link *self = nv_container_of(task, events_link, turn);
    self->posted = false;
    if (self->link) {
        pump(self);
    } else {
        release(self);
    }
}

/** The rest comes when others had their turn. */
static void yield(events_link *self)
{
    if (!self->posted) {
        self->posted = true;
        self->turn.run = on_turn;
        nv_post(amqp_loop(self->server)->exec, &self->turn);
    }
}

/** Send what there is and the peer has room for. */
static void pump(events_link *self)
{
    size_t sent = 0;
    bool fresh = false;
    while (self->link && nv_amqp_link_room(self->link)) {
        if (sent >= TURN_BYTES) {
            yield(self);
            return;
        }
        if (!take_record(self)) {
            ask(self);
            break;
        }
        if (!fresh) {
            fresh = true;
            refresh_metrics(self);
        }
        size_t bytes = send_record(self);
        if (bytes == 0) {
            return;
        }
        sent += bytes;
    }
    bool used_up = !self->has_record && !self->chunk;
    if (self->link && self->link->drain && (self->link->credit == 0 || (used_up && is_up_to_date(self)))) {
        nv_amqp_link_drained(self->link);
    }
}

static void on_room(nv_amqp_link *link)
{
    events_link *self = link->owner;
    if (!self->posted && self->reader) {
        pump(self);
    }
}

static void on_detached(nv_amqp_link *link, const nv_amqp_problem *problem)
{
    (void)problem;
    end(link->owner);
}

static const nv_amqp_link_ops ops = {.room = on_room, .detached = on_detached};

/* ---- opening ------------------------------------------------------------------------------------------------ */

static nv_err open_reader(events_link *self)
{
    const nv_hub *hub = amqp_hub(self->server);
    nv_log_partition_info info = {0};
    nv_log_read_options options = {.partitions = UINT32_C(1) << self->receiver.partition, .follow = true};
    switch (self->position.kind) {
    case AMQP_FROM_BEGINNING:
        options.from = NV_LOG_FROM_BEGINNING;
        break;
    case AMQP_FROM_LATEST:
        options.from = NV_LOG_FROM_NOW;
        break;
    case AMQP_FROM_OFFSET:
        options.from = NV_LOG_FROM_OFFSET;
        options.offset = self->position.first;
        break;
    case AMQP_FROM_SEQUENCE:
        options.from = NV_LOG_FROM_SEQUENCE;
        options.sequence = self->position.first;
        break;
    case AMQP_FROM_TIME:
        options.from = NV_LOG_FROM_TIME;
        options.time_us = self->position.time_us;
        break;
    }
    nv_err err = nv_log_get_partition(hub->log, self->receiver.partition, &info);
    if (self->position.kind == AMQP_FROM_LATEST) {
        self->position.first = info.next_sequence;
    }
    return err == NV_OK ? nv_log_reader_open(&self->reader, hub->log, &options, amqp_loop(self->server)->exec) : err;
}

static void refuse(events_link *self, nv_amqp_condition condition, const char *text)
{
    nv_amqp_link *link = self->link;
    end(self);
    amqp_refuse(self->server, link, condition, text);
}

static void begin(events_link *self, nv_receiver_verdict verdict)
{
    switch (verdict) {
    case NV_RECEIVER_OK:
        break;
    case NV_RECEIVER_STOLEN:
        refuse(self, NV_AMQP_ERR_STOLEN,
               "a receiver with a higher epoch (owner level) reads this partition for this consumer group");
        return;
    case NV_RECEIVER_TOO_MANY:
        refuse(self, NV_AMQP_ERR_RESOURCE_LIMIT_EXCEEDED,
               "as many receivers as are allowed read this partition for this consumer group: use another group, or an "
               "epoch");
        return;
    case NV_RECEIVER_NO_GROUP:
        refuse(self, NV_AMQP_ERR_NOT_FOUND, "there is no such consumer group");
        return;
    }
    if (open_reader(self) != NV_OK) {
        refuse(self, NV_AMQP_ERR_INTERNAL_ERROR, "the hub cannot read its event log");
        return;
    }
    nv_amqp_link_accept(self->link, &(nv_amqp_accept){.ops = &ops, .owner = self});
}

static void opened(nv_receiver *receiver, nv_receiver_verdict verdict)
{
    events_link *self = nv_container_of(receiver, events_link, receiver);
    begin(self, verdict);
    answered(self); /* a refusal is still being closed */
}

static void evicted(nv_receiver *receiver, nv_receiver_verdict why)
{
    events_link *self = nv_container_of(receiver, events_link, receiver);
    if (why == NV_RECEIVER_NO_GROUP) {
        detach(self, NV_AMQP_ERR_NOT_FOUND, "the consumer group was deleted");
    } else {
        detach(self, NV_AMQP_ERR_STOLEN,
               "a receiver with an epoch (owner level) at least as high took this partition for this consumer group");
    }
}

/* What is asked for, or what is wrong with it. */
typedef struct asking {
    const amqp_address *address;
    const nv_amqp_link *link;
    uint32_t partition;
    bool has_epoch;
    int64_t epoch;
    amqp_position position;
    nv_amqp_condition condition; /* NONE: nothing is wrong */
    char why[AMQP_FILTER_WHY];
} asking;

static void fail(asking *a, nv_amqp_condition condition, const char *why)
{
    a->condition = condition;
    (void)snprintf(a->why, sizeof(a->why), "%s", why);
}

static void read_node(asking *a, nv_hub *hub)
{
    uint64_t partition = 0;
    if (!nv_event_hub_is_entity(hub, a->address->entity)) {
        fail(a, NV_AMQP_ERR_NOT_FOUND, "there is no such event hub: see EntityPath of `nave hub show`");
    } else if (!nv_group_exists(hub, a->address->group)) {
        fail(a, NV_AMQP_ERR_NOT_FOUND, "there is no such consumer group");
    } else if (!nv_span_to_u64(a->address->partition, &partition) || partition >= nv_log_partitions(hub->log)) {
        (void)snprintf(a->why, sizeof(a->why), "there is no such partition: they are 0 to %" PRIu32,
                       nv_log_partitions(hub->log) - 1);
        a->condition = NV_AMQP_ERR_NOT_FOUND;
    }
    a->partition = (uint32_t)partition;
}

static void read_epoch(asking *a)
{
    nv_amqp_value properties;
    nv_amqp_value epoch;
    nv_reader r = nv_reader_of(a->link->attach->properties);
    if (a->link->attach->properties.len == 0 || !nv_amqp_read(&r, &properties) ||
        !nv_amqp_map_find(&properties, "com.microsoft:epoch", &epoch) || epoch.type == NV_AMQP_NULL) {
        return;
    }
    a->has_epoch = true;
    if (!nv_amqp_to_i64(&epoch, &a->epoch) || a->epoch < 0) {
        fail(a, NV_AMQP_ERR_ARGUMENT_ERROR, "com.microsoft:epoch is a number of type long, not below 0");
    }
}

static void read_position(asking *a)
{
    nv_span filter = a->link->source ? a->link->source->filter : NV_SPAN_EMPTY;
    nv_err err = amqp_filter_read(filter, &a->position, a->why);
    if (err != NV_OK) {
        a->condition = err == NV_E_SYNTAX ? NV_AMQP_ERR_ARGUMENT_ERROR : NV_AMQP_ERR_INVALID_FIELD;
    }
}

/** A place that was never reached names another log, one of an earlier life perhaps: to wait for it would be silent. */
static void check_position(asking *a, nv_hub *hub)
{
    nv_log_partition_info info;
    char last[24];
    if (nv_log_get_partition(hub->log, a->partition, &info) != NV_OK) {
        return;
    }
    if (a->position.kind == AMQP_FROM_SEQUENCE && a->position.first > (info.next_sequence ? info.next_sequence : 1)) {
        a->condition = NV_AMQP_ERR_ARGUMENT_ERROR;
        (void)snprintf(a->why, sizeof(a->why),
                       "The supplied sequence number '%" PRIu64
                       "' is invalid. The last sequence number in the system is "
                       "'%" PRId64 "'",
                       a->position.first - 1, amqp_last_sequence(&info));
    }
    uint64_t end = info.next_sequence > 0 ? info.last_offset + 1 : 1; /* "> 0" is written for "all there is" */
    if (a->position.kind == AMQP_FROM_OFFSET && a->position.first > end) {
        a->condition = NV_AMQP_ERR_ARGUMENT_ERROR;
        (void)amqp_last_offset(&info, last);
        (void)snprintf(a->why, sizeof(a->why),
                       "The supplied offset '%" PRIu64 "' is invalid. The last offset in the system is '%s'",
                       a->position.first - 1, last);
    }
}

/** One symbol, or an array of them. */
static bool desires(nv_span capabilities, const char *name)
{
    nv_reader r = nv_reader_of(capabilities);
    nv_amqp_value value;
    nv_amqp_value element;
    if (capabilities.len == 0 || !nv_amqp_read(&r, &value)) {
        return false;
    }
    if (value.type != NV_AMQP_ARRAY) {
        return nv_amqp_is_text(&value) && nv_span_eq_str(value.bytes, name);
    }
    nv_reader at = nv_reader_of(value.bytes);
    while (nv_amqp_array_next(&value, &at, &element)) {
        if (nv_amqp_is_text(&element) && nv_span_eq_str(element.bytes, name)) {
            return true;
        }
    }
    return false;
}

void amqp_open_events(amqp_server *s, amqp_device *device, nv_amqp_link *link, const amqp_address *address)
{
    (void)device;
    nv_hub *hub = amqp_hub(s);
    asking a = {.address = address, .link = link, .condition = NV_AMQP_ERR_NONE};
    read_node(&a, hub);
    if (a.condition == NV_AMQP_ERR_NONE) {
        read_epoch(&a);
    }
    if (a.condition == NV_AMQP_ERR_NONE) {
        read_position(&a);
    }
    if (a.condition == NV_AMQP_ERR_NONE) {
        check_position(&a, hub);
    }
    if (a.condition != NV_AMQP_ERR_NONE) {
        amqp_refuse(s, link, a.condition, a.why);
        return;
    }
    events_link *self = nv_calloc(1, sizeof(*self));
    self->link = link;
    self->server = s;
    self->position = a.position;
    self->metrics = desires(link->attach->desired_capabilities, METRIC_CAPABILITY);
    self->receiver = (nv_receiver){.group = address->group,
                                   .partition = a.partition,
                                   .has_epoch = a.has_epoch,
                                   .epoch = a.epoch,
                                   .opened = opened,
                                   .evicted = evicted};
    link->ops = &ops;
    link->owner = self;
    self->opening = true;
    amqp_operation_begin(s);
    nv_receiver_open(amqp_loop(s), &self->receiver);
}
