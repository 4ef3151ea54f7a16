/*
 * A page of a query: slices of work on the store's scanning thread, with the loop in between.
 *
 *   loop: parse, plan -> scanner: 2,000 rows or 10 ms -> loop: more to do? -> scanner ... -> loop: done
 *
 * Rows are visited in the order of their ids and the last one is remembered, so that each is seen once although every
 * slice looks at a newer state of the store. A page that is full looks on to the end of its slice, in order not to
 * promise a next page that has nothing on it.
 */
#include "core/query.h"

#include "base/alloc.h"
#include "base/hash.h"
#include "base/metrics.h"
#include "base/sched.h"
#include "codec/json.h"
#include "core/query_kept.h"
#include "core/query_plan.h"
#include "core/query_row.h"
#include "core/query_token.h"
#include "core/twin.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define SLICE_ROWS    2000u
#define SLICE_US      (10 * NV_US_PER_MS)
#define SLICE_IDS     64u
#define SLICE_BYTES   ((size_t)4 << 20) /* of what is read beside the rows of the walk */
#define LOOK_AT_CLOCK 16u               /* rows between two looks */
/* Beyond the page's bytes, for the row that ends it. */
#define ROW_BYTES_MAX ((size_t)8 << 20)

typedef struct work {
    nv_state_op op;
    nv_query_request *request;
    nv_hub *hub;
    nv_query_result result; /* the arena: tree and plan */
    nv_arena scratch;       /* of the row at hand */
    nv_query_plan plan;
    nv_query_row row;
    nv_expr_env env;
    nv_json_writer writer;
    uint64_t query; /* names text and hub in continuations */
    nv_query_position at;
    uint32_t page_left;
    uint32_t id_index; /* of the plan's ids, the one to look at next */
    bool full;         /* the page takes no more */
    bool finished;     /* there are no further rows */
    nv_hub_error refusal;
    _Atomic bool cancelled;
    /* the slice at hand */
    nv_txn *txn;
    int64_t until_us;
    int64_t turn_us; /* when to let others go first */
    uint32_t rows;
    size_t bytes;
} work;

/* ---- refusals ----------------------------------------------------------------------------------------------- */

static void refuse(nv_query_request *request, nv_hub_error error, const char *detail)
{
    request->error = error;
    (void)snprintf(request->detail, sizeof(request->detail), "%s", detail);
}

/* ---- one row ------------------------------------------------------------------------------------------------ */

static nv_err write_twin(work *self, const nv_identity_row *identity, const nv_twin_row *walked)
{
    nv_twin_row row = *walked;
    if (walked->stored) {
        nv_err err = nv_txn_twin_get(self->txn, identity->device_id, identity->module_id, &row);
        if (err != NV_OK) {
            return err;
        }
        self->bytes += row.desired_metadata.len + row.reported_metadata.len;
    }
    nv_twin *twin = nv_twin_new(identity, &row);
    if (!twin) {
        return NV_E_CORRUPT;
    }
    twin->presence = nv_presence_now(self->hub, identity->device_id, identity->module_id);
    twin->c2d_count = nv_query_c2d_count(self->txn, identity);
    nv_twin_write_service(twin, &self->writer);
    nv_twin_unref(twin);
    return self->writer.err;
}

static nv_err write_row(work *self, const nv_identity_row *identity, const nv_twin_row *twin)
{
    nv_err err = NV_OK;
    if (self->result.tree.all) {
        err = write_twin(self, identity, twin);
    } else {
        nv_query_columns_write(&self->result.tree, &self->env, &self->writer);
        err = self->writer.err;
    }
    self->page_left--;
    self->at.top_left--;
    self->full = self->page_left == 0 || nv_buf_len(&self->request->rows) >= NV_QUERY_PAGE_BYTES;
    self->finished = self->at.top_left == 0;
    return err;
}

