/*
 * $management of the Event Hubs-compatible endpoint (amqp.md section 5.4): what partitions there are and where they
 * stand. A request comes on a link that the peer sends on, its answer goes out on one that it receives on.
 */
#include "session/amqp/server_internal.h"

#include "base/alloc.h"
#include "core/event_hub.h"
#include "session/amqp/event_message.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define REQUEST_CREDIT 100u
#define WAITING_MAX    64u                 /* answers for which the peer has given no credit yet */
#define WAITING_TOTAL  (16u * WAITING_MAX) /* of all links of a connection */
#define ADDRESS_MAX    1024u
#define ANSWER_MAX     8192u
#define MESSAGE_ID_MAX 1024u

/* ---- links -------------------------------------------------------------------------------------------------- */

/** An answer that waits. */
typedef struct answer {
    size_t len;
    uint8_t bytes[];
} answer;

/** A link that answers go out on. */
typedef struct reply_link {
    char *address;                /* its target, as reply-to may name it; owned */
    answer *waiting[WAITING_MAX]; /* a ring */
    uint32_t first;
    uint32_t count;
} reply_link;

/** A link that requests come on. */
typedef struct request_link {
    char *entity; /* of its address, empty: none; owned */
} request_link;

static nv_err send_answer(nv_amqp_link *link, nv_span bytes)
{
    uint32_t id;
    nv_amqp_send send = {.settled = link->snd_settle_mode != 0, .head = bytes};
    return nv_amqp_link_room(link) ? nv_amqp_link_send(link, &send, &id) : NV_E_AGAIN;
}

static void on_room(nv_amqp_link *link)
{
    reply_link *self = link->owner;
    while (self->count > 0) {
        answer *first = self->waiting[self->first];
        if (send_answer(link, nv_span_of(first->bytes, first->len)) == NV_E_AGAIN) {
            break;
        }
        free(first);
        self->first = (self->first + 1) % WAITING_MAX;
        self->count--;
        amqp_server_of(link)->answers_waiting--;
    }
    if (link->drain && (self->count == 0 || link->credit == 0)) {
        nv_amqp_link_drained(link);
    }
}

static void on_reply_detached(nv_amqp_link *link, const nv_amqp_problem *problem)
{
    (void)problem;
    reply_link *self = link->owner;
    for (uint32_t i = 0; i < self->count; i++) {
        free(self->waiting[(self->first + i) % WAITING_MAX]);
    }
    amqp_server_of(link)->answers_waiting -= self->count;
    free(self->address);
    free(self);
}

static const nv_amqp_link_ops reply_ops = {.room = on_room, .detached = on_reply_detached};

/** There is room for one more. */
static void put_answer(nv_amqp_link *link, nv_span bytes)
{
    reply_link *self = link->owner;
    if (self->count == 0 && send_answer(link, bytes) != NV_E_AGAIN) {
        return;
    }
    answer *waits = nv_malloc(sizeof(*waits) + bytes.len);
    waits->len = bytes.len;
    memcpy(waits->bytes, bytes.ptr, bytes.len);
    self->waiting[(self->first + self->count++) % WAITING_MAX] = waits;
    amqp_server_of(link)->answers_waiting++;
}

static bool answers_to(const nv_amqp_link *link, nv_span reply_to)
{
    const reply_link *self = link->owner;
    return reply_to.len > 0 && (nv_span_eq(link->name, reply_to) || nv_span_eq_str(reply_to, self->address));
}

/** The link of a session that is asked for, else its first. */
static nv_amqp_link *find_in_session(const nv_amqp_session *session, nv_span reply_to, bool any)
{
    nv_amqp_link *first = NULL;
    for (nv_list *node = session->links.next; node != &session->links; node = node->next) {
        nv_amqp_link *link = nv_container_of(node, nv_amqp_link, _node);
        if (link->ops != &reply_ops) {
            continue;
        }
        if (answers_to(link, reply_to)) {
            return link;
        }
        first = first ? first : link;
    }
    return any ? first : NULL;
}

