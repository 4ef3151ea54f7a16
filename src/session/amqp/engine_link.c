#include "session/amqp/engine_impl.h"

#include "base/alloc.h"
#include "base/rng.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define NAME_MAX_BYTES 1024u
#define AROUND_NAME    192u /* the rest of an ATTACH with null termini: a refusal always fits a frame */
#define REFUSED_SLACK  16u
/* Of ATTACHes that wait for their owner's answer, which is not always a matter of a moment (a claim that another
 * connection gives back, readers with owner levels). Their count alone, 16,384 of 64 KiB, would be 1 GiB. With so many
 * bytes, and one frame, no further ATTACH is taken until one is answered; no answer depends on what the peer says next.
 */
#define ATTACH_BYTES_MAX (1u << 20)

/* ---- names: one per role and session ------------------------------------------------------------------------------
 *
 * By the specification they hold for the whole connection (part 2 section 2.6.1). But the .NET SDK gives the links of
 * every device on a pooled connection the same names, each device in a session of its own. */

#define NAME_HEAD 3u

static void put_name_head(uint8_t *key, const engine_session *s, bool sender)
{
    key[0] = sender ? '1' : '0';
    key[1] = (uint8_t)(s->pub.channel >> 8);
    key[2] = (uint8_t)s->pub.channel;
}

static nv_span key_of(const engine_link *l)
{
    return nv_span_of(l->key, NAME_HEAD + l->pub.name.len);
}

static void names_begin(nv_amqp_conn *conn)
{
    nv_amqp_conn_private *p = conn->_p;
    nv_map_init(&p->names, nv_rng_u64(nv_rng_system()));
    p->named = true;
    for (nv_list *at = conn->sessions.next; at != &conn->sessions; at = at->next) {
        nv_amqp_session *session = nv_container_of(at, nv_amqp_session, _node);
        for (nv_list *node = session->links.next; node != &session->links; node = node->next) {
            engine_link *l = engine_link_of(nv_container_of(node, nv_amqp_link, _node));
            (void)nv_map_put(&p->names, key_of(l), l);
        }
    }
}

static engine_link *find_in(nv_list *links, nv_span name, bool sender)
{
    for (nv_list *node = links->next; node != links; node = node->next) {
        nv_amqp_link *link = nv_container_of(node, nv_amqp_link, _node);
        if (link->sender == sender && nv_span_eq(link->name, name)) {
            return engine_link_of(link);
        }
    }
    return NULL;
}

static engine_link *find_name(engine_session *s, nv_span name, bool sender)
{
    const nv_amqp_conn_private *p = s->pub.conn->_p;
    if (p->named) {
        uint8_t key[NAME_HEAD + NAME_MAX_BYTES];
        put_name_head(key, s, sender);
        memcpy(key + NAME_HEAD, name.ptr, name.len);
        return nv_map_get(&p->names, nv_span_of(key, NAME_HEAD + name.len));
    }
    return find_in(&s->pub.links, name, sender);
}

static void forget_name(engine_link *l)
{
    nv_amqp_conn_private *p = l->pub.conn->_p;
    if (p->named && nv_map_get(&p->names, key_of(l)) == l) {
        (void)nv_map_remove(&p->names, key_of(l));
    }
}

/* ---- life --------------------------------------------------------------------------------------------------- */

static engine_link *link_new(engine_session *s, nv_span name, bool sender)
{
    nv_amqp_conn *conn = s->pub.conn;
    engine_link *l = nv_calloc(1, sizeof(*l) + NAME_HEAD + name.len);
    put_name_head(l->key, s, sender);
    if (name.len > 0) {
        memcpy(l->key + NAME_HEAD, name.ptr, name.len);
    }
    l->pub.session = &s->pub;
    l->pub.conn = conn;
    l->pub.name = nv_span_of(l->key + NAME_HEAD, name.len);
    l->pub.sender = sender;
    l->max_message = ENGINE_MAX_MESSAGE;
    l->handle = engine_index_gap(&s->by_local);
    nv_list_init(&l->wait);
    nv_list_init(&l->pending);
    nv_list_push_back(&s->pub.links, &l->pub._node);
    engine_index_put(&s->by_local, l->handle, l);
    conn->link_count++;
    if (!conn->_p->named && conn->link_count > ENGINE_LOOKUP_LINKS) {
        names_begin(conn);
    } else if (conn->_p->named) {
        (void)nv_map_put(&conn->_p->names, key_of(l), l);
    }
    return l;
}

