/*
 * Direct methods. What a call may end as follows from what its device did: it answered first, late, never, from another
 * connection, or it was not there.
 */
#include "core/model.h"

#include "base/alloc.h"
#include "core/method.h"

#include <stdlib.h>
#include <string.h>

typedef struct model_call {
    nv_list link;
    model *w;
    uint64_t number; /* in its name */
    uint32_t slot;
    nv_method_call call;
    char name[24];
    const char *payload;
    bool bad;
    int64_t invoked_us;
    int64_t seen_us; /* when all was quiet for the first time: by then its time runs */
    bool done;
    bool checked;
    /* at the device */
    bool delivered;
    uint64_t id; /* nv_delivery.call */
    uint64_t conn;
    int64_t asked_from_us; /* when the shard asked it, at the earliest and at the latest */
    int64_t asked_to_us;
    bool answered; /* by the connection that was asked, while it was there */
    int64_t answered_us;
    const char *answer;
    int64_t status;
} model_call;

static const char *const payloads[] = {"", "null", "1.50", "\"x\"", "{\"a\":[1,2,{\"b\":null}]}", "[]", "true"};
static const char *const answers[] = {"", "null", "{\"ok\":true}", "[0.10]", "\"\"", "-0", "{}", "{\"no json"};

static model_call *call_at(nv_list *node)
{
    return nv_container_of(node, model_call, link);
}

#define EACH_CALL(w, node) for (nv_list *node = (w)->calls.next; node != &(w)->calls; node = node->next)

/* What an empty payload means. */
static const char *json_of(const char *payload)
{
    return *payload ? payload : "null";
}

static bool is_json(const char *payload)
{
    return strcmp(payload, "{\"no json") != 0;
}

/* ---- the caller ---- */

static void call_done(nv_method_call *call)
{
    model_call *self = nv_container_of(call, model_call, call);
    if (self->done) {
        model_fail(self->w, "call %llu ends twice", (unsigned long long)self->number);
    }
    self->done = true;
    model_note(self->w, "  call %llu: %s %lld %.*s", (unsigned long long)self->number,
               nv_hub_error_info_of(call->error)->name, (long long)call->status,
               NV_SPAN_ARG(nv_buf_span(&call->answer)));
}

void model_call_invoke(model *w)
{
    static const int64_t responses_s[] = {5, 5, 30, 30, 300, 300};
    static const int64_t connects_s[] = {0, 0, 0, 10, 60, 300};
    model_call *self = nv_calloc(1, sizeof(*self));
    *self = (model_call){.w = w,
                         .number = ++w->call_count,
                         .slot = model_below(w, MODEL_SLOTS),
                         .payload = payloads[model_below(w, NV_COUNT_OF(payloads))],
                         .invoked_us = model_now(w),
                         .bad = model_one_in(w, 30)};
    nv_list_push_back(&w->calls, &self->link);
    (void)snprintf(self->name, sizeof(self->name), self->bad && model_one_in(w, 2) ? "m %llu" : "m%llu",
                   (unsigned long long)self->number);
    self->call = (nv_method_call){.device_id = nv_span_str(w->slots[self->slot].device),
                                  .module_id = nv_span_str(w->slots[self->slot].module),
                                  .name = nv_span_str(self->name),
                                  .payload = nv_span_str(self->payload),
                                  .response_timeout_us = responses_s[model_below(w, 6)] * NV_US_PER_S,
                                  .connect_timeout_us = connects_s[model_below(w, 6)] * NV_US_PER_S,
                                  .done = call_done};
    if (self->bad && !strchr(self->name, ' ')) {
        self->call.response_timeout_us = model_one_in(w, 2) ? 4999999 : 300000001;
    }
    model_note(w, "call %llu of %s/%s %s connect %lld response %lld", (unsigned long long)self->number,
               w->slots[self->slot].device, w->slots[self->slot].module, self->payload,
               (long long)(self->call.connect_timeout_us / NV_US_PER_S),
               (long long)(self->call.response_timeout_us / NV_US_PER_S));
    w->done[DID_CALLS]++;
    nv_method_invoke(model_loop(w), &self->call);
}