/** Where the answer goes: the link that reply-to names, else one of the same session. NULL: there is none */
static nv_amqp_link *find_reply_link(const nv_amqp_link *request, nv_span reply_to)
{
    nv_amqp_link *found = find_in_session(request->session, reply_to, true);
    nv_list *sessions = &request->conn->sessions;
    for (nv_list *node = sessions->next; !found && node != sessions; node = node->next) {
        found = find_in_session(nv_container_of(node, nv_amqp_session, _node), reply_to, false);
    }
    return found;
}

/* ---- answers ------------------------------------------------------------------------------------------------ */

/** A request as it is understood. */
typedef struct request {
    nv_span operation;
    nv_span type;
    nv_span name;
    nv_amqp_value partition;
} request;

/** What is wrong with it; status 0: nothing. */
typedef struct failure {
    int status;
    nv_amqp_condition condition;
    const char *text;
} failure;

static nv_span text_property(const nv_amqp_value *map, const char *key)
{
    nv_amqp_value value;
    return nv_amqp_map_find(map, key, &value) && nv_amqp_is_text(&value) ? value.bytes : NV_SPAN_EMPTY;
}

static request request_of(const nv_amqp_message *message)
{
    const nv_amqp_value *map = &message->application_properties;
    request out = {.operation = text_property(map, "operation"),
                   .type = text_property(map, "type"),
                   .name = text_property(map, "name")};
    if (!nv_amqp_map_find(map, "partition", &out.partition)) {
        out.partition = (nv_amqp_value){.type = NV_AMQP_NULL};
    }
    return out;
}

static void put_status(nv_writer *w, const failure *failed)
{
    int status = failed->status ? failed->status : 200;
    const char *text = failed->status ? failed->text : "OK";
    size_t mark = nv_amqp_begin_map_section(w, NV_AMQP_APPLICATION_PROPERTIES);
    nv_amqp_put_string_of(w, "status-code");
    nv_amqp_put_int(w, status);
    nv_amqp_put_string_of(w, "status-description");
    nv_amqp_put_string_of(w, text);
    nv_amqp_put_string_of(w, "statusCode"); /* the names of the older draft, which uamqp looks for by default */
    nv_amqp_put_int(w, status);
    nv_amqp_put_string_of(w, "statusDescription");
    nv_amqp_put_string_of(w, text);
    if (failed->status) {
        nv_amqp_put_string_of(w, "error-condition");
        nv_amqp_put_symbol_of(w, nv_amqp_condition_name(failed->condition));
    }
    nv_amqp_end_map(w, mark, failed->status ? 10 : 8);
}

static void put_event_hub(nv_writer *w, const nv_hub *hub)
{
    char digits[NV_LOG_MAX_PARTITIONS][4];
    nv_span ids[NV_LOG_MAX_PARTITIONS];
    uint32_t count = nv_log_partitions(hub->log);
    count = count < NV_LOG_MAX_PARTITIONS ? count : NV_LOG_MAX_PARTITIONS;
    for (uint32_t i = 0; i < count; i++) {
        int len = snprintf(digits[i], sizeof(digits[i]), "%" PRIu32, i);
        ids[i] = nv_span_of(digits[i], (size_t)len);
    }
    size_t mark = nv_amqp_begin_map(w);
    nv_amqp_put_string_of(w, "name");
    nv_amqp_put_string(w, nv_event_hub_entity(hub));
    nv_amqp_put_string_of(w, "type");
    nv_amqp_put_string_of(w, "com.microsoft:eventhub");
    nv_amqp_put_string_of(w, "created_at");
    nv_amqp_put_timestamp(w, nv_event_hub_created_us(hub) / NV_US_PER_MS);
    nv_amqp_put_string_of(w, "partition_count");
    nv_amqp_put_int(w, (int32_t)count);
    nv_amqp_put_string_of(w, "partition_ids");
    nv_amqp_put_texts(w, NV_AMQP_STRING, ids, count);
    nv_amqp_put_string_of(w, "georeplication_factor"); /* Go's client cannot do without; 1: there is one place */
    nv_amqp_put_int(w, 1);
    nv_amqp_end_map(w, mark, 12);
}

