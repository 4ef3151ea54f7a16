/*
 * Claims-based security: requests to put a token, and their answers (amqp.md section 2).
 *
 *   request --> being looked at --> settled accepted, then the reply --> a receiver of the same session
 *
 * The disposition of a request stands on the wire before its reply: clients take the other order for a failure. A reply
 * waits for the receiver's credit, or for a receiver: some attach it, or give it credit, only then.
 */
#include "base/alloc.h"
#include "session/amqp/server_internal.h"

#include <stdlib.h>

#define REQUEST_CREDIT 256u
/* Of one connection, however many links it has: */
#define REQUESTS_MAX    512u  /* being looked at; then nothing is read */
#define REPLIES_MAX     1024u /* waiting for credit, or for a receiver; further ones are dropped */
#define STRANGER_MAX    32u   /* of both, before any token was good */
#define ID_MAX          512u
#define REPLY_TO_MAX    256u
#define REPLY_MAX_BYTES 1500u

/* A link of $cbs, of either role. */
typedef struct cbs_link {
    nv_list node; /* amqp_server.cbs */
    amqp_server *server;
    nv_amqp_link *link;
    nv_list requests; /* the peer sends: being looked at */
    nv_list replies;  /* the peer receives: waiting for credit. It sends: waiting for a receiver */
    size_t target_len;
    char target[]; /* the peer receives: its own address, which reply-to may name */
} cbs_link;

/* From the request on. */
typedef struct exchange {
    nv_list node;
    uint32_t delivery;
    int status;
    const char *description; /* static */
    size_t id_len;
    size_t reply_to_len;
    uint8_t bytes[]; /* message-id as it was encoded, reply-to */
} exchange;

static void forget(exchange *x)
{
    nv_list_remove(&x->node);
    free(x);
}

/* @return how many there were */
static uint32_t free_all(nv_list *exchanges)
{
    uint32_t count = 0;
    for (; !nv_list_empty(exchanges); count++) {
        forget(nv_container_of(nv_list_first(exchanges), exchange, node));
    }
    return count;
}

/* ---- replies ------------------------------------------------------------------------------------------------ */

static const char *condition_of(int status)
{
    switch (status) {
    case 400:
        return nv_amqp_condition_name(NV_AMQP_ERR_ARGUMENT_ERROR);
    case 401:
        return nv_amqp_condition_name(NV_AMQP_ERR_UNAUTHORIZED_ACCESS);
    case 403:
        return nv_amqp_condition_name(NV_AMQP_ERR_RESOURCE_LIMIT_EXCEEDED);
    default:
        return nv_amqp_condition_name(NV_AMQP_ERR_TIMEOUT);
    }
}

/* Keys are strings, the code is an int, and there is a condition only when it failed (amqp.md section 2.2). */
static void write_reply(nv_writer *w, const exchange *x)
{
    bool failed = x->status != 200;
    nv_amqp_properties properties = {.correlation_id = nv_span_of(x->id_len > 0 ? x->bytes : NULL, x->id_len)};
    nv_amqp_put_properties_section(w, &properties);
    size_t mark = nv_amqp_begin_map_section(w, NV_AMQP_APPLICATION_PROPERTIES);
    nv_amqp_put_string_of(w, "status-code");
    nv_amqp_put_int(w, x->status);
    nv_amqp_put_string_of(w, "status-description");
    nv_amqp_put_string_of(w, x->description);
    if (failed) {
        nv_amqp_put_string_of(w, "error-condition");
        nv_amqp_put_symbol_of(w, condition_of(x->status));
    }
    nv_amqp_end_map(w, mark, failed ? 6 : 4);
    nv_amqp_put_value_head(w);
    nv_amqp_put_null(w);
}

/* What the receiver's peer takes no message of is dropped, and so is what cannot be written. */
static void send_reply(cbs_link *receiver, exchange *x)
{
    uint8_t memory[REPLY_MAX_BYTES];
    nv_writer w = nv_writer_of(memory, sizeof(memory));
    write_reply(&w, x);
    nv_amqp_send send = {.settled = receiver->link->snd_settle_mode != 0, .head = nv_writer_span(&w)};
    uint32_t id = 0;
    if (w.err != NV_OK || nv_amqp_link_send(receiver->link, &send, &id) != NV_OK) {
        nv_subject subject = amqp_subject(receiver->server, NV_SPAN_EMPTY, NV_SPAN_EMPTY);
        nv_diag(NV_LEVEL_DEBUG, "amqp", &subject, "an answer of $cbs could not be sent");
    }
    receiver->server->cbs_replies--;
    forget(x);
}

