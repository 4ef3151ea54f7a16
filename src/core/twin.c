/*
 * Requests for twins become operations of the state store.
 *
 *   loop: read the body,         store's thread: decide      the device's shard:      loop that asked:
 *         check it (twin_check) -> and write (twin_update) -> notify the device -----> done
 *                                  ------- commit ------->
 *
 * A shard's loop gets the completions in the order of the commits, so a device hears of its changes in their order.
 */
#include "core/twin_update.h"

#include "base/alloc.h"
#include "base/diag.h"
#include "core/events.h"
#include "store/state_c2d.h"

#include <stdlib.h>

#define MODEL_ID_MAX 2048u
/* Each repetition sees all that was told before it, so that only a twin which changes during every one needs more. */
#define READS_MAX 100u

typedef struct operation {
    nv_state_op op;
    nv_twin_request *request;
    nv_hub_loop *shard;
    nv_twin_update update;
    nv_twin_patch patch;
    bool has_patch;
    nv_twin *twin; /* of the answer */
    unsigned reads;
} operation;

static void operation_free(operation *self)
{
    nv_twin_unref(self->twin);
    nv_twin_update_deinit(&self->update);
    if (self->has_patch) {
        nv_twin_patch_deinit(&self->patch);
    }
    free(self);
}

/* ---- the answer, on the loop that asked ---- */

static void answer(operation *self)
{
    nv_twin_request *request = self->request;
    request->error = self->update.verdict.error;
    memcpy(request->detail, self->update.verdict.detail, sizeof(request->detail));
    if (request->error == NV_HUB_ERROR_NONE) {
        request->twin = self->twin;
        request->reported_version = self->update.row.reported_version;
        self->twin = NULL;
    }
    if (request->told && request->reported_version > request->told->reported) {
        request->told->reported = request->reported_version;
    }
    if (request->twin) {
        const nv_identity *identity = request->twin->identity;
        request->twin->presence = nv_presence_now(request->_loop->hub, identity->device_id, identity->module_id);
    }
    operation_free(self);
    request->_op = NULL;
    request->done(request);
}

static void answer_task(nv_task *task)
{
    nv_twin_request *request = nv_container_of(task, nv_twin_request, _task);
    answer(request->_op);
}

/* ---- after the commit, on the shard ---- */

static void notify(const operation *self)
{
    const nv_twin_update *update = &self->update;
    if (!nv_devices_wants(self->shard, update->device_id, update->module_id, NV_WANTS_DESIRED)) {
        return;
    }
    nv_delivery *delivery = nv_delivery_new(NV_DELIVER_DESIRED, NV_SPAN_EMPTY, nv_buf_span(&update->desired_news));
    delivery->version = update->row.desired_version;
    (void)nv_devices_deliver(self->shard, update->device_id, update->module_id, delivery);
}

/* What run() decided does not count when the transaction failed. */
static void judge(operation *self)
{
    if (self->op.status != NV_OK && self->op.status != NV_TWIN_REFUSED) {
        self->update.verdict = (nv_verdict){.error = nv_hub_error_of(self->op.status)};
    }
}

static void write_done(nv_state_op *op)
{
    operation *self = nv_container_of(op, operation, op);
    nv_hub_loop *asked = self->request->_loop;
    judge(self);
    if (op->status == NV_OK && self->update.desired_changed) {
        notify(self);
    }
    if (op->status == NV_OK && self->update.event) {
        nv_events_committed(asked->hub);
    }
    if (self->shard == asked) {
        answer(self);
    } else {
        nv_post(asked->exec, &self->request->_task);
    }
}

/* The reader took its look, then a change was committed and told to this connection, and only now is it our turn. */
static bool is_outdated(const operation *self)
{
    const nv_twin_told *told = self->request->told;
    return told && self->twin &&
           (self->twin->desired_version < told->desired || self->twin->reported_version < told->reported);
}

static void read_done(nv_state_op *op)
{
    operation *self = nv_container_of(op, operation, op);
    nv_hub *hub = self->request->_loop->hub;
    judge(self);
    if (op->status == NV_OK && is_outdated(self) && ++self->reads < READS_MAX &&
        nv_state_read(hub->state, &self->op) == NV_OK) {
        return;
    }
    answer(self);
}

/* ---- within the transaction ---- */

static nv_err make_twin(operation *self, nv_txn *txn, const nv_twin_row *row)
{
    nv_identity_row identity;
    nv_err err = nv_txn_identity_get(txn, self->request->device_id, self->request->module_id, &identity);
    if (err == NV_OK) {
        self->twin = nv_twin_new(&identity, row);
        err = self->twin ? NV_OK : NV_E_CORRUPT;
    }
    if (err == NV_OK && identity.module_id.len == 0) {
        err = nv_txn_c2d_depth(txn, identity.device_id, &self->twin->c2d_count);
    }
    return err;
}

static nv_err run_write(nv_state_op *op, nv_txn *txn)
{
    operation *self = nv_container_of(op, operation, op);
    nv_twin_unref(self->twin);
    self->twin = NULL;
    nv_err err = nv_twin_update_run(&self->update, txn);
    /* A device asks for no more than the version. */
    return err == NV_OK && self->request->verb != NV_TWIN_REPORTED ? make_twin(self, txn, &self->update.row) : err;
}

