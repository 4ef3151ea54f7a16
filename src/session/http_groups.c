/** /nave/v1/consumer-groups: who reads the built-in endpoint side by side (amqp.md section 5). */
#include "session/http_exchange.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "core/event_hub.h"

#include <stdlib.h>

static void write_group(nv_json_writer *w, const nv_group *group)
{
    char time[NV_TIME_TEXT_SIZE];
    nv_time_format(group->created_us, time);
    nv_json_begin_object(w);
    nv_json_key(w, "name");
    nv_json_string(w, group->name);
    nv_json_key(w, "createdTime");
    nv_json_str(w, time);
    nv_json_end_object(w);
}

/* ---- GET ------------------------------------------------------------------------------------------------------- */

typedef struct listing {
    nv_json_writer w;
    nv_span only; /* this name; empty: all */
    bool found;
} listing;

static void list_group(void *arg, const nv_group *group)
{
    listing *list = arg;
    if (list->only.len == 0 || nv_span_eq_nocase(list->only, group->name)) {
        list->found = true;
        write_group(&list->w, group);
    }
}

void nv_http_groups_list(nv_http_exchange *x)
{
    nv_buf body;
    nv_buf_init(&body, NV_HTTP_REPLY_MAX);
    listing list = {.w = nv_json_writer_of(&body)};
    nv_json_begin_object(&list.w);
    nv_json_key(&list.w, "eventHub");
    nv_json_string(&list.w, nv_event_hub_entity(x->hub));
    nv_json_key(&list.w, "consumerGroups");
    nv_json_begin_array(&list.w);
    nv_groups_list(x->hub, list_group, &list);
    nv_json_end_array(&list.w);
    nv_json_end_object(&list.w);
    nv_http_send_json(x, &list.w, NV_SPAN_EMPTY);
    nv_buf_deinit(&body);
}

static void fail_unknown(nv_http_exchange *x)
{
    nv_http_fail(x, NV_HUB_ERROR_ResourceNotFound, "There is no consumer group of this name");
}

void nv_http_group_get(nv_http_exchange *x)
{
    nv_buf body;
    nv_buf_init(&body, NV_HTTP_REPLY_MAX);
    listing list = {.w = nv_json_writer_of(&body), .only = x->command};
    nv_groups_list(x->hub, list_group, &list);
    if (list.found) {
        nv_http_send_json(x, &list.w, NV_SPAN_EMPTY);
    } else {
        fail_unknown(x);
    }
    nv_buf_deinit(&body);
}

/* ---- PUT, DELETE ----------------------------------------------------------------------------------------------- */

static void changed(nv_group_change *change)
{
    nv_http_exchange *x = change->arg;
    if (change->error != NV_HUB_ERROR_NONE) {
        nv_http_fail(x, change->error, change->detail);
    } else if (!change->create && !change->existed) {
        fail_unknown(x);
    } else if (!change->create) {
        nv_http_send(x, &(nv_http_reply){.status = 204});
    } else {
        nv_buf body;
        nv_buf_init(&body, NV_HTTP_REPLY_MAX);
        nv_json_writer w = nv_json_writer_of(&body);
        write_group(&w, &(nv_group){change->name, change->created_us});
        nv_http_send(x, &(nv_http_reply){.status = change->existed ? 200 : 201, .body = nv_buf_span(&body)});
        nv_buf_deinit(&body);
    }
}

static void change_group(nv_http_exchange *x, bool create)
{
    nv_group_change *change = nv_calloc(1, sizeof(*change));
    *change = (nv_group_change){.name = x->command, .create = create, .done = changed, .arg = x};
    x->op = change;
    x->op_free = free;
    nv_group_change_do(x->loop, change);
}

void nv_http_group_put(nv_http_exchange *x)
{
    change_group(x, true);
}

void nv_http_group_delete(nv_http_exchange *x)
{
    change_group(x, false);
}