/* @return NV_E_MORE: the row is for the next page */
static nv_err take_row(work *self, const nv_identity_row *identity, const nv_twin_row *twin)
{
    if (!self->result.tree.grouped) {
        return self->full ? NV_E_MORE : write_row(self, identity, twin);
    }
    nv_err err = nv_query_groups_add(&self->result.groups, &self->env);
    self->refusal = err == NV_E_LIMIT ? NV_HUB_ERROR_ArgumentInvalid : NV_HUB_ERROR_NONE;
    return err;
}

static void remember(work *self, const nv_identity_row *identity)
{
    self->at.device_len = (uint8_t)identity->device_id.len;
    memcpy(self->at.device, identity->device_id.ptr, identity->device_id.len);
    self->at.module_len = (uint8_t)identity->module_id.len;
    if (identity->module_id.len) {
        memcpy(self->at.module, identity->module_id.ptr, identity->module_id.len);
    }
}

/* Between two rows. The scanner shares the core of a loop where there is no other. */
static bool time_is_up(work *self)
{
    int64_t now_us = nv_mono_us(nv_clock_system());
    if (now_us >= self->turn_us) {
        nv_sched_turn();
        self->turn_us = nv_mono_us(nv_clock_system()) + NV_SCHED_TURN_US;
    }
    return now_us >= self->until_us;
}

static bool slice_is_over(work *self)
{
    return self->finished || self->rows >= SLICE_ROWS || self->bytes >= SLICE_BYTES ||
           (self->rows % LOOK_AT_CLOCK == 0 && time_is_up(self));
}

/* @return NV_E_MORE: the slice is over, or the page */
static nv_err visit(void *arg, const nv_identity_row *identity, const nv_twin_row *twin)
{
    work *self = arg;
    if (identity->device_id.len > NV_ID_MAX || identity->module_id.len > NV_ID_MAX) {
        return NV_E_CORRUPT;
    }
    if (self->plan.kind == NV_PLAN_PREFIX && !nv_span_starts_with(identity->device_id, self->plan.prefix)) {
        self->finished = true; /* ids are in order: nothing behind it begins so */
        return NV_E_MORE;
    }
    self->rows++;
    self->row.identity = identity;
    self->row.twin = twin;
    self->row._row++;
    nv_arena_reset(&self->scratch);
    if (!self->result.tree.where || nv_expr_selects(self->result.tree.where, &self->env)) {
        nv_err err = take_row(self, identity, twin);
        if (err != NV_OK) {
            return err;
        }
    }
    self->bytes += self->row.fetched;
    self->row.fetched = 0;
    remember(self, identity);
    return slice_is_over(self) ? NV_E_MORE : NV_OK;
}

/* ---- finding rows ------------------------------------------------------------------------------------------- */

static nv_span at_device(const work *self)
{
    return nv_span_of(self->at.device, self->at.device_len);
}

static nv_span at_module(const work *self)
{
    return nv_span_of(self->at.module, self->at.module_len);
}

/* Of an identity that did not come from a walk. */
static nv_err visit_identity(void *arg, const nv_identity_row *identity)
{
    work *self = arg;
    nv_twin_row twin;
    nv_err err = nv_txn_twin_get(self->txn, identity->device_id, identity->module_id, &twin);
    if (err != NV_OK) {
        return err == NV_E_NOT_FOUND ? NV_OK : err;
    }
    self->bytes += twin.tags.len + twin.desired.len + twin.reported.len;
    return visit(self, identity, &twin);
}

static nv_err look_up_device(work *self, nv_span id)
{
    nv_identity_row identity;
    nv_err err = nv_txn_identity_get(self->txn, id, NV_SPAN_EMPTY, &identity);
    return err == NV_OK ? visit_identity(self, &identity) : err == NV_E_NOT_FOUND ? NV_OK : err;
}

static nv_err look_up_modules(work *self, nv_span id)
{
    bool within = nv_span_eq(id, at_device(self));
    uint8_t copy[NV_ID_MAX];
    nv_span after = within ? at_module(self) : NV_SPAN_EMPTY;
    if (after.len) {
        memcpy(copy, after.ptr, after.len); /* what it points at changes with every row */
        after.ptr = copy;
    }
    return nv_txn_modules(self->txn, id, after, UINT32_MAX, visit_identity, self);
}