static nv_err run_read(nv_state_op *op, nv_txn *txn)
{
    operation *self = nv_container_of(op, operation, op);
    nv_twin_unref(self->twin);
    self->twin = NULL;
    nv_twin_row row;
    nv_err err = nv_twin_update_find(&self->update, txn, &row);
    self->update.row.reported_version = err == NV_OK ? row.reported_version : 0;
    return err == NV_OK ? make_twin(self, txn, &row) : err;
}

/* ---- asking ---- */

static nv_twin_form form_of(nv_twin_verb verb)
{
    return verb == NV_TWIN_REPORTED  ? NV_TWIN_FORM_REPORTED
           : verb == NV_TWIN_REPLACE ? NV_TWIN_FORM_REPLACE
                                     : NV_TWIN_FORM_PATCH;
}

static operation *operation_new(nv_hub_loop *loop, nv_twin_request *request)
{
    operation *self = nv_malloc(sizeof(*self)); /* the patch's room for nodes need not be cleared */
    self->op = (nv_state_op){0};
    self->request = request;
    self->shard = nv_hub_shard_loop(loop->hub, request->device_id);
    self->has_patch = false;
    self->twin = NULL;
    self->reads = 0;
    self->update = (nv_twin_update){.hub = loop->hub,
                                    .verb = request->verb,
                                    .device_id = request->device_id,
                                    .module_id = request->module_id,
                                    .generation = request->generation,
                                    .precondition = request->precondition,
                                    .etag = request->etag,
                                    .has_version = request->has_version,
                                    .version = request->version,
                                    .patch = &self->patch};
    nv_twin_update_init(&self->update);
    return self;
}

static nv_err submit(operation *self, nv_hub_loop *loop)
{
    if (self->request->verb == NV_TWIN_GET) {
        self->op.exec = loop->exec;
        self->op.run = run_read;
        self->op.done = read_done;
        return nv_state_read(loop->hub->state, &self->op);
    }
    self->op.exec = self->shard->exec;
    self->op.run = run_write;
    self->op.done = write_done;
    return nv_state_write(loop->hub->state, &self->op);
}

void nv_twin_do(nv_hub_loop *loop, nv_twin_request *request)
{
    operation *self = operation_new(loop, request);
    request->_loop = loop;
    request->_op = self;
    request->_task.run = answer_task;
    request->twin = NULL;
    request->reported_version = 0;
    if (request->verb != NV_TWIN_GET) {
        self->has_patch = true;
        if (!nv_twin_patch_init(&self->patch, request->body, form_of(request->verb), &self->update.verdict)) {
            nv_post(loop->exec, &request->_task);
            return;
        }
    }
    nv_err err = submit(self, loop);
    if (err != NV_OK) {
        self->update.verdict = (nv_verdict){.error = nv_hub_error_of(err)};
        nv_post(loop->exec, &request->_task);
    }
}

/* ---- models ---- */

typedef struct announcement {
    nv_state_op op;
    nv_identity *identity;
    uint64_t generation;
    size_t len;
    uint8_t model_id[];
} announcement;

static nv_err run_announce(nv_state_op *op, nv_txn *txn)
{
    announcement *self = nv_container_of(op, announcement, op);
    nv_span model_id = nv_span_of(self->model_id, self->len);
    const nv_identity *identity = self->identity;
    nv_twin_row row;
    nv_err err = nv_txn_twin_get(txn, identity->device_id, identity->module_id, &row);
    if (err != NV_OK || row.generation != self->generation || nv_span_eq(row.model_id, model_id)) {
        return err == NV_E_NOT_FOUND ? NV_OK : err;
    }
    row.model_id = model_id;
    return nv_txn_twin_put(txn, identity->device_id, identity->module_id, &row, false);
}

static void announce_done(nv_state_op *op)
{
    announcement *self = nv_container_of(op, announcement, op);
    if (op->status != NV_OK) {
        nv_subject subject = {.device = self->identity->device_id, .module = self->identity->module_id};
        nv_diag(NV_LEVEL_WARN, "twin", &subject,
                "the model id %.*s could not be stored (%s); the next CONNECT tries again", (int)self->len,
                self->model_id, nv_err_text(op->status));
    }
    nv_identity_unref(self->identity);
    free(self);
}

void nv_twin_announce_model(nv_hub_loop *loop, nv_identity *identity, nv_span model_id)
{
    uint64_t generation;
    if (model_id.len == 0 || model_id.len > MODEL_ID_MAX || !nv_span_to_u64(identity->generation_id, &generation)) {
        return;
    }
    announcement *self = nv_malloc(sizeof(*self) + model_id.len);
    *self = (announcement){.op = {.exec = loop->exec, .run = run_announce, .done = announce_done},
                           .identity = nv_identity_ref(identity),
                           .generation = generation,
                           .len = model_id.len};
    memcpy(self->model_id, model_id.ptr, model_id.len);
    nv_err err = nv_state_write(loop->hub->state, &self->op);
    if (err != NV_OK) {
        self->op.status = err;
        announce_done(&self->op);
    }
}