static void flush(cbs_link *receiver)
{
    while (!nv_list_empty(&receiver->replies) && nv_amqp_link_room(receiver->link)) {
        send_reply(receiver, nv_container_of(nv_list_first(&receiver->replies), exchange, node));
    }
    if (receiver->link->drain && nv_list_empty(&receiver->replies)) {
        nv_amqp_link_drained(receiver->link);
    }
}

static bool is_named(const cbs_link *receiver, const exchange *x)
{
    nv_span reply_to = nv_span_of(x->bytes + x->id_len, x->reply_to_len);
    return reply_to.len > 0 && (nv_span_eq(reply_to, receiver->link->name) ||
                                nv_span_eq(reply_to, nv_span_of(receiver->target, receiver->target_len)));
}

/* The one that reply-to names, else the first of the session. */
static cbs_link *receiver_for(const cbs_link *request_link, const exchange *x)
{
    cbs_link *first = NULL;
    const nv_list *all = &request_link->server->cbs;
    for (nv_list *node = all->next; node != all; node = node->next) {
        cbs_link *c = nv_container_of(node, cbs_link, node);
        if (!c->link->sender || c->link->session != request_link->link->session) {
            continue;
        }
        if (is_named(c, x)) {
            return c;
        }
        first = first ? first : c;
    }
    return first;
}

static uint32_t most(const amqp_server *s, uint32_t known)
{
    return s->conn.session.authenticated ? known : STRANGER_MAX;
}

static void reply(cbs_link *request_link, exchange *x)
{
    amqp_server *s = request_link->server;
    cbs_link *receiver = receiver_for(request_link, x);
    if (s->cbs_replies >= most(s, REPLIES_MAX)) {
        free(x);
        return;
    }
    s->cbs_replies++;
    nv_list_push_back(receiver ? &receiver->replies : &request_link->replies, &x->node);
    if (receiver) {
        flush(receiver);
    }
}

/* @p count requests were answered, or went with their link. */
static void requests_done(amqp_server *s, uint32_t count)
{
    s->cbs_requests -= count;
    if (s->cbs_full && count > 0) {
        s->cbs_full = false;
        nv_amqp_conn_resume(&s->conn);
    }
}

static void put_done(void *owner, uint64_t cookie, int status, const char *description)
{
    cbs_link *c = owner;
    exchange *x = (exchange *)(uintptr_t)cookie;
    nv_list_remove(&x->node);
    x->status = status;
    x->description = description;
    nv_amqp_link_accept_delivery(c->link, x->delivery);
    reply(c, x);
    requests_done(c->server, 1);
}

/* ---- requests ----------------------------------------------------------------------------------------------- */

static nv_span text_property(const nv_amqp_message *message, const char *name)
{
    nv_amqp_value value;
    bool there = nv_amqp_map_find(&message->application_properties, name, &value) && nv_amqp_is_text(&value);
    return there ? value.bytes : NV_SPAN_EMPTY;
}

static exchange *exchange_new(const nv_amqp_message *message, uint32_t delivery)
{
    nv_span id = message->has_properties ? message->properties.message_id : NV_SPAN_EMPTY;
    nv_span reply_to = message->has_properties ? nv_amqp_text_of(message->properties.reply_to) : NV_SPAN_EMPTY;
    if (id.len > ID_MAX) {
        return NULL;
    }
    reply_to = reply_to.len > REPLY_TO_MAX ? NV_SPAN_EMPTY : reply_to;
    exchange *x = nv_malloc(sizeof(*x) + id.len + reply_to.len);
    *x = (exchange){.delivery = delivery, .id_len = id.len, .reply_to_len = reply_to.len};
    nv_writer w = nv_writer_of(x->bytes, id.len + reply_to.len);
    nv_write_span(&w, id);
    nv_write_span(&w, reply_to);
    return x;
}

static void reject(cbs_link *c, const nv_amqp_delivery *delivery, const char *why)
{
    nv_amqp_outcome outcome = {.kind = NV_AMQP_OUT_REJECTED,
                               .problem = {.condition = NV_AMQP_ERR_DECODE_ERROR, .description = nv_span_str(why)}};
    nv_amqp_link_settle(c->link, delivery->id, &outcome);
}