static nv_err look_up_ids(work *self)
{
    nv_err err = NV_OK;
    uint32_t looked = 0;
    while (err == NV_OK && self->id_index < self->plan.id_count && looked++ < SLICE_IDS) {
        nv_span id = self->plan.ids[self->id_index];
        err = self->plan.modules ? look_up_modules(self, id) : look_up_device(self, id);
        /* a device is looked at again only when its row was not taken */
        bool passed = err == NV_OK || (err == NV_E_MORE && !self->plan.modules && nv_span_eq(id, at_device(self)));
        self->id_index += passed ? 1 : 0;
    }
    if (err != NV_OK) {
        return err;
    }
    return self->id_index < self->plan.id_count ? NV_E_MORE : NV_OK;
}

/* The ids behind the row of the page before. */
static void skip_ids(work *self)
{
    while (self->id_index < self->plan.id_count) {
        int order = nv_span_cmp(self->plan.ids[self->id_index], at_device(self));
        if (order > 0 || (order == 0 && self->plan.modules)) {
            return;
        }
        self->id_index++;
    }
}

static nv_err walk(work *self)
{
    const nv_query_plan *plan = &self->plan;
    uint8_t device[NV_ID_MAX];
    uint8_t module[NV_ID_MAX];
    memcpy(device, self->at.device, sizeof(device));
    memcpy(module, self->at.module, sizeof(module));
    nv_twin_walk from = {.modules = plan->modules,
                         .after_device = nv_span_of(device, self->at.device_len),
                         .after_module = nv_span_of(module, self->at.module_len),
                         .limit = SLICE_ROWS + 1};
    switch (plan->kind) {
    case NV_PLAN_PREFIX:
        if (self->at.device_len == 0) {
            from.after_device.len = nv_query_plan_before(plan, device);
        }
        return nv_txn_twins_walk(self->txn, &from, visit, self);
    case NV_PLAN_SCAN:
        return nv_txn_twins_walk(self->txn, &from, visit, self);
    case NV_PLAN_MODULE:
        return nv_txn_twins_of_module(self->txn, plan->module_id, from.after_device, from.limit, visit, self);
    case NV_PLAN_TAG:
        return nv_txn_twins_by_tag(self->txn, nv_span_of(plan->tag_path, plan->tag_path_len),
                                   nv_span_of(plan->tag_value, plan->tag_value_len), &from, visit, self);
    case NV_PLAN_IDS:
        break;
    }
    return look_up_ids(self);
}

/* Thread: the store's. */
static nv_err run_slice(nv_state_op *op, nv_txn *txn)
{
    work *self = nv_container_of(op, work, op);
    if (atomic_load_explicit(&self->cancelled, memory_order_relaxed)) {
        self->finished = true;
        return NV_OK;
    }
    self->txn = txn;
    self->row.txn = txn;
    self->rows = 0;
    self->bytes = 0;
    self->until_us = nv_mono_us(nv_clock_system()) + SLICE_US;
    self->turn_us = self->until_us - SLICE_US + NV_SCHED_TURN_US;
    nv_err err = walk(self);
    self->finished = self->finished || err == NV_OK;
    nv_metric_add(NV_M_QUERY_ROWS, self->rows);
    return err == NV_E_MORE ? NV_OK : err;
}

/* ---- the answer, on the loop --------------------------------------------------------------------------------- */

static void work_free(work *self)
{
    nv_query_result_deinit(&self->result);
    free(self->row._slots);
    free(self->row._filled);
    nv_arena_deinit(&self->scratch);
    free(self);
}

static void finish(nv_query_request *request)
{
    work *self = request->_op;
    request->_op = NULL;
    if (self) {
        atomic_fetch_sub_explicit(&self->hub->_queries, 1, memory_order_relaxed);
        work_free(self);
    }
    if (request->error != NV_HUB_ERROR_NONE) {
        nv_buf_clear(&request->rows);
        nv_buf_clear(&request->next);
    }
    request->done(request);
}

static void finish_task(nv_task *task)
{
    finish(nv_container_of(task, nv_query_request, _task));
}