static void drop_ring(engine_link *l)
{
    if (!l->pub.sender) {
        for (uint32_t i = 0; i < l->ring.count; i++) {
            const engine_entry *entry = engine_ring_at(&l->ring, i);
            if (!entry->settled) {
                engine_release(l->pub.conn, entry);
            }
        }
    }
    engine_ring_deinit(&l->ring);
}

/* Nobody would hear of its end: the owner has it in hand, and must answer first. */
static bool owes_answer(const engine_link *l)
{
    return l->held && (!l->pub.ops || !l->pub.ops->detached);
}

/* The owner has answered, or never will. */
static void forget_attach(engine_link *l)
{
    if (l->held) {
        l->pub.conn->_p->attach_bytes -= l->held->size;
        engine_go(l->pub.conn, ENGINE_STOP_ATTACH);
    }
    free(l->held);
    l->held = NULL;
    l->pub.attach = NULL;
    l->pub.source = NULL;
    l->pub.target = NULL;
}

static void answered(engine_link *l)
{
    nv_amqp_conn *conn = l->pub.conn;
    forget_attach(l);
    conn->_p->unanswered--;
    engine_link_session(l)->unanswered--;
}

/* It holds nothing any more but its name and its handles. */
static void empty(engine_link *l)
{
    nv_amqp_conn *conn = l->pub.conn;
    forget_name(l);
    nv_list_remove(&l->wait);
    nv_list_remove(&l->pending);
    drop_ring(l);
    engine_partial_drop(l);
    free(l->rest);
    l->rest = NULL;
    engine_look_at_budget(conn);
}

/* Our DETACH is out; the handle is taken until the peer's comes. */
static void gone(engine_link *l)
{
    empty(l);
    l->state = ENGINE_LINK_GONE;
    l->pub.ops = NULL;
    nv_list_remove(&l->pub._node);
    nv_list_push_back(&engine_link_session(l)->gone, &l->pub._node);
}

static void tell(engine_link *l, const nv_amqp_link_ops *ops, const nv_amqp_problem *problem)
{
    if (ops && ops->detached) {
        ops->detached(&l->pub, problem);
    }
}

void engine_link_kill(engine_link *l, const nv_amqp_problem *problem)
{
    engine_session *s = engine_link_session(l);
    const nv_amqp_link_ops *ops = l->pub.ops;
    bool owed = owes_answer(l);
    empty(l);
    l->state = ENGINE_LINK_DEAD;
    l->pub.ops = NULL;
    engine_index_remove(&s->by_local, l->handle);
    if (l->has_handle) {
        engine_index_remove(&s->by_handle, l->peer_handle);
    } else {
        s->asked--;
    }
    l->pub.conn->link_count--;
    nv_list_remove(&l->pub._node);
    if (l->held) {
        l->pub.conn->_p->unanswered--;
        s->unanswered--;
        engine_go(l->pub.conn, ENGINE_STOP_ATTACH);
        if (owed) { /* nobody can be told: it stays until it is answered */
            s->owed++;
            nv_list_push_back(&l->pub.conn->_p->owed, &l->pub._node);
            return;
        }
        forget_attach(l);
    }
    nv_list_push_back(&l->pub.conn->_p->dead_links, &l->pub._node);
    tell(l, ops, problem);
}

