/*
 * Connections, as sessions make them: look the identity up, claim it, say what is wanted, and leave, by themselves or
 * because they are told to. Some take their time to go.
 */
#include "core/model.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

static model_conn *conn_at(nv_list *node)
{
    return nv_container_of(node, model_conn, link);
}

#define EACH_CONN(w, node) for (nv_list *node = nv_list_first(&(w)->conns); node != &(w)->conns; node = node->next)

static void free_heard(model_conn *conn)
{
    for (size_t i = 0; i < conn->heard_count; i++) {
        json_object_put(conn->heard[i].body);
    }
    free(conn->heard);
    conn->heard = NULL;
    conn->heard_count = 0;
}

void model_conn_free_gone(model *w)
{
    for (nv_list *node = w->conns.next; node != &w->conns;) {
        model_conn *conn = conn_at(node);
        node = node->next;
        if (conn->state == CONN_GONE) {
            nv_list_remove(&conn->link);
            free_heard(conn);
            free(conn);
        }
    }
}

void model_conn_begin(model *w)
{
    model_conn_free_gone(w);
    EACH_CONN(w, node)
    {
        model_conn *conn = conn_at(node);
        free_heard(conn);
        conn->steady = conn->state == CONN_HELD;
    }
}

model_conn *model_conn_of(model *w, uint32_t slot)
{
    EACH_CONN(w, node)
    {
        if (conn_at(node)->slot == slot && conn_at(node)->state == CONN_HELD) {
            return conn_at(node);
        }
    }
    return NULL;
}

model_conn *model_conn_any(model *w)
{
    uint32_t skip = model_below(w, 8);
    model_conn *found = NULL;
    EACH_CONN(w, node)
    {
        if (conn_at(node)->state == CONN_HELD) {
            found = conn_at(node);
            if (skip-- == 0) {
                break;
            }
        }
    }
    return found;
}

/* ---- leaving ---- */

static void gone(model_conn *conn)
{
    conn->state = CONN_GONE;
    nv_identity_unref(conn->identity);
    conn->identity = NULL;
}

static void released(nv_claim *claim)
{
    gone(nv_container_of(claim, model_conn, claim));
}

void model_conn_release(model_conn *conn)
{
    conn->released = true;
    nv_claim_release(&conn->claim, released);
}

void model_conn_leave(model_conn *conn)
{
    conn->asked_to_leave = true;
    conn->steady = false;
    if (conn->state == CONN_ASKED || conn->state == CONN_HELD) {
        model_note(conn->w, "  conn %llu leaves", (unsigned long long)conn->number);
        conn->state = CONN_LEAVING;
        if (model_c2d_leave(conn)) {
            model_conn_release(conn);
        }
    }
}

static void evict(nv_claim *claim, nv_refusal why)
{
    model_conn *conn = nv_container_of(claim, model_conn, claim);
    model *w = conn->w;
    model_note(w, "  conn %llu is told to go: %s", (unsigned long long)conn->number, nv_refusal_info_of(why)->name);
    if (conn->evicted) {
        model_fail(w, "conn %llu was told twice to go", (unsigned long long)conn->number);
    }
    conn->evicted = true;
    conn->steady = false;
    if (why == NV_REFUSAL_TAKEN_OVER) {
        bool newer = false;
        EACH_CONN(w, node)
        {
            newer = newer || (conn_at(node)->slot == conn->slot && conn_at(node)->asked > conn->asked);
        }
        w->done[DID_TAKEOVERS]++;
        if (!newer) {
            model_fail(w, "conn %llu was taken over by nobody", (unsigned long long)conn->number);
        }
    } else if (!w->slots[conn->slot].stirred) {
        model_fail(w, "conn %llu was revoked, and nothing changed", (unsigned long long)conn->number);
    }
    if (model_one_in(w, 2)) {
        model_conn_leave(conn);
    } else {
        conn->asked_to_leave = true; /* takes its time: model_conn_leave_all */
    }
}

