/** Simulated time, on the admin listener: there only when the hub was started with `testing.clock: manual`. */
#include "session/http_exchange.h"

#include "base/alloc.h"
#include "codec/duration.h"

#include <json-c/json.h>
#include <stdlib.h>

#define ADVANCE_MAX_US (INT64_C(3650) * 86400 * NV_US_PER_S)

static void send_now(nv_http_exchange *x)
{
    char now[NV_TIME_TEXT_SIZE];
    nv_time_format(nv_wall_us(x->hub->clock), now);
    nv_buf body;
    nv_buf_init(&body, 256);
    nv_json_writer w = nv_json_writer_of(&body);
    nv_json_begin_object(&w);
    nv_json_key(&w, "now");
    nv_json_str(&w, now);
    nv_json_end_object(&w);
    nv_http_send_json(x, &w, NV_SPAN_EMPTY);
    nv_buf_deinit(&body);
}

/* @return the seam, or NULL: the exchange is ended, as if there were no such path */
static const nv_http_testing *testing_of(nv_http_exchange *x)
{
    const nv_http_testing *testing = nv_http_configured()->testing;
    if (!testing) {
        nv_http_fail(x, NV_HUB_ERROR_ResourceNotFound,
                     "Time is the system's: start the hub with testing.clock: manual");
    }
    return testing;
}

void nv_http_clock(nv_http_exchange *x)
{
    if (testing_of(x)) {
        send_now(x);
    }
}

typedef struct advance {
    nv_http_advance request; /* first member */
    nv_http_exchange *x;
} advance;

static void advanced(nv_task *task)
{
    advance *a = nv_container_of(task, advance, request.done);
    send_now(a->x);
}

/* {"advance":"48h"}. @return false: the exchange is ended */
static bool read_delta(nv_http_exchange *x, int64_t *us)
{
    struct json_object *body = NULL;
    struct json_object *text = NULL;
    if (!nv_http_body_json(x, &body)) {
        return false;
    }
    nv_err err = NV_E_SYNTAX;
    if (json_object_is_type(body, json_type_object) && json_object_object_get_ex(body, "advance", &text) &&
        json_object_is_type(text, json_type_string)) {
        err = nv_duration_parse(nv_span_of(json_object_get_string(text), (size_t)json_object_get_string_len(text)), us);
    }
    json_object_put(body);
    if (err != NV_OK || *us > ADVANCE_MAX_US) {
        nv_http_fail(x, NV_HUB_ERROR_ArgumentInvalid,
                     "Send {\"advance\":\"48h\"}: a time like 90s, 15m, 48h, 2d or PT48H, at most ten years");
        return false;
    }
    return true;
}

void nv_http_clock_advance(nv_http_exchange *x)
{
    const nv_http_testing *testing = testing_of(x);
    int64_t delta_us = 0;
    if (!testing || !read_delta(x, &delta_us)) {
        return;
    }
    advance *a = nv_calloc(1, sizeof(*a));
    a->x = x;
    a->request = (nv_http_advance){.delta_us = delta_us, .exec = x->loop->exec, .done = {.run = advanced}};
    x->op = a;
    x->op_free = free;
    testing->advance(testing->arg, &a->request);
}