/* The answer to an ATTACH whose link has ended meanwhile. */
static void answered_late(engine_link *l, const nv_amqp_accept *accept)
{
    nv_amqp_conn_private *p = l->pub.conn->_p;
    forget_attach(l);
    if (accept) {
        l->pub.ops = accept->ops;
        l->pub.owner = accept->owner;
        p->pump = true; /* the owner expects no call from inside its own */
        return;
    }
    engine_link_session(l)->owed--;
    nv_list_remove(&l->pub._node);
    nv_list_push_back(&p->dead_links, &l->pub._node);
}

void engine_tell_late(nv_amqp_conn *conn, bool all)
{
    nv_amqp_conn_private *p = conn->_p;
    nv_list todo;
    nv_list_init(&todo);
    nv_list_splice(&todo, &p->owed);
    nv_list *node;
    while ((node = nv_list_pop_front(&todo)) != NULL) {
        engine_link *l = engine_link_of(nv_container_of(node, nv_amqp_link, _node));
        if (l->held && !all) {
            nv_list_push_back(&p->owed, node);
            continue;
        }
        forget_attach(l);
        engine_link_session(l)->owed--;
        nv_list_push_back(&p->dead_links, node);
        tell(l, l->pub.ops, &(nv_amqp_problem){.description = nv_span_str("it ended before it was accepted")});
    }
}

void engine_link_free(engine_link *l)
{
    free(l->held);
    free(l);
}

/* ---- our ATTACH, as it is written ------------------------------------------------------------------------------ */

static nv_amqp_performative attach_of(const engine_link *l)
{
    nv_amqp_performative p = {.code = NV_AMQP_ATTACH};
    p.attach.name = l->pub.name;
    NV_AMQP_SET(&p.attach, attach, handle, l->handle);
    NV_AMQP_SET(&p.attach, attach, role, !l->pub.sender);
    NV_AMQP_SET(&p.attach, attach, snd_settle_mode, l->pub.snd_settle_mode);
    NV_AMQP_SET(&p.attach, attach, rcv_settle_mode, l->pub.rcv_settle_mode);
    if (l->pub.sender) {
        NV_AMQP_SET(&p.attach, attach, initial_delivery_count, l->delivery_count);
    }
    NV_AMQP_SET(&p.attach, attach, max_message_size, l->max_message);
    return p;
}

static bool send_attach(engine_link *l, const nv_amqp_performative *p)
{
    const nv_amqp_attach *a = &p->attach;
    size_t room = a->name.len + a->source.len + a->target.len + a->properties.len + a->desired_capabilities.len;
    return engine_write(l->pub.conn, NV_AMQP_FRAME_AMQP, l->pub.session->channel, p, room);
}

/* Null termini: there will be no link (part 2 section 2.6.3). @return false: it fits no frame of the peer's */
static bool send_refusal(engine_link *l)
{
    uint8_t tracking[128];
    nv_amqp_performative p = attach_of(l);
    p.attach.properties = engine_put_tracking(l->pub.conn, tracking);
    return send_attach(l, &p);
}

bool engine_must_wait(const engine_session *s)
{
    if (s->unanswered == 0) {
        return false;
    }
    for (const nv_list *node = s->pub.links.next; node != &s->pub.links; node = node->next) {
        const nv_amqp_link *link =
            (const nv_amqp_link *)(const void *)((const char *)node - offsetof(nv_amqp_link, _node));
        if (owes_answer((const engine_link *)(const void *)link)) {
            return true;
        }
    }
    return false;
}

/* ---- DETACH ------------------------------------------------------------------------------------------------- */

static void send_detach(engine_link *l, bool closed, const nv_amqp_problem *problem)
{
    nv_amqp_conn *conn = l->pub.conn;
    uint8_t error[ENGINE_ERROR_ROOM];
    nv_amqp_performative p = {.code = NV_AMQP_DETACH};
    NV_AMQP_SET(&p.detach, detach, handle, l->handle);
    NV_AMQP_SET(&p.detach, detach, closed, closed);
    p.detach.error = engine_put_problem(conn, problem, error);
    (void)engine_write(conn, NV_AMQP_FRAME_AMQP, l->pub.session->channel, &p, p.detach.error.len);
}