/* Those who were told and took their time. @return whether there were any */
static bool leave_lingering(model *w, bool all)
{
    bool some = false;
    EACH_CONN(w, node)
    {
        model_conn *conn = conn_at(node);
        if ((conn->asked_to_leave || all) && (conn->state == CONN_ASKED || conn->state == CONN_HELD)) {
            model_conn_leave(conn);
            some = true;
        }
    }
    return some;
}

void model_conn_leave_all(model *w)
{
    do {
        model_quiet(w);
    } while (leave_lingering(w, true));
}

/* ---- coming ---- */

static void deliver(nv_claim *claim, const nv_delivery *delivery)
{
    model_conn *conn = nv_container_of(claim, model_conn, claim);
    if (conn->state == CONN_LEAVING && !conn->released) {
        return; /* it waits for its receiver to be detached, and hears nothing any more */
    }
    if (conn->state != CONN_HELD) {
        model_fail(conn->w, "conn %llu is given something after its end", (unsigned long long)conn->number);
    }
    if (delivery->kind == NV_DELIVER_METHOD) {
        model_call_delivered(conn, delivery);
        return;
    }
    model_note(conn->w, "  conn %llu hears desired %llu %.*s", (unsigned long long)conn->number,
               (unsigned long long)delivery->version, NV_SPAN_ARG(delivery->body));
    conn->heard = nv_realloc(conn->heard, (conn->heard_count + 1) * sizeof(*conn->heard));
    conn->heard[conn->heard_count++] =
        (model_news){delivery->version, model_json_parse((const char *)delivery->body.ptr, delivery->body.len)};
}

static void want(model_conn *conn)
{
    model *w = conn->w;
    conn->wants = model_one_in(w, 4) ? model_below(w, 4) : NV_WANTS_DESIRED | NV_WANTS_METHODS;
    conn->steady = false;
    model_note(w, "  conn %llu wants %u", (unsigned long long)conn->number, conn->wants);
    nv_claim_want(&conn->claim, conn->wants);
    if (model_one_in(w, 2)) {
        nv_claim_operated(&conn->claim);
    }
}

static void granted(nv_claim *claim)
{
    model_conn *conn = nv_container_of(claim, model_conn, claim);
    if (conn->state != CONN_ASKED) {
        model_fail(conn->w, "conn %llu is granted late", (unsigned long long)conn->number);
    }
    if (claim->status != NV_OK) {
        (void)model_store_failed(conn->w, NV_HUB_ERROR_ServiceUnavailable);
        model_conn_leave(conn);
        return;
    }
    const model_conn *other = model_conn_of(conn->w, conn->slot);
    if (other) {
        model_fail(conn->w, "conn %llu is granted while %llu is there", (unsigned long long)conn->number,
                   (unsigned long long)other->number);
    }
    model_note(conn->w, "  conn %llu is granted", (unsigned long long)conn->number);
    conn->state = CONN_HELD;
    conn->w->done[DID_CONNECTS]++;
    if (!model_one_in(conn->w, 5)) {
        want(conn);
    }
}

static void found(nv_registry_find *find)
{
    model_conn *conn = nv_container_of(find, model_conn, find);
    model *w = conn->w;
    const model_slot *slot = &w->slots[conn->slot];
    conn->identity = find->status == NV_OK ? find->identity : NULL;
    if (find->status != NV_OK && find->status != NV_E_NOT_FOUND) {
        (void)model_store_failed(w, NV_HUB_ERROR_ServiceUnavailable);
    } else if (find->status == NV_E_NOT_FOUND && slot->exists && !slot->stirred && !w->restarting) {
        model_fail(w, "%s/%s is not found, and it is there", slot->device, slot->module);
    }
    if (!conn->identity || !conn->identity->enabled || conn->asked_to_leave) {
        gone(conn);
        return;
    }
    (void)nv_span_to_u64(conn->identity->generation_id, &conn->generation);
    conn->claim = (nv_claim){.identity = conn->identity,
                             .credential = NV_CREDENTIAL_PRIMARY,
                             .clean = !model_one_in(w, 4),
                             .granted = granted,
                             .evict = evict,
                             .deliver = deliver};
    conn->state = CONN_ASKED;
    conn->asked = ++w->stamp;
    nv_claim_ask(conn->loop, &conn->claim);
}

