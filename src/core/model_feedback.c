/* A service that reads feedback: in order, everything that no other read has locked, until it says that it is done. */
#include "core/model_c2d.h"

#include <stdlib.h>
#include <string.h>

typedef struct reading {
    model *w;
    nv_feedback_take take;
    nv_feedback_settle settle;
    bool done;
} reading;

static void take_done(nv_feedback_take *take)
{
    nv_container_of(take, reading, take)->done = true;
}

static void settle_done(nv_feedback_settle *settle)
{
    nv_container_of(settle, reading, settle)->done = true;
}

static const char *member(json_object *from, const char *name)
{
    json_object *value = NULL;
    return json_object_object_get_ex(from, name, &value) ? json_object_get_string(value) : "";
}

static bool says(json_object *got, const model *w, const record *want)
{
    static const char *const names[] = {"Success", "Expired", "DeliveryCountExceeded", "Rejected", "Purged"};
    char number[24];
    char generation[24];
    const model_slot *slot = &w->slots[want->slot];
    (void)snprintf(number, sizeof(number), "%llu", (unsigned long long)want->number);
    (void)snprintf(generation, sizeof(generation), "%llu", (unsigned long long)slot->generation);
    return strcmp(member(got, "originalMessageId"), number) == 0 &&
           strcmp(member(got, "deviceId"), slot->device) == 0 &&
           strcmp(member(got, "statusCode"), names[want->status]) == 0 &&
           strcmp(member(got, "deviceGenerationId"), generation) == 0;
}

static bool is_free(const model *w, const record *r)
{
    return !r->gone && r->locked_until_us <= model_now(w);
}

/* @return how many records came; they are locked now */
static size_t compare(model *w, const nv_feedback_take *take)
{
    model_queues *q = w->c2d;
    nv_span text = nv_buf_span(&take->records);
    json_object *got = text.len ? model_json_parse((const char *)text.ptr, text.len) : json_object_new_array();
    size_t count = json_object_array_length(got);
    size_t at = 0;
    for (size_t i = 0; i < q->record_count && at < NV_FEEDBACK_BATCH; i++) {
        record *r = &q->records[i];
        if (!is_free(w, r)) {
            continue;
        }
        bool there = at < count && says(json_object_array_get_idx(got, at), w, r);
        if (!there && (model_now(w) < r->doubtful_until_us || model_wall(w) >= r->expires_us)) {
            continue;
        }
        if (!there) {
            model_fail(w, "feedback %zu of %.*s is not that of message %llu, status %d", at, NV_SPAN_ARG(text),
                       (unsigned long long)r->number, (int)r->status);
        }
        r->locked_until_us = model_now(w) + 60 * NV_US_PER_S;
        r->taken = q->takes;
        r->deliveries++;
        at++;
    }
    if (at != count) {
        model_fail(w, "feedback that is not there: %.*s", NV_SPAN_ARG(text));
    }
    json_object_put(got);
    w->done[DID_FEEDBACK] += count;
    return count;
}

static void settled(model *w, bool complete)
{
    for (size_t i = 0; i < w->c2d->record_count; i++) {
        record *r = &w->c2d->records[i];
        if (!r->gone && r->taken == w->c2d->takes) {
            r->locked_until_us = 0;
            r->gone = complete;
        }
    }
}

static void settle(model *w, reading *self, nv_hub_error want)
{
    self->done = false;
    nv_feedback_settle_do(model_loop(w), &self->settle);
    model_quiet(w);
    if (!self->done || (self->settle.error != want && !model_store_failed(w, self->settle.error))) {
        model_fail(w, "settling feedback is answered %s, not %s", nv_hub_error_info_of(self->settle.error)->name,
                   nv_hub_error_info_of(want)->name);
    }
}

void model_feedback(model *w)
{
    w->c2d->takes++;
    reading self = {.w = w, .take = {.done = take_done}};
    nv_feedback_take_do(model_loop(w), &self.take);
    model_quiet(w);
    if (!self.done || (self.take.error != NV_HUB_ERROR_NONE && !model_store_failed(w, self.take.error))) {
        model_fail(w, "taking feedback is answered %s", nv_hub_error_info_of(self.take.error)->name);
    }
    bool some = self.take.error == NV_HUB_ERROR_NONE && compare(w, &self.take) > 0;
    model_note(w, "feedback %.*s", NV_SPAN_ARG(nv_buf_span(&self.take.records)));
    if (some && !model_one_in(w, 4)) {
        self.settle = (nv_feedback_settle){
            .lock_token = nv_span_str(self.take.lock_token), .complete = !model_one_in(w, 3), .done = settle_done};
        model_note(w, "  %s", self.settle.complete ? "completed" : "abandoned");
        settle(w, &self, NV_HUB_ERROR_NONE);
        if (self.settle.error == NV_HUB_ERROR_NONE) {
            settled(w, self.settle.complete);
            settle(w, &self, NV_HUB_ERROR_DeviceMessageLockLost);
        }
    }
    nv_buf_deinit(&self.take.records);
}