void engine_link_fail(engine_link *l, nv_amqp_condition condition, const char *fmt, ...)
{
    char text[ENGINE_DESCRIPTION];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    nv_amqp_problem problem = engine_problem(condition, text);
    const nv_amqp_link_ops *ops = l->pub.ops;
    if (l->pub.conn->ops->broken) {
        l->pub.conn->ops->broken(l->pub.conn, "link", &problem);
    }
    send_detach(l, true, &problem);
    gone(l);
    tell(l, ops, &problem);
}

void nv_amqp_link_detach(nv_amqp_link *link, nv_amqp_condition condition, const char *description)
{
    nv_amqp_link_detach_with(link, condition, description, NV_SPAN_EMPTY);
}

void nv_amqp_link_detach_with(nv_amqp_link *link, nv_amqp_condition condition, const char *description, nv_span info)
{
    engine_link *l = engine_link_of(link);
    nv_amqp_conn *conn = link->conn;
    if (l->held) {
        nv_amqp_link_refuse(link, condition, description, info);
        return;
    }
    if (l->state > ENGINE_LINK_ATTACHED || !engine_is_open(conn)) {
        link->ops = NULL;
        return;
    }
    engine_enter(conn);
    nv_amqp_problem problem = {.condition = NV_AMQP_ERR_NONE};
    if (condition != NV_AMQP_ERR_NONE) {
        problem = engine_problem(condition, description);
        problem.info = info;
    }
    send_detach(l, true, &problem);
    gone(l);
    engine_leave(conn);
}

bool engine_on_detach(nv_amqp_conn *conn, engine_session *s, const nv_amqp_detach *detach)
{
    engine_link *l = engine_index_get(&s->by_handle, detach->handle);
    if (!l) {
        return true; /* it crossed the end of the link */
    }
    if (owes_answer(l)) {
        engine_stop(conn, ENGINE_STOP_ATTACH);
        return false;
    }
    nv_amqp_problem problem = engine_problem_of(detach->error);
    if (l->held) {
        send_refusal(l);
    }
    if (l->held || l->state == ENGINE_LINK_ATTACHED) {
        send_detach(l, detach->closed, &(nv_amqp_problem){.condition = NV_AMQP_ERR_NONE});
    }
    engine_link_kill(l, &problem);
    return true;
}

/* ---- ATTACH from the peer ----------------------------------------------------------------------------------- */

/* A copy that lasts until the owner answers. @return NULL: a terminus cannot be decoded, the connection has failed */
static engine_attach *hold(nv_amqp_conn *conn, nv_span body)
{
    size_t size = sizeof(engine_attach) + body.len;
    engine_attach *held = nv_malloc(size);
    held->size = size;
    memcpy(held->bytes, body.ptr, body.len);
    nv_reader r = nv_reader_of(nv_span_of(held->bytes, body.len));
    held->source.code = held->target.code = NV_AMQP_ATTACH;
    nv_err err = nv_amqp_decode(&r, &held->attach);
    const nv_amqp_attach *attach = &held->attach.attach;
    if (err == NV_OK && attach->source.len > 0) {
        err = nv_amqp_decode_span(attach->source, &held->source);
    }
    if ((err == NV_OK || err == NV_E_UNSUPPORTED) && attach->target.len > 0) {
        err = nv_amqp_decode_span(attach->target, &held->target);
    }
    if (err != NV_OK && err != NV_E_UNSUPPORTED) {
        engine_fail(conn, NV_AMQP_ERR_DECODE_ERROR, "attach: source or target cannot be decoded");
        free(held);
        return NULL;
    }
    return held;
}