void model_conn_open(model *w)
{
    model_conn *conn = nv_calloc(1, sizeof(*conn));
    *conn = (model_conn){.w = w, .number = ++w->conn_count, .slot = model_below(w, MODEL_SLOTS), .loop = model_loop(w)};
    nv_list_push_back(&w->conns, &conn->link);
    model_note(w, "conn %llu of %s/%s", (unsigned long long)conn->number, w->slots[conn->slot].device,
               w->slots[conn->slot].module);
    conn->find = (nv_registry_find){.device_id = nv_span_str(w->slots[conn->slot].device),
                                    .module_id = nv_span_str(w->slots[conn->slot].module),
                                    .done = found};
    nv_err err = nv_registry_lookup(conn->loop, &conn->find);
    if (err == NV_OK) {
        found(&conn->find);
    } else if (err != NV_E_MORE) {
        model_fail(w, "a lookup is refused: %s", nv_err_text(err));
    }
}

void model_conn_close(model *w)
{
    model_conn *conn = model_conn_any(w);
    if (conn) {
        model_conn_leave(conn);
    }
}

void model_conn_want(model *w)
{
    model_conn *conn = model_conn_any(w);
    if (conn) {
        want(conn);
    }
}

/* ---- what should have come of it ---- */

/* What it heard is in the order of the changes; one that was there all the time heard them all. */
static void check_heard(model *w, const model_conn *conn)
{
    const model_slot *slot = &w->slots[conn->slot];
    size_t next = 0;
    for (size_t i = 0; i < conn->heard_count; i++) {
        const model_news *heard = &conn->heard[i];
        size_t before = next;
        while (next < slot->news_count &&
               (slot->news[next].version != heard->version || !model_json_eq(slot->news[next].body, heard->body))) {
            next++;
        }
        if (next == slot->news_count) {
            model_fail(w, "conn %llu of %s/%s hears of desired version %llu %s, which is not what comes after %zu news",
                       (unsigned long long)conn->number, slot->device, slot->module, (unsigned long long)heard->version,
                       model_json_text(heard->body), before);
        }
        next++;
        w->done[DID_NEWS]++;
    }
    bool hears_all = conn->steady && !slot->stirred && (conn->wants & NV_WANTS_DESIRED);
    if (hears_all && conn->heard_count != slot->news_count) {
        model_fail(w, "conn %llu of %s/%s hears of %zu changes of %zu", (unsigned long long)conn->number, slot->device,
                   slot->module, conn->heard_count, slot->news_count);
    }
    if (!(conn->wants & NV_WANTS_DESIRED) && conn->steady && conn->heard_count) {
        model_fail(w, "conn %llu hears what it does not want", (unsigned long long)conn->number);
    }
}

void model_conn_settle(model *w)
{
    while (leave_lingering(w, false)) {
        model_quiet(w);
    }
}

void model_conn_check(model *w)
{
    bool held[MODEL_SLOTS] = {false};
    EACH_CONN(w, node)
    {
        const model_conn *conn = conn_at(node);
        const model_slot *slot = &w->slots[conn->slot];
        check_heard(w, conn);
        if (conn->state == CONN_GONE) {
            continue;
        }
        if (conn->state != CONN_HELD || held[conn->slot]) {
            model_fail(w, "conn %llu of %s/%s is in state %d when all is quiet%s", (unsigned long long)conn->number,
                       slot->device, slot->module, (int)conn->state, held[conn->slot] ? ", and not alone" : "");
        }
        held[conn->slot] = true;
        if (!slot->exists || !w->slots[slot->parent].enabled || conn->generation != slot->generation) {
            model_fail(w, "conn %llu of %s/%s is there, and its identity is not", (unsigned long long)conn->number,
                       slot->device, slot->module);
        }
    }
}