static void write_groups(work *self, nv_query_groups *groups)
{
    uint32_t limit = self->page_left < self->at.top_left ? self->page_left : self->at.top_left;
    bool more = false;
    uint64_t last = 0;
    uint32_t written =
        nv_query_groups_write(groups, self->at.in_groups ? &self->at.group : NULL, limit, &self->writer, &last, &more);
    self->at.top_left -= written < self->at.top_left ? written : self->at.top_left;
    self->at.device_len = 0;
    self->at.module_len = 0;
    self->at.in_groups = true;
    self->at.group = last;
    self->finished = !more || self->at.top_left == 0;
}

/* The rows are there: end them, and say where the next page begins. */
static void end_page(work *self)
{
    nv_query_request *request = self->request;
    nv_json_end_array(&self->writer);
    nv_err err = self->writer.err;
    if (err == NV_OK && !self->finished) {
        err = nv_query_token_write(&self->at, self->query, &request->next);
    }
    if (err != NV_OK) {
        refuse(request, NV_HUB_ERROR_ServerError, "");
    }
}

static void answer(work *self)
{
    nv_query_request *request = self->request;
    if (self->result.tree.grouped) {
        write_groups(self, &self->result.groups);
    }
    end_page(self);
    if (self->result.tree.grouped && !self->finished) {
        nv_query_kept_put(request->_loop->queries, request->text, &self->result);
    }
    finish(request);
}

static void slice_done(nv_state_op *op)
{
    work *self = nv_container_of(op, work, op);
    nv_query_request *request = self->request;
    if (atomic_load_explicit(&self->cancelled, memory_order_relaxed)) {
        refuse(request, NV_HUB_ERROR_ServiceUnavailable, "");
        finish(request);
    } else if (self->refusal != NV_HUB_ERROR_NONE) {
        refuse(request, self->refusal, "The query is invalid: it has more groups than a query can have");
        finish(request);
    } else if (op->status != NV_OK) {
        refuse(request, nv_hub_error_of(op->status), "");
        finish(request);
    } else if (self->finished || self->full) {
        answer(self);
    } else if (nv_state_scan(self->hub->state, op) != NV_OK) {
        refuse(request, NV_HUB_ERROR_ThrottlingException, "");
        finish(request);
    }
}

/* ---- asking ------------------------------------------------------------------------------------------------- */

static bool text_fits(nv_query_request *request)
{
    size_t count = 0;
    for (size_t i = 0; i < request->text.len; i++) {
        count += (request->text.ptr[i] & 0xc0) != 0x80 ? 1 : 0;
    }
    if (count <= NV_QUERY_TEXT_MAX && request->text.len <= (size_t)4 * NV_QUERY_TEXT_MAX) {
        return true;
    }
    char detail[sizeof(request->detail)];
    (void)snprintf(detail, sizeof(detail), "The query is invalid: it has %zu characters, at most %u are possible",
                   count, NV_QUERY_TEXT_MAX);
    refuse(request, NV_HUB_ERROR_ArgumentInvalid, detail);
    return false;
}

static bool begin_page(work *self)
{
    nv_query_request *request = self->request;
    uint32_t page = request->page ? request->page : NV_QUERY_PAGE_DEFAULT;
    self->page_left = page < NV_QUERY_PAGE_MAX ? page : NV_QUERY_PAGE_MAX;
    self->query = nv_hash_stable(request->text) ^ nv_hash_stable(nv_state_id(self->hub->state));
    self->at.top_left = self->result.tree.has_top ? self->result.tree.top : UINT32_MAX;
    if (request->continuation.len == 0) {
        return true;
    }
    if (!nv_query_token_read(request->continuation, self->query, &self->at) ||
        self->at.in_groups != self->result.tree.grouped) {
        refuse(request, NV_HUB_ERROR_ArgumentInvalid, "The continuation token is not one of this query");
        return false;
    }
    return true;
}