static void take_attach(engine_link *l, const nv_amqp_attach *attach)
{
    engine_session *s = engine_link_session(l);
    l->has_handle = true;
    l->peer_handle = attach->handle;
    engine_index_put(&s->by_handle, attach->handle, l);
    l->pub.snd_settle_mode = NV_AMQP_HAS(attach, attach, snd_settle_mode) ? attach->snd_settle_mode : 2;
    l->pub.rcv_settle_mode = NV_AMQP_HAS(attach, attach, rcv_settle_mode) ? attach->rcv_settle_mode : 0;
    l->pub.peer_max_message = attach->max_message_size;
    if (!l->pub.sender) {
        l->delivery_count = l->limit = attach->initial_delivery_count;
    }
}

/* The answer to ours. */
static void on_attach_answer(nv_amqp_conn *conn, engine_link *l, const nv_amqp_attach *attach)
{
    engine_link_session(l)->asked--;
    take_attach(l, attach);
    if (l->state == ENGINE_LINK_GONE) {
        return;
    }
    l->state = ENGINE_LINK_ATTACHED;
    if (l->pub.ops && l->pub.ops->attached) {
        l->pub.ops->attached(&l->pub, attach);
    }
    bool refused = l->pub.sender ? !attach->target.ptr : !attach->source.ptr;
    if (!refused && !l->pub.sender && l->state == ENGINE_LINK_ATTACHED && engine_is_open(conn)) {
        engine_top_up(l);
    }
}

/* The name is attached already in this role: the newer link takes its place (part 2 section 2.6.1). */
static bool steal(engine_session *s, nv_span name, bool sender)
{
    engine_link *old = find_name(s, name, sender);
    if (!old) {
        return true;
    }
    if (old->held) {
        return false; /* the owner has not decided about that one: the newer is refused */
    }
    engine_link_fail(old, NV_AMQP_ERR_STOLEN, "a newer link has the same name and role");
    return true;
}

static const char *why_not(nv_amqp_conn *conn, const engine_attach *held, nv_amqp_condition *condition)
{
    bool coordinator = held->attach.attach.target.len > 0 && held->target.code != NV_AMQP_TARGET;
    if (coordinator || (held->attach.attach.source.len > 0 && held->source.code != NV_AMQP_SOURCE)) {
        *condition = NV_AMQP_ERR_NOT_IMPLEMENTED;
        return "a terminus of this kind is not served";
    }
    if (conn->link_count > conn->config.links) {
        *condition = NV_AMQP_ERR_RESOURCE_LIMIT_EXCEEDED;
        return "too many links on this connection";
    }
    if (!conn->ops->attach) {
        *condition = NV_AMQP_ERR_NOT_ALLOWED;
        return "this end takes no links";
    }
    return NULL;
}

static void on_attach_request(nv_amqp_conn *conn, engine_session *s, const nv_amqp_attach *attach, nv_span body)
{
    engine_attach *held = hold(conn, body);
    if (!held) {
        return;
    }
    bool fresh = steal(s, attach->name, attach->role);
    if (s->state != ENGINE_SESSION_BEGUN || !engine_is_open(conn)) {
        free(held); /* the owner of the stolen link ended it */
        return;
    }
    engine_link *l = link_new(s, attach->name, attach->role);
    l->held = held;
    conn->_p->attach_bytes += held->size;
    conn->_p->unanswered++;
    s->unanswered++;
    take_attach(l, &held->attach.attach);
    l->pub.attach = &held->attach.attach;
    l->pub.source = held->source.code == NV_AMQP_SOURCE ? &held->source.source : NULL;
    l->pub.target = held->target.code == NV_AMQP_TARGET ? &held->target.target : NULL;
    nv_amqp_condition condition = NV_AMQP_ERR_RESOURCE_LOCKED;
    const char *why = fresh ? why_not(conn, held, &condition) : "a link of this name is being attached";
    if (why) {
        nv_amqp_link_refuse(&l->pub, condition, why, NV_SPAN_EMPTY);
        return;
    }
    conn->ops->attach(conn, &l->pub);
}

