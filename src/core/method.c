/*
 * Calls in flight live on the shard of their device.
 *
 *   nv_method_invoke: checked on the caller's loop -> start_on_shard
 *      the device takes methods        -> ASKED:     deliver; ends by answer, response timeout, or the connection's end
 *      it does not                     -> LOOKING:   is there such an identity?
 *      connect timeout given           -> EXPECTING: until a connection takes methods, or the timeout; when one went or
 *                                         the identity did, LOOKING again
 *   finish -> the caller's loop: done
 *
 * The response timeout begins when the device was asked, so the whole lasts at most the sum of both, which is what the
 * SDKs allow for.
 *
 * Decision: a connect timeout longer than the response timeout is refused with the profile `azure`, as the service
 * does. Otherwise it is cut to the response timeout: the C service SDK always sends 60 s, whatever the caller chose.
 */
#include "core/method.h"

#include "base/alloc.h"
#include "base/map.h"
#include "codec/json.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define RESPONSE_MIN_US (5 * NV_US_PER_S)
#define TIMEOUT_MAX_US  (300 * NV_US_PER_S)
#define PAYLOAD_VALUES  UINT32_MAX /* no tree is built: the size bounds the work */
#define UNWANTED        "The caller has gone"

typedef enum op_state { OP_STARTING, OP_LOOKING, OP_EXPECTING, OP_ASKED } op_state;

/* The calls of one identity: how many. */
typedef struct callee {
    size_t calls;
    size_t key_len;
    char key[];
} callee;

typedef struct method_op {
    nv_task task; /* to the shard */
    nv_method_call *call;
    nv_methods *methods; /* of the shard */
    callee *callee;      /* NULL before it is counted */
    nv_list link;        /* in methods->all */
    op_state state;
    uint64_t number;     /* ASKED: nv_delivery.call, the key in methods->asked */
    uint64_t connection; /* ASKED: only its answer counts */
    nv_device_watcher watcher;
    nv_timer timer;
    int64_t connect_by_us; /* EXPECTING begins once, however often the registry is asked; 0: not yet */
    bool unwanted;         /* cancelled while LOOKING */
    nv_registry_find find;
    nv_buf payload; /* compact JSON, until the device was asked */
    /* the caller's loop */
    nv_task cancel; /* to the shard, and back */
    bool cancelling;
    bool done; /* the call is over, but cancel is not back yet */
} method_op;

struct nv_methods {
    nv_hub_loop *loop;
    nv_map asked;   /* method_op.number -> method_op */
    nv_map callees; /* nv_identity_key -> callee */
    nv_list all;    /* method_op.link, oldest first */
    size_t count;
    bool closed; /* the hub stops: nothing begins any more */
};

nv_methods *nv_methods_new(nv_hub_loop *loop)
{
    nv_methods *methods = nv_calloc(1, sizeof(*methods));
    methods->loop = loop;
    nv_list_init(&methods->all);
    nv_map_init(&methods->asked, nv_rng_u64(loop->hub->rng));
    nv_map_init(&methods->callees, nv_rng_u64(loop->hub->rng));
    return methods;
}

void nv_methods_free(nv_methods *methods)
{
    if (methods) {
        assert(methods->count == 0);
        nv_map_deinit(&methods->asked);
        nv_map_deinit(&methods->callees);
        free(methods);
    }
}

bool nv_methods_idle(const nv_methods *methods)
{
    return methods->count == 0;
}

/* ---- the end of a call ---------------------------------------------------------------------------------------- */

static void tell_caller(method_op *op)
{
    nv_method_call *call = op->call;
    call->_op = NULL;
    nv_buf_deinit(&op->payload);
    free(op);
    call->done(call);
}

static void done_on_loop(nv_task *task)
{
    nv_method_call *call = nv_container_of(task, nv_method_call, _task);
    method_op *op = call->_op;
    op->done = true;
    if (!op->cancelling) {
        tell_caller(op);
    }
}