/* ---- the device ---- */

static model_conn *conn_numbered(model *w, uint64_t number)
{
    for (nv_list *node = w->conns.next; node != &w->conns; node = node->next) {
        model_conn *conn = nv_container_of(node, model_conn, link);
        if (conn->number == number && conn->state == CONN_HELD) {
            return conn;
        }
    }
    return NULL;
}

static void answer(model *w, model_call *self, model_conn *conn)
{
    const char *payload = answers[model_below(w, NV_COUNT_OF(answers))];
    int64_t status = model_one_in(w, 4) ? -(int64_t)model_below(w, 500) : (int64_t)model_below(w, 600);
    model_note(w, "  conn %llu answers call %llu: %lld %s", (unsigned long long)conn->number,
               (unsigned long long)self->number, (long long)status, payload);
    if (conn->number == self->conn && !self->answered) {
        self->answered = true;
        self->answered_us = model_now(w);
        self->answer = payload;
        self->status = status;
    }
    nv_method_answer(&conn->claim, self->id, status, nv_span_str(payload));
}

void model_call_delivered(model_conn *conn, const nv_delivery *delivery)
{
    model *w = conn->w;
    model_call *self = NULL;
    EACH_CALL(w, node)
    {
        self = nv_span_eq(delivery->name, nv_span_str(call_at(node)->name)) ? call_at(node) : self;
    }
    if (!self || self->delivered || self->bad || self->slot != conn->slot ||
        !nv_span_eq(delivery->body, nv_span_str(json_of(self->payload)))) {
        model_fail(w, "conn %llu is asked %.*s %.*s%s", (unsigned long long)conn->number, NV_SPAN_ARG(delivery->name),
                   NV_SPAN_ARG(delivery->body), self && self->delivered ? " again" : "");
        return; /* never: cppcheck does not know */
    }
    model_note(w, "  conn %llu is asked call %llu", (unsigned long long)conn->number, (unsigned long long)self->number);
    self->delivered = true;
    self->id = delivery->call;
    self->conn = conn->number;
    self->asked_to_us = model_now(w);
    self->asked_from_us = self->invoked_us > w->batch_us ? self->invoked_us : w->batch_us;
    model_conn *other = model_conn_any(w);
    if (other && other != conn && model_one_in(w, 8)) {
        answer(w, self, other); /* was not asked */
    }
    for (uint32_t times = model_below(w, 4); times == 1 || times == 2; times--) {
        answer(w, self, conn);
    }
}

void model_call_answer(model *w)
{
    EACH_CALL(w, node)
    {
        model_call *self = call_at(node);
        model_conn *conn = self->delivered ? conn_numbered(w, self->conn) : NULL;
        if (conn && model_one_in(w, 2)) {
            answer(w, self, conn);
            return;
        }
    }
    model_conn *conn = model_conn_any(w);
    if (conn) {
        nv_method_answer(&conn->claim, model_random(w) | (uint64_t)1 << 40, 200, nv_span_str("{}")); /* of no call */
    }
}

/* ---- what should have come of it ---- */

static bool slot_was_absent(const model_slot *slot)
{
    return slot->stirred || !slot->exists;
}

static int64_t connect_us(const model_call *self)
{
    int64_t limit_us = self->call.response_timeout_us;
    return self->call.connect_timeout_us < limit_us ? self->call.connect_timeout_us : limit_us;
}

static bool is_taken(model *w, const model_call *self)
{
    const model_conn *conn = model_conn_of(w, self->slot);
    return conn && conn->steady && (conn->wants & NV_WANTS_METHODS);
}