/* The link of ours that an ATTACH answers. It may be detached by us already. */
static engine_link *find_asked(engine_session *s, nv_span name, bool sender)
{
    if (s->asked == 0) {
        return NULL;
    }
    engine_link *l = find_in(&s->gone, name, sender);
    if (!l || l->has_handle) {
        l = find_in(&s->pub.links, name, sender);
    }
    return l && !l->has_handle ? l : NULL;
}

bool engine_on_attach(nv_amqp_conn *conn, engine_session *s, const nv_amqp_attach *attach, nv_span body)
{
    if (attach->handle > conn->config.handle_max) {
        engine_fail(conn, NV_AMQP_ERR_FRAMING_ERROR, "handle %" PRIu32 " is above handle-max %" PRIu32, attach->handle,
                    conn->config.handle_max);
        return true;
    }
    if (engine_index_get(&s->by_handle, attach->handle)) {
        engine_session_fail(s, NV_AMQP_ERR_HANDLE_IN_USE, "handle %" PRIu32 " is attached", attach->handle);
        return true;
    }
    bool long_name = attach->name.len > NAME_MAX_BYTES || attach->name.len + AROUND_NAME > conn->peer_max_frame;
    if (long_name || attach->snd_settle_mode > 2 || attach->rcv_settle_mode > 1) {
        engine_session_fail(s, NV_AMQP_ERR_INVALID_FIELD, "attach: a name that is too long, or an unknown mode");
        return true;
    }
    engine_link *asked = find_asked(s, attach->name, attach->role);
    if (asked) {
        on_attach_answer(conn, asked, attach);
        return true;
    }
    if (engine_index_gap(&s->by_local) > s->peer_handle_max) {
        engine_session_fail(s, NV_AMQP_ERR_RESOURCE_LIMIT_EXCEEDED, "no handle is free");
        return true;
    }
    if (conn->_p->attach_bytes >= ATTACH_BYTES_MAX) {
        engine_stop(conn, ENGINE_STOP_ATTACH);
        return false;
    }
    /* A refused link holds its handle and its name until the peer's DETACH comes, so those too have a bound. */
    if (conn->link_count > 2 * (uint64_t)conn->config.links + REFUSED_SLACK) {
        engine_fail(conn, NV_AMQP_ERR_RESOURCE_LIMIT_EXCEEDED, "too many refused links, whose DETACH is not answered");
        return true;
    }
    on_attach_request(conn, s, attach, body);
    return true;
}

/* ---- the owner's answer ------------------------------------------------------------------------------------- */

void nv_amqp_link_accept(nv_amqp_link *link, const nv_amqp_accept *accept)
{
    engine_link *l = engine_link_of(link);
    nv_amqp_conn *conn = link->conn;
    if (!l->held) {
        return;
    }
    engine_enter(conn);
    if (l->state == ENGINE_LINK_DEAD) {
        answered_late(l, accept);
        engine_leave(conn);
        return;
    }
    if (link->sender && accept->pre_settled) {
        link->snd_settle_mode = 1;
    }
    link->rcv_settle_mode = accept->rcv_first ? 0 : link->rcv_settle_mode;
    l->max_message = accept->max_message_size > 0 ? accept->max_message_size : ENGINE_MAX_MESSAGE;
    if (l->max_message > ENGINE_MESSAGE_MASK) {
        l->max_message = ENGINE_MESSAGE_MASK;
    }
    uint8_t tracking[128];
    nv_amqp_performative p = attach_of(l);
    p.attach.source = link->attach->source;
    p.attach.target = link->attach->target;
    p.attach.properties = accept->properties.len > 0 ? accept->properties : engine_put_tracking(conn, tracking);
    if (!send_attach(l, &p) && !conn->_p->overflow) {
        nv_amqp_link_refuse(link, NV_AMQP_ERR_FRAME_SIZE_TOO_SMALL, "the answer does not fit the peer's max-frame-size",
                            NV_SPAN_EMPTY);
        link->ops = accept->ops; /* the owner, who thinks it has a link, is told with the answer to our DETACH */
        link->owner = accept->owner;
        engine_leave(conn);
        return;
    }
    link->ops = accept->ops;
    link->owner = accept->owner;
    l->state = ENGINE_LINK_ATTACHED;
    answered(l);
    if (link->sender) {
        if (link->credit > 0 || link->drain) {
            engine_room_later(l);
        }
    } else {
        l->window = accept->credit;
        engine_top_up(l);
    }
    engine_leave(conn);
}