static void put_partition(nv_writer *w, const nv_hub *hub, uint32_t partition, const nv_log_partition_info *info)
{
    char id[12];
    char offset[24];
    int id_len = snprintf(id, sizeof(id), "%" PRIu32, partition);
    size_t offset_len = amqp_last_offset(info, offset);
    size_t mark = nv_amqp_begin_map(w);
    nv_amqp_put_string_of(w, "name");
    nv_amqp_put_string(w, nv_event_hub_entity(hub));
    nv_amqp_put_string_of(w, "type");
    nv_amqp_put_string_of(w, "com.microsoft:partition");
    nv_amqp_put_string_of(w, "partition");
    nv_amqp_put_string(w, nv_span_of(id, (size_t)id_len));
    nv_amqp_put_string_of(w, "begin_sequence_number");
    nv_amqp_put_long(w, (int64_t)info->first_sequence);
    nv_amqp_put_string_of(w, "last_enqueued_sequence_number");
    nv_amqp_put_long(w, amqp_last_sequence(info));
    nv_amqp_put_string_of(w, "last_enqueued_offset");
    nv_amqp_put_string(w, nv_span_of(offset, offset_len));
    nv_amqp_put_string_of(w, "last_enqueued_time_utc");
    nv_amqp_put_timestamp(w, info->last_enqueued_us / NV_US_PER_MS);
    nv_amqp_put_string_of(w, "is_partition_empty");
    nv_amqp_put_boolean(w, info->first_sequence == info->next_sequence);
    nv_amqp_put_string_of(w, "begin_sequence_number_epoch"); /* Rust's client takes no answer without; -1: none */
    nv_amqp_put_int(w, -1);
    nv_amqp_put_string_of(w, "last_enqueued_sequence_number_epoch");
    nv_amqp_put_int(w, -1);
    nv_amqp_end_map(w, mark, 20);
}

static bool read_partition(const nv_amqp_value *value, uint64_t *out)
{
    return nv_amqp_is_text(value) ? nv_span_to_u64(value->bytes, out) : nv_amqp_to_u64(value, out);
}

/** The link itself ends with the right to ask. */
static failure check(const amqp_server *s, const request *asked, bool *partition)
{
    *partition = nv_span_eq_nocase(asked->type, nv_span_str("com.microsoft:partition"));
    if (!nv_span_eq_nocase(asked->operation, nv_span_str("READ"))) {
        return (failure){400, NV_AMQP_ERR_NOT_IMPLEMENTED, "The operation is READ"};
    }
    if (!*partition && !nv_span_eq_nocase(asked->type, nv_span_str("com.microsoft:eventhub"))) {
        return (failure){400, NV_AMQP_ERR_ARGUMENT_ERROR,
                         "The type is com.microsoft:eventhub or com.microsoft:partition"};
    }
    if (asked->name.len == 0) {
        return (failure){400, NV_AMQP_ERR_ARGUMENT_ERROR, "The name of the event hub is missing"};
    }
    if (!nv_event_hub_is_entity(amqp_hub(s), asked->name)) {
        return (failure){404, NV_AMQP_ERR_NOT_FOUND, "There is no event hub of this name"};
    }
    return (failure){0};
}

/** The whole answer: properties, status, body. */
static void write_answer(amqp_server *s, nv_writer *w, const request *asked, nv_span message_id)
{
    const nv_hub *hub = amqp_hub(s);
    bool of_partition = false;
    uint64_t number = 0;
    nv_log_partition_info info;
    failure failed = check(s, asked, &of_partition);
    if (!failed.status && of_partition) {
        bool there = read_partition(&asked->partition, &number) && number < nv_log_partitions(hub->log) &&
                     nv_log_get_partition(hub->log, (uint32_t)number, &info) == NV_OK;
        failed = there ? failed : (failure){404, NV_AMQP_ERR_NOT_FOUND, "There is no such partition"};
    }
    nv_amqp_properties properties = {.correlation_id = message_id};
    nv_amqp_put_properties_section(w, &properties);
    put_status(w, &failed);
    nv_amqp_put_value_head(w);
    if (failed.status) {
        nv_amqp_put_null(w);
    } else if (of_partition) {
        put_partition(w, hub, (uint32_t)number, &info);
    } else {
        put_event_hub(w, hub);
    }
}