static void refuse(nv_method_call *call, nv_hub_error error, const char *detail)
{
    call->error = error;
    (void)snprintf(call->detail, sizeof(call->detail), "%s", detail);
}

static void post_done(method_op *op)
{
    op->call->_task.run = done_on_loop;
    nv_post(op->call->_loop->exec, &op->call->_task);
}

static void uncount(method_op *op)
{
    nv_methods *methods = op->methods;
    if (op->callee && --op->callee->calls == 0) {
        nv_map_remove(&methods->callees, nv_span_of(op->callee->key, op->callee->key_len));
        free(op->callee);
    }
    methods->count--;
    nv_list_remove(&op->link);
}

/* Nothing of the shard refers to @p op from here on. */
static void finish(method_op *op)
{
    nv_methods *methods = op->methods;
    assert(op->state != OP_STARTING && op->state != OP_LOOKING); /* the registry holds find */
    nv_timers_clear(&methods->loop->timers, &op->timer);
    nv_devices_unwatch(&op->watcher);
    if (op->state == OP_ASKED) {
        nv_map_remove(&methods->asked, nv_span_of(&op->number, sizeof(op->number)));
    }
    uncount(op);
    post_done(op);
}

static void fail(method_op *op, nv_hub_error error, const char *detail)
{
    refuse(op->call, error, detail);
    finish(op);
}

/* ---- asking the device ---------------------------------------------------------------------------------------- */

static void connection_ended(nv_device_watcher *watcher)
{
    fail(nv_container_of(watcher, method_op, watcher), NV_HUB_ERROR_DeviceConnectionClosedRemotely, "");
}

static void response_overdue(nv_timer *timer, int64_t now_us)
{
    (void)now_us;
    fail(nv_container_of(timer, method_op, timer), NV_HUB_ERROR_GatewayTimeout,
         "Timed out waiting for the response from device.");
}

/* @return false: there is no connection that takes methods */
static bool ask_device(method_op *op)
{
    const nv_method_call *call = op->call;
    nv_hub_loop *shard = op->methods->loop;
    if (!nv_devices_wants(shard, call->device_id, call->module_id, NV_WANTS_METHODS)) {
        return false;
    }
    nv_delivery *delivery = nv_delivery_new(NV_DELIVER_METHOD, call->name, nv_buf_span(&op->payload));
    op->number = delivery->call = atomic_fetch_add_explicit(&shard->hub->_method_calls, 1, memory_order_relaxed) + 1;
    if (!nv_devices_deliver(shard, call->device_id, call->module_id, delivery)) {
        return false; /* it changed its mind meanwhile */
    }
    op->state = OP_ASKED;
    op->connection = nv_devices_connection(shard, call->device_id, call->module_id);
    nv_map_put(&op->methods->asked, nv_span_of(&op->number, sizeof(op->number)), op);
    nv_buf_deinit(&op->payload); /* the delivery has it */
    op->watcher = (nv_device_watcher){.wants = 0, .changed = connection_ended};
    nv_devices_watch(shard, call->device_id, call->module_id, &op->watcher);
    nv_timer_init(&op->timer, response_overdue);
    nv_timers_set(&shard->timers, &op->timer, nv_mono_us(shard->hub->clock) + call->response_timeout_us);
    return true;
}

/* ---- waiting for the device ----------------------------------------------------------------------------------- */

static void connect_overdue(nv_timer *timer, int64_t now_us)
{
    (void)now_us;
    fail(nv_container_of(timer, method_op, timer), NV_HUB_ERROR_DeviceNotOnline,
         "Timed out waiting for device to connect.");
}

static void look_up(method_op *op);

/* It came; or a connection that takes none went, or the identity itself, which the registry knows. */
static void connection_changed(nv_device_watcher *watcher)
{
    method_op *op = nv_container_of(watcher, method_op, watcher);
    nv_timers_clear(&op->methods->loop->timers, &op->timer);
    if (!ask_device(op)) {
        look_up(op);
    }
}