/* What a row remembers of itself while it is looked at. */
static void begin_rows(work *self)
{
    size_t paths = self->result.tree.path_count ? self->result.tree.path_count : 1;
    self->row = (nv_query_row){.hub = self->hub,
                               .scratch = &self->scratch,
                               ._slots = nv_calloc(paths, sizeof(nv_datum)),
                               ._filled = nv_calloc(paths, sizeof(uint64_t))};
    self->env = (nv_expr_env){.resolve = nv_query_row_value, .arg = &self->row, .scratch = &self->scratch};
    nv_query_groups_init(&self->result.groups, &self->result.tree);
    self->writer = nv_json_writer_of(&self->request->rows);
    nv_json_begin_array(&self->writer);
}

/* @return false: the groups of the page before are not there any more */
static bool continue_groups(work *self)
{
    nv_query_request *request = self->request;
    nv_query_groups *groups = nv_query_kept_get(request->_loop->queries, request->text);
    if (groups) {
        write_groups(self, groups);
        end_page(self);
    }
    return groups != NULL;
}

/* @return false: refused, or the answer is there already */
static bool prepare(work *self)
{
    nv_query_request *request = self->request;
    if (!text_fits(request)) {
        return false;
    }
    if (!nv_query_parse(request->text, &self->result.arena, &self->result.tree, request->detail)) {
        request->error = NV_HUB_ERROR_ArgumentInvalid;
        return false;
    }
    request->item = self->result.tree.from == NV_FROM_JOBS ? NV_QUERY_DEVICE_JOB
                    : self->result.tree.all                ? NV_QUERY_TWIN
                                                           : NV_QUERY_RAW;
    begin_rows(self);
    if (!begin_page(self)) {
        return false;
    }
    if (self->result.tree.from == NV_FROM_JOBS || self->at.top_left == 0) { /* there are no jobs yet */
        nv_json_end_array(&self->writer);
        return false;
    }
    if (self->result.tree.grouped && request->continuation.len && continue_groups(self)) {
        return false;
    }
    nv_query_plan_make(&self->plan, &self->result.tree, &self->result.arena);
    if (!self->result.tree.grouped && request->continuation.len) {
        skip_ids(self);
    } else if (self->result.tree.grouped) {
        self->at.device_len = 0; /* groups need all rows for each page */
        self->at.module_len = 0;
    }
    return true;
}

static bool may_run(nv_hub *hub)
{
    int64_t running = atomic_fetch_add_explicit(&hub->_queries, 1, memory_order_relaxed);
    if (running >= hub->limits.queries) {
        atomic_fetch_sub_explicit(&hub->_queries, 1, memory_order_relaxed);
        return false;
    }
    return true;
}

static bool start(nv_hub_loop *loop, nv_query_request *request)
{
    if (!may_run(loop->hub)) {
        refuse(request, NV_HUB_ERROR_ThrottlingException, "The hub runs as many queries as it may at once");
        return false;
    }
    work *self = nv_calloc(1, sizeof(*self));
    self->op = (nv_state_op){.exec = loop->exec, .run = run_slice, .done = slice_done};
    self->request = request;
    self->hub = loop->hub;
    atomic_init(&self->cancelled, false);
    request->_op = self;
    if (!prepare(self)) {
        return false;
    }
    if (nv_state_scan(loop->hub->state, &self->op) != NV_OK) {
        refuse(request, NV_HUB_ERROR_ThrottlingException, "");
        return false;
    }
    return true;
}

void nv_query_do(nv_hub_loop *loop, nv_query_request *request)
{
    request->_loop = loop;
    request->_op = NULL;
    request->error = NV_HUB_ERROR_NONE;
    request->detail[0] = '\0';
    request->item = NV_QUERY_RAW;
    nv_buf_init(&request->rows, NV_QUERY_PAGE_BYTES + ROW_BYTES_MAX);
    nv_buf_init(&request->next, NV_QUERY_TOKEN_MAX);
    nv_metric_add(NV_M_QUERIES, 1);
    if (!start(loop, request)) {
        request->_task.run = finish_task;
        nv_post(loop->exec, &request->_task);
    }
}

void nv_query_cancel(nv_query_request *request)
{
    work *self = request->_op;
    if (self) {
        atomic_store_explicit(&self->cancelled, true, memory_order_relaxed);
    }
}