/* ---- requests ----------------------------------------------------------------------------------------------- */

static void reject(nv_amqp_link *link, uint32_t id, nv_amqp_condition condition, const char *text)
{
    nv_amqp_outcome outcome = {.kind = NV_AMQP_OUT_REJECTED,
                               .problem = {.condition = condition, .description = nv_span_str(text)}};
    nv_amqp_link_settle(link, id, &outcome);
}

static bool on_request(nv_amqp_link *link, const nv_amqp_delivery *delivery)
{
    const request_link *self = link->owner;
    nv_amqp_message message;
    if (nv_amqp_message_read(delivery->bytes, &message) != NV_OK ||
        message.properties.message_id.len > MESSAGE_ID_MAX) {
        reject(link, delivery->id, NV_AMQP_ERR_DECODE_ERROR, "the request cannot be decoded");
        return true;
    }
    nv_amqp_link *reply = find_reply_link(link, nv_amqp_text_of(message.properties.reply_to));
    if (!reply) {
        reject(link, delivery->id, NV_AMQP_ERR_PRECONDITION_FAILED, "attach a receiver for the answer first");
        return true;
    }
    if (((reply_link *)reply->owner)->count >= WAITING_MAX || amqp_server_of(link)->answers_waiting >= WAITING_TOTAL) {
        reject(link, delivery->id, NV_AMQP_ERR_RESOURCE_LIMIT_EXCEEDED, "too many answers wait for credit");
        return true;
    }
    request asked = request_of(&message);
    asked.name = asked.name.len > 0 ? asked.name : nv_span_str(self->entity);
    uint8_t memory[ANSWER_MAX];
    nv_writer w = nv_writer_of(memory, sizeof(memory));
    write_answer(amqp_server_of(link), &w, &asked, message.properties.message_id);
    nv_amqp_link_accept_delivery(link, delivery->id); /* before the answer: amqp.md section 2.2 */
    if (w.err == NV_OK) {
        put_answer(reply, nv_writer_span(&w));
    }
    return true;
}

static void on_request_detached(nv_amqp_link *link, const nv_amqp_problem *problem)
{
    (void)problem;
    request_link *self = link->owner;
    free(self->entity);
    free(self);
}

static const nv_amqp_link_ops request_ops = {.delivery = on_request, .detached = on_request_detached};

void amqp_open_management(amqp_server *s, amqp_device *device, nv_amqp_link *link, const amqp_address *address)
{
    (void)device;
    if (address->entity.len > 0 && !nv_event_hub_is_entity(amqp_hub(s), address->entity)) {
        amqp_refuse(s, link, NV_AMQP_ERR_NOT_FOUND, "there is no such event hub: see EntityPath of `nave hub show`");
        return;
    }
    nv_amqp_accept accept = {.credit = REQUEST_CREDIT};
    if (link->sender) {
        reply_link *self = nv_calloc(1, sizeof(*self));
        nv_span named = link->target ? nv_amqp_text_of(link->target->address) : NV_SPAN_EMPTY;
        self->address = nv_span_dup(named.len <= ADDRESS_MAX ? named : NV_SPAN_EMPTY);
        accept.ops = &reply_ops;
        accept.owner = self;
    } else {
        request_link *self = nv_calloc(1, sizeof(*self));
        self->entity = nv_span_dup(address->entity);
        accept.ops = &request_ops;
        accept.owner = self;
    }
    nv_amqp_link_accept(link, &accept);
}