static void expect_device(method_op *op)
{
    const nv_method_call *call = op->call;
    nv_hub_loop *shard = op->methods->loop;
    op->state = OP_EXPECTING;
    nv_timer_init(&op->timer, connect_overdue);
    if (op->methods->closed) {
        fail(op, NV_HUB_ERROR_ServiceUnavailable, "The hub is stopping");
    } else if (ask_device(op)) {
        return; /* it came while the registry was asked */
    } else if (call->connect_timeout_us == 0) {
        fail(op, NV_HUB_ERROR_DeviceNotOnline, "");
    } else {
        op->watcher = (nv_device_watcher){.wants = NV_WANTS_METHODS, .changed = connection_changed};
        nv_devices_watch(shard, call->device_id, call->module_id, &op->watcher);
        if (op->connect_by_us == 0) {
            op->connect_by_us = nv_mono_us(shard->hub->clock) + call->connect_timeout_us;
        }
        nv_timers_set(&shard->timers, &op->timer, op->connect_by_us);
    }
}

static void identity_found(nv_registry_find *find)
{
    method_op *op = nv_container_of(find, method_op, find);
    char detail[sizeof(op->call->detail)];
    nv_identity_unref(find->identity);
    op->state = OP_EXPECTING;
    if (op->unwanted) {
        fail(op, NV_HUB_ERROR_ServiceUnavailable, UNWANTED);
    } else if (find->status == NV_E_NOT_FOUND) {
        (void)snprintf(detail, sizeof(detail), "%.*s%s%.*s", NV_SPAN_ARG(nv_span_first(find->device_id, 80)),
                       find->module_id.len ? "/" : "", NV_SPAN_ARG(nv_span_first(find->module_id, 80)));
        fail(op, NV_HUB_ERROR_DeviceNotFound, detail);
    } else if (find->status == NV_OK || op->connect_by_us != 0) { /* what was known stays so until it is denied */
        expect_device(op);
    } else {
        fail(op, NV_HUB_ERROR_ServiceUnavailable, "");
    }
}

static void look_up(method_op *op)
{
    op->state = OP_LOOKING;
    op->find =
        (nv_registry_find){.device_id = op->call->device_id, .module_id = op->call->module_id, .done = identity_found};
    nv_err err = nv_registry_lookup(op->methods->loop, &op->find);
    if (err != NV_E_MORE) {
        op->find.status = err;
        identity_found(&op->find);
    }
}

/* ---- the beginning of a call ---------------------------------------------------------------------------------- */

/* @return false: the identity, or the loop, has as many calls as it may */
static bool count_in(method_op *op)
{
    nv_methods *methods = op->methods;
    const nv_limits *limits = &methods->loop->hub->limits;
    char key[2 * NV_ID_MAX + 2];
    size_t len = nv_identity_key(op->call->device_id, op->call->module_id, key);
    callee *c = nv_map_get(&methods->callees, nv_span_of(key, len));
    if (methods->count > (size_t)limits->methods || (c && c->calls >= (size_t)limits->methods_per_device)) {
        return false;
    }
    if (!c) {
        c = nv_calloc(1, sizeof(*c) + len);
        c->key_len = len;
        memcpy(c->key, key, len);
        nv_map_put(&methods->callees, nv_span_of(c->key, len), c);
    }
    c->calls++;
    op->callee = c;
    return true;
}

static void start_on_shard(nv_task *task)
{
    method_op *op = nv_container_of(task, method_op, task);
    nv_methods *methods = op->methods;
    methods->count++;
    nv_list_push_back(&methods->all, &op->link);
    op->state = OP_EXPECTING;
    nv_timer_init(&op->timer, connect_overdue);
    if (methods->closed) {
        fail(op, NV_HUB_ERROR_ServiceUnavailable, "The hub is stopping");
    } else if (!count_in(op)) {
        fail(op, NV_HUB_ERROR_ThrottlingException, "Too many methods of this device, or of the hub, are in flight");
    } else if (!ask_device(op)) {
        look_up(op);
    }
}