void nv_amqp_link_refuse(nv_amqp_link *link, nv_amqp_condition condition, const char *description, nv_span info)
{
    engine_link *l = engine_link_of(link);
    nv_amqp_conn *conn = link->conn;
    if (!l->held) {
        return;
    }
    link->ops = NULL; /* the owner knows */
    engine_enter(conn);
    if (l->state == ENGINE_LINK_DEAD) {
        answered_late(l, NULL);
        engine_leave(conn);
        return;
    }
    nv_amqp_problem problem = engine_problem(condition, description);
    problem.info = info;
    answered(l);
    l->state = ENGINE_LINK_ATTACHED;
    if (!send_refusal(l)) { /* a name that fits no frame of the peer's */
        link->ops = NULL;
        engine_link_kill(l, &problem);
    } else {
        send_detach(l, true, &problem);
        gone(l);
    }
    engine_leave(conn);
}

/* ---- our ATTACH --------------------------------------------------------------------------------------------- */

/* A source or target with the address alone. */
static nv_span put_terminus(nv_amqp_code code, const char *address, uint8_t *out, size_t size)
{
    nv_writer a = nv_writer_of(out, size / 2);
    nv_amqp_put_string_of(&a, address ? address : "");
    nv_amqp_performative p = {.code = code};
    if (code == NV_AMQP_SOURCE) {
        p.source.address = address ? nv_writer_span(&a) : NV_SPAN_EMPTY;
    } else {
        p.target.address = address ? nv_writer_span(&a) : NV_SPAN_EMPTY;
    }
    nv_writer w = nv_writer_of(out + size / 2, size / 2);
    nv_amqp_encode(&w, &p);
    return a.err == NV_OK && w.err == NV_OK ? nv_writer_span(&w) : NV_SPAN_EMPTY;
}

nv_amqp_link *nv_amqp_link_attach(nv_amqp_session *session, const nv_amqp_attach_options *options)
{
    engine_session *s = engine_session_of(session);
    nv_amqp_conn *conn = session->conn;
    nv_span name = nv_span_str(options->name);
    if (!engine_is_open(conn) || s->state != ENGINE_SESSION_BEGUN || name.len > NAME_MAX_BYTES ||
        engine_index_gap(&s->by_local) > s->peer_handle_max || find_name(s, name, options->sender)) {
        return NULL;
    }
    engine_enter(conn);
    engine_link *l = link_new(s, name, options->sender);
    l->pub.ops = options->ops;
    l->pub.owner = options->owner;
    l->pub.snd_settle_mode = options->snd_settle_mode;
    l->pub.rcv_settle_mode = options->rcv_settle_mode;
    l->window = options->sender ? 0 : options->credit;
    s->asked++;
    uint8_t source[2048];
    uint8_t target[2048];
    nv_amqp_performative p = attach_of(l);
    p.attach.source = options->source.len > 0 ? options->source
                                              : put_terminus(NV_AMQP_SOURCE, options->sender ? NULL : options->address,
                                                             source, sizeof(source));
    p.attach.target = options->target.len > 0 ? options->target
                                              : put_terminus(NV_AMQP_TARGET, options->sender ? options->address : NULL,
                                                             target, sizeof(target));
    p.attach.properties = options->properties;
    p.attach.desired_capabilities = options->desired_capabilities;
    bool ok = send_attach(l, &p);
    if (!ok && !conn->_p->overflow) {
        l->pub.ops = NULL;
        engine_link_kill(l, &(nv_amqp_problem){.condition = NV_AMQP_ERR_NONE});
        l = NULL;
    }
    engine_leave(conn);
    return l ? &l->pub : NULL;
}