static const char *wrong_end(model *w, const model_call *self)
{
    const nv_method_call *call = &self->call;
    bool answered_badly = self->answered && !is_json(self->answer);
    if (self->bad) {
        return call->error == NV_HUB_ERROR_ArgumentInvalid ? NULL : "it is not valid";
    }
    switch ((int)call->error) {
    case NV_HUB_ERROR_NONE:
        w->done[DID_CALLS_OK]++;
        return !self->answered || answered_badly                                             ? "nobody answered so"
               : call->status != self->status                                                ? "that is not the status"
               : !nv_span_eq(nv_buf_span(&call->answer), nv_span_str(json_of(self->answer))) ? "that is not the answer"
                                                                                             : NULL;
    case NV_HUB_ERROR_BadDeviceResponse:
        return answered_badly ? NULL : "the answer was good";
    case NV_HUB_ERROR_GatewayTimeout:
        w->done[DID_CALLS_LATE]++;
        return !self->delivered                                                 ? "nobody was asked"
               : model_now(w) < self->asked_from_us + call->response_timeout_us ? "it is too early"
               : self->answered && self->answered_us < w->batch_us              ? "it was answered in time"
                                                                                : NULL;
    case NV_HUB_ERROR_DeviceConnectionClosedRemotely:
        w->done[DID_CALLS_LOST]++;
        return self->answered                                    ? "it was answered before"
               : self->delivered && conn_numbered(w, self->conn) ? "the connection is there"
               : !self->delivered && is_taken(w, self)           ? "the connection was there all the time"
                                                                 : NULL;
    case NV_HUB_ERROR_DeviceNotOnline:
        w->done[DID_CALLS_NONE]++;
        return self->delivered                                      ? "it was asked"
               : model_now(w) < self->invoked_us + connect_us(self) ? "it is too early"
               : is_taken(w, self)                                  ? "the device takes methods"
                                                                    : NULL;
    case NV_HUB_ERROR_DeviceNotFound:
        return self->delivered || !slot_was_absent(&w->slots[self->slot]) ? "the device exists" : NULL;
    default:
        return model_store_failed(w, call->error) ? NULL : "no such answer is known";
    }
}

static const char *wrong_wait(model *w, const model_call *self)
{
    const model_conn *conn = model_conn_of(w, self->slot);
    if (self->bad) {
        return "it is not valid";
    }
    if (self->delivered) {
        return self->answered                                                       ? "it was answered"
               : !conn_numbered(w, self->conn)                                      ? "the connection is gone"
               : model_now(w) >= self->asked_to_us + self->call.response_timeout_us ? "the device is late"
                                                                                    : NULL;
    }
    return model_now(w) >= self->seen_us + connect_us(self) ? "nobody came in time"
           : conn && (conn->wants & NV_WANTS_METHODS)       ? "somebody takes methods"
                                                            : NULL;
}

static void call_free(model_call *self)
{
    nv_list_remove(&self->link);
    nv_buf_deinit(&self->call.answer);
    free(self);
}

void model_call_check(model *w)
{
    for (nv_list *node = w->calls.next; node != &w->calls;) {
        model_call *self = call_at(node);
        node = node->next;
        if (self->checked) {
            if (model_one_in(w, 4)) {
                call_free(self); /* until then somebody may answer still */
            }
            continue;
        }
        self->seen_us = self->seen_us ? self->seen_us : model_now(w);
        const char *wrong = self->done ? wrong_end(w, self) : wrong_wait(w, self);
        if (wrong) {
            model_fail(w, "call %llu of %s/%s %s%s: %s", (unsigned long long)self->number, w->slots[self->slot].device,
                       w->slots[self->slot].module, self->done ? "ends as " : "waits",
                       self->done ? nv_hub_error_info_of(self->call.error)->name : "", wrong);
        }
        self->checked = self->done;
    }
}

void model_call_close(model *w)
{
    for (nv_list *node = w->calls.next; node != &w->calls;) {
        model_call *self = call_at(node);
        node = node->next;
        if (!self->done) {
            model_fail(w, "call %llu outlives the hub", (unsigned long long)self->number);
        }
        call_free(self);
    }
}