static bool is_name(nv_span name)
{
    bool good = name.len >= 1 && name.len <= NV_METHOD_NAME_MAX;
    for (size_t i = 0; good && i < name.len; i++) {
        uint8_t c = name.ptr[i];
        good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
               c == '*' || c == '-';
    }
    return good;
}

static bool check_timeouts(const nv_hub *hub, nv_method_call *call)
{
    if (call->response_timeout_us < RESPONSE_MIN_US || call->response_timeout_us > TIMEOUT_MAX_US) {
        refuse(call, NV_HUB_ERROR_ArgumentInvalid, "responseTimeoutInSeconds is from 5 to 300");
    } else if (call->connect_timeout_us < 0 || call->connect_timeout_us > TIMEOUT_MAX_US) {
        refuse(call, NV_HUB_ERROR_ArgumentInvalid, "connectTimeoutInSeconds is from 0 to 300");
    } else if (call->connect_timeout_us > call->response_timeout_us && hub->azure) {
        refuse(call, NV_HUB_ERROR_ArgumentInvalid,
               "connectTimeoutInSeconds is at most responseTimeoutInSeconds with limits.profile azure");
    } else if (call->connect_timeout_us > call->response_timeout_us) {
        call->connect_timeout_us = call->response_timeout_us;
    }
    return call->error == NV_HUB_ERROR_NONE;
}

/* @return NV_E_SYNTAX no JSON; NV_E_TOO_BIG. Nothing becomes null */
static nv_err keep_payload(nv_span payload, int64_t max_bytes, nv_buf *out)
{
    nv_buf_init(out, (size_t)max_bytes);
    if (payload.len == 0) {
        return nv_buf_append_str(out, "null");
    }
    return payload.len > (size_t)max_bytes ? NV_E_TOO_BIG
                                           : nv_json_compact(payload, NV_JSON_MAX_DEPTH, PAYLOAD_VALUES, out);
}

static bool check_payload(const nv_hub *hub, nv_method_call *call, nv_buf *out)
{
    nv_err err = keep_payload(call->payload, hub->limits.method_bytes, out);
    if (err == NV_E_TOO_BIG && call->payload.len > (size_t)hub->limits.method_bytes) {
        char detail[100];
        (void)snprintf(detail, sizeof(detail), "The payload has %zu bytes, of %" PRId64 " (limits.method_bytes)",
                       call->payload.len, hub->limits.method_bytes);
        refuse(call, NV_HUB_ERROR_MessageTooLarge, detail);
    } else if (err != NV_OK) {
        refuse(call, NV_HUB_ERROR_ArgumentInvalid, "The payload is not JSON, or nested too deep");
    }
    return err == NV_OK;
}

static bool check(const nv_hub *hub, nv_method_call *call, nv_buf *payload)
{
    if (!is_name(call->name)) {
        refuse(call, NV_HUB_ERROR_ArgumentInvalid, "methodName is 1 to 100 of A-Z a-z 0-9 . _ * -");
        return false;
    }
    return check_timeouts(hub, call) && check_payload(hub, call, payload);
}

void nv_method_invoke(nv_hub_loop *loop, nv_method_call *call)
{
    nv_hub *hub = loop->hub;
    nv_hub_loop *shard = nv_hub_shard_loop(hub, call->device_id);
    method_op *op = nv_calloc(1, sizeof(*op));
    op->call = call;
    op->methods = shard->methods;
    op->state = OP_STARTING;
    nv_list_init(&op->link);
    call->_loop = loop;
    call->_op = op;
    call->error = NV_HUB_ERROR_NONE;
    call->detail[0] = '\0';
    call->status = 0;
    call->answer = (nv_buf){0};
    if (!check(hub, call, &op->payload)) {
        post_done(op);
    } else if (call->device_id.len > NV_ID_MAX || call->module_id.len > NV_ID_MAX) {
        refuse(call, NV_HUB_ERROR_DeviceNotFound, ""); /* no identity can have such an id */
        post_done(op);
    } else {
        op->task.run = start_on_shard;
        nv_post(shard->exec, &op->task);
    }
}