static bool on_request(nv_amqp_link *link, const nv_amqp_delivery *delivery)
{
    cbs_link *c = link->owner;
    nv_amqp_message message;
    nv_span token = NV_SPAN_EMPTY;
    if (c->server->cbs_requests >= most(c->server, REQUESTS_MAX)) {
        c->server->cbs_full = true;
        return false;
    }
    if (nv_amqp_message_read(delivery->bytes, &message) != NV_OK) {
        reject(c, delivery, "the request is no message");
        return true;
    }
    exchange *x = exchange_new(&message, delivery->id);
    if (!x) {
        reject(c, delivery, "the message-id is too long");
        return true;
    }
    c->server->cbs_requests++;
    nv_list_push_back(&c->requests, &x->node);
    nv_buf scratch;
    nv_buf_init(&scratch, delivery->bytes.len);
    nv_err err = nv_amqp_message_bytes(&message, &scratch, &token);
    if (!nv_span_eq_nocase(text_property(&message, "operation"), nv_span_str("put-token"))) {
        put_done(c, (uintptr_t)x, 400, "the operation is not put-token");
    } else if (err != NV_OK || token.len == 0) {
        put_done(c, (uintptr_t)x, 400, "the body is no token");
    } else {
        amqp_auth_put_token(c->server, text_property(&message, "name"), token, put_done, c, (uintptr_t)x);
    }
    nv_buf_deinit(&scratch);
    return true;
}

/* ---- links -------------------------------------------------------------------------------------------------- */

static void on_room(nv_amqp_link *link)
{
    flush(link->owner);
}

static void on_detached(nv_amqp_link *link, const nv_amqp_problem *problem)
{
    (void)problem;
    cbs_link *c = link->owner;
    amqp_server *s = c->server;
    amqp_auth_forget(s, c);
    nv_list_remove(&c->node);
    uint32_t requests = free_all(&c->requests);
    s->cbs_replies -= free_all(&c->replies);
    free(c);
    requests_done(s, requests);
}

void amqp_cbs_detach(amqp_server *s, bool peer_sends, nv_amqp_condition condition, const char *description)
{
    static const nv_amqp_problem none = {.condition = NV_AMQP_ERR_NONE};
    for (nv_list *node = s->cbs.next; node != &s->cbs;) {
        nv_amqp_link *link = nv_container_of(node, cbs_link, node)->link;
        node = node->next;
        if (link->sender != peer_sends) {
            on_detached(link, &none);
            nv_amqp_link_detach(link, condition, description);
        }
    }
}

static const nv_amqp_link_ops request_ops = {.delivery = on_request, .detached = on_detached};
static const nv_amqp_link_ops reply_ops = {.room = on_room, .detached = on_detached};

/* Replies of its session that found no receiver. */
static void take_parked(cbs_link *receiver)
{
    nv_list *all = &receiver->server->cbs;
    for (nv_list *node = all->next; node != all; node = node->next) {
        cbs_link *c = nv_container_of(node, cbs_link, node);
        if (c->link->sender || c->link->session != receiver->link->session) {
            continue;
        }
        for (nv_list *x = nv_list_pop_front(&c->replies); x; x = nv_list_pop_front(&c->replies)) {
            nv_list_push_back(&receiver->replies, x);
        }
    }
    flush(receiver);
}

void amqp_open_cbs(amqp_server *s, amqp_device *device, nv_amqp_link *link, const amqp_address *address)
{
    (void)device;
    (void)address;
    nv_span target = link->sender && link->target ? nv_amqp_text_of(link->target->address) : NV_SPAN_EMPTY;
    target = target.len > REPLY_TO_MAX ? NV_SPAN_EMPTY : target;
    cbs_link *c = nv_calloc(1, sizeof(*c) + target.len);
    c->server = s;
    c->link = link;
    c->target_len = target.len;
    if (target.len > 0) {
        memcpy(c->target, target.ptr, target.len);
    }
    nv_list_init(&c->requests);
    nv_list_init(&c->replies);
    nv_list_push_back(&s->cbs, &c->node);
    nv_amqp_accept accept = {
        .ops = link->sender ? &reply_ops : &request_ops, .owner = c, .credit = link->sender ? 0 : REQUEST_CREDIT};
    nv_amqp_link_accept(link, &accept);
    if (c->link->sender) {
        take_parked(c);
    }
}
