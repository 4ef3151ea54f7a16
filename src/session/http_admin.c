/** For operators and their tools, on loopback: is it well, may it get traffic, what does it count? */
#include "session/http_exchange.h"

#include "base/metrics.h"
#include "store/state.h"

#include <stdatomic.h>

static _Atomic bool ready = true;

void nv_http_set_ready(bool value)
{
    atomic_store_explicit(&ready, value, memory_order_relaxed);
}

static void send_state(nv_http_exchange *x, bool good, const char *state, const char *reason)
{
    nv_buf body;
    nv_buf_init(&body, 4096);
    nv_json_writer w = nv_json_writer_of(&body);
    nv_json_begin_object(&w);
    nv_json_key(&w, "status");
    nv_json_str(&w, state);
    nv_json_key(&w, "version");
    nv_json_str(&w, NV_VERSION);
    if (!good) {
        nv_json_key(&w, "reason");
        nv_json_str(&w, reason);
    }
    nv_json_end_object(&w);
    nv_http_reply reply = {.status = good ? 200 : 503, .body = nv_buf_span(&body)};
    if (!good) {
        reply.error_name = nv_hub_error_info_of(NV_HUB_ERROR_ServiceUnavailable)->name;
    }
    nv_http_send(x, &reply);
    nv_buf_deinit(&body);
}

void nv_http_healthz(nv_http_exchange *x)
{
    static const char *const states[] = {
        [NV_LOG_OK] = "ok", [NV_LOG_FULL] = "log-full", [NV_LOG_FAILED] = "log-failed"};
    nv_log_status status;
    char reason[NV_HUB_REASON];
    nv_err state = nv_state_health(x->hub->state);
    nv_log_get_status(x->hub->log, &status);
    nv_hub_storage_reason(x->hub, reason);
    if (status.health == NV_LOG_OK && state != NV_OK) {
        send_state(x, false, state == NV_E_NO_SPACE ? "state-full" : "state-failed", reason);
    } else {
        send_state(x, status.health == NV_LOG_OK, states[status.health], reason);
    }
}

void nv_http_readyz(nv_http_exchange *x)
{
    bool good = atomic_load_explicit(&ready, memory_order_relaxed);
    send_state(x, good, good ? "ready" : "stopping", "the hub is starting or stopping");
}

void nv_http_metrics(nv_http_exchange *x)
{
    nv_buf body;
    nv_buf_init(&body, 256u << 10);
    nv_err err = nv_buf_printf(&body,
                               "# HELP nave_build_info the version that runs\n# TYPE nave_build_info gauge\n"
                               "nave_build_info{version=\"%s\"} 1\n",
                               NV_VERSION);
    for (size_t i = 0; i < NV_METRIC_COUNT && err == NV_OK; i++) {
        const nv_metric_info *info = &nv_metric_infos[i];
        err = nv_buf_printf(&body, "# HELP %s %s\n# TYPE %s %s\n%s %lld\n", info->name, info->help, info->name,
                            info->kind, info->name, (long long)nv_metric_get((nv_metric)i));
    }
    if (err == NV_OK) {
        nv_http_send(x, &(nv_http_reply){.status = 200,
                                         .content_type = "text/plain; version=0.0.4; charset=utf-8",
                                         .body = nv_buf_span(&body)});
    } else {
        nv_http_fail(x, NV_HUB_ERROR_ServerError, NULL);
    }
    nv_buf_deinit(&body);
}