/* ---- the caller goes ------------------------------------------------------------------------------------------- */

static void cancel_on_loop(nv_task *task)
{
    method_op *op = nv_container_of(task, method_op, cancel);
    op->cancelling = false;
    if (op->done) {
        tell_caller(op);
    } /* else it looks its identity up, and ends with that */
}

static void cancel_on_shard(nv_task *task)
{
    method_op *op = nv_container_of(task, method_op, cancel);
    nv_exec *back = op->call->_loop->exec;
    if (nv_list_linked(&op->link) && op->state == OP_LOOKING) {
        op->unwanted = true;
    } else if (nv_list_linked(&op->link)) {
        fail(op, NV_HUB_ERROR_ServiceUnavailable, UNWANTED);
    }
    op->cancel.run = cancel_on_loop; /* behind done, if that was posted */
    nv_post(back, &op->cancel);
}

void nv_method_cancel(nv_method_call *call)
{
    method_op *op = call->_op;
    if (!op->cancelling && !op->done) {
        op->cancelling = true;
        op->cancel.run = cancel_on_shard;
        nv_post(op->methods->loop->exec, &op->cancel);
    }
}

/* ---- answers --------------------------------------------------------------------------------------------------- */

typedef struct answer {
    nv_task task;
    nv_methods *methods;
    uint64_t number;
    uint64_t connection;
    int64_t status;
    nv_err err; /* of the payload */
    nv_buf payload;
} answer;

static void answer_on_shard(nv_task *task)
{
    answer *a = nv_container_of(task, answer, task);
    method_op *op = nv_map_get(&a->methods->asked, nv_span_of(&a->number, sizeof(a->number)));
    if (op && op->connection == a->connection) {
        nv_method_call *call = op->call;
        if (a->err == NV_OK) {
            call->status = a->status;
            call->answer = a->payload;
            a->payload = (nv_buf){0};
            finish(op);
        } else {
            fail(op, NV_HUB_ERROR_BadDeviceResponse,
                 a->err == NV_E_SYNTAX ? "The payload of the device's answer is not JSON"
                                       : "The payload of the device's answer is larger or deeper than the limit");
        }
    }
    nv_buf_deinit(&a->payload);
    free(a);
}

void nv_method_answer(nv_claim *claim, uint64_t call, int64_t status, nv_span payload)
{
    nv_hub_loop *shard = nv_hub_shard_loop(claim->_loop->hub, claim->identity->device_id);
    answer *a = nv_calloc(1, sizeof(*a));
    *a = (answer){.task.run = answer_on_shard,
                  .methods = shard->methods,
                  .number = call,
                  .connection = nv_claim_number(claim),
                  .status = status};
    a->err = keep_payload(payload, shard->hub->limits.method_bytes, &a->payload);
    nv_post(shard->exec, &a->task);
}

/* ---- the end of the hub ---------------------------------------------------------------------------------------- */

void nv_methods_turn_end(nv_methods *methods)
{
    if (methods->closed || !atomic_load_explicit(&methods->loop->hub->_stopping, memory_order_relaxed)) {
        return;
    }
    methods->closed = true; /* what looks for its identity now hears of it when it comes back */
    for (nv_list *node = methods->all.next; node != &methods->all;) {
        method_op *op = nv_container_of(node, method_op, link);
        node = node->next;
        if (op->state != OP_LOOKING) {
            fail(op, NV_HUB_ERROR_ServiceUnavailable, "The hub is stopping");
        }
    }
}
