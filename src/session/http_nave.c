/** Our own additions to the service API. */
#include "session/http_exchange.h"

#include "base/clock.h"
#include "codec/ids.h"
#include "core/event_hub.h"
#include "core/policies.h"

#include <stdio.h>

#define REFUSALS_MAX 64

/* ---- GET /nave/v1/hub --------------------------------------------------------------------------------------- */

static void write_names(nv_json_writer *w, const nv_hub *hub)
{
    nv_span host = hub->host_names[0];
    nv_json_key(w, "name");
    nv_json_string(w, nv_span_first(host, nv_span_find(host, '.')));
    nv_json_key(w, "hostName");
    nv_json_string(w, host);
    nv_json_key(w, "hostNames");
    nv_json_begin_array(w);
    for (size_t i = 0; i < hub->host_name_count; i++) {
        nv_json_string(w, hub->host_names[i]);
    }
    nv_json_end_array(w);
    nv_json_key(w, "eventHub");
    nv_json_string(w, nv_event_hub_entity(hub));
    nv_json_key(w, "version");
    nv_json_str(w, NV_VERSION);
}

static void write_partition(nv_json_writer *w, nv_log *log, uint32_t partition)
{
    nv_log_partition_info info;
    if (nv_log_get_partition(log, partition, &info) != NV_OK) {
        return;
    }
    char text[NV_TIME_TEXT_SIZE];
    nv_json_begin_object(w);
    nv_json_key(w, "partition");
    nv_json_uint(w, partition);
    nv_json_key(w, "firstSequence");
    nv_json_uint(w, info.first_sequence);
    nv_json_key(w, "nextSequence");
    nv_json_uint(w, info.next_sequence);
    nv_json_key(w, "lastOffset");
    (void)snprintf(text, sizeof(text), "%llu", (unsigned long long)info.last_offset);
    nv_json_str(w, text);
    nv_json_key(w, "lastEnqueuedTime");
    if (info.last_enqueued_us) {
        nv_time_format(info.last_enqueued_us, text);
        nv_json_str(w, text);
    } else {
        nv_json_null(w);
    }
    nv_json_end_object(w);
}

static void write_log(nv_json_writer *w, nv_log *log)
{
    static const char *const states[] = {[NV_LOG_OK] = "ok", [NV_LOG_FULL] = "full", [NV_LOG_FAILED] = "failed"};
    nv_log_status status;
    nv_log_get_status(log, &status);
    nv_json_key(w, "log");
    nv_json_begin_object(w);
    nv_json_key(w, "state");
    nv_json_str(w, states[status.health]);
    nv_json_key(w, "reason");
    nv_json_str(w, status.reason);
    nv_json_key(w, "mode");
    nv_json_str(w, status.mode ? status.mode : "");
    nv_json_key(w, "storedBytes");
    nv_json_uint(w, status.stored_bytes);
    nv_json_end_object(w);
    nv_json_key(w, "partitions");
    nv_json_begin_array(w);
    for (uint32_t i = 0; i < nv_log_partitions(log); i++) {
        write_partition(w, log, i);
    }
    nv_json_end_array(w);
}

static void write_endpoints(nv_json_writer *w)
{
    const nv_http_config *config = nv_http_configured();
    nv_json_key(w, "endpoints");
    nv_json_begin_object(w);
    for (size_t i = 0; i < config->endpoint_count; i++) {
        nv_json_key(w, config->endpoints[i].name);
        nv_json_str(w, config->endpoints[i].url);
    }
    nv_json_end_object(w);
}

void nv_http_hub(nv_http_exchange *x)
{
    nv_buf body;
    nv_buf_init(&body, NV_HTTP_REPLY_MAX);
    nv_json_writer w = nv_json_writer_of(&body);
    nv_json_begin_object(&w);
    write_names(&w, x->hub);
    write_endpoints(&w);
    write_log(&w, x->hub->log);
    nv_json_end_object(&w);
    nv_http_send_json(x, &w, NV_SPAN_EMPTY);
    nv_buf_deinit(&body);
}

/* ---- GET /nave/v1/policies: names and rights, never keys ---------------------------------------------------- */

static void write_rights(nv_json_writer *w, uint32_t rights)
{
    static const struct {
        uint32_t right;
        const char *name;
    } rows[] = {{NV_RIGHT_REGISTRY_READ, "RegistryRead"},
                {NV_RIGHT_REGISTRY_WRITE, "RegistryWrite"},
                {NV_RIGHT_SERVICE_CONNECT, "ServiceConnect"},
                {NV_RIGHT_DEVICE_CONNECT, "DeviceConnect"}};
    char text[80] = "";
    size_t len = 0;
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        if (rights & rows[i].right) {
            len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%s", len ? ", " : "", rows[i].name);
        }
    }
    nv_json_str(w, text);
}

void nv_http_policies(nv_http_exchange *x)
{
    nv_buf body;
    nv_buf_init(&body, NV_HTTP_REPLY_MAX);
    nv_json_writer w = nv_json_writer_of(&body);
    nv_json_begin_object(&w);
    nv_json_key(&w, "policies");
    nv_json_begin_array(&w);
    const nv_policy *policy = NULL;
    for (size_t i = 0; (policy = nv_policies_at(x->hub->policies, i)) != NULL; i++) {
        nv_json_begin_object(&w);
        nv_json_key(&w, "name");
        nv_json_str(&w, policy->name);
        nv_json_key(&w, "rights");
        write_rights(&w, policy->rights);
        nv_json_end_object(&w);
    }
    nv_json_end_array(&w);
    nv_json_end_object(&w);
    nv_http_send_json(x, &w, NV_SPAN_EMPTY);
    nv_buf_deinit(&body);
}

/* ---- GET /nave/v1/devices/{id}[/modules/{mid}]/refusals ------------------------------------------------------ */

static void write_refusal(nv_json_writer *w, const nv_refusal_entry *entry)
{
    const nv_refusal_info *info = nv_refusal_info_of(entry->refusal);
    char time[NV_TIME_TEXT_SIZE];
    nv_time_format(entry->wall_us, time);
    nv_json_begin_object(w);
    nv_json_key(w, "time");
    nv_json_str(w, time);
    nv_json_key(w, "protocol");
    nv_json_str(w, entry->protocol);
    nv_json_key(w, "address");
    nv_json_str(w, entry->address);
    nv_json_key(w, "refusal");
    nv_json_str(w, info->name);
    nv_json_key(w, "cause");
    nv_json_str(w, info->cause);
    nv_json_key(w, "detail");
    nv_json_str(w, entry->detail);
    nv_json_key(w, "cure");
    nv_json_str(w, info->cure);
    nv_json_key(w, "count");
    nv_json_uint(w, entry->count);
    nv_json_end_object(w);
}

void nv_http_refusals(nv_http_exchange *x)
{
    nv_refusal_entry entries[REFUSALS_MAX];
    size_t count = nv_refusals_list(x->hub->refusals, x->device_id, x->module_id, entries, REFUSALS_MAX);
    nv_buf body;
    nv_buf_init(&body, NV_HTTP_REPLY_MAX);
    nv_json_writer w = nv_json_writer_of(&body);
    nv_json_begin_object(&w);
    nv_json_key(&w, "deviceId");
    nv_json_string(&w, x->device_id);
    if (x->module_id.len > 0) {
        nv_json_key(&w, "moduleId");
        nv_json_string(&w, x->module_id);
    }
    nv_json_key(&w, "refusals");
    nv_json_begin_array(&w);
    for (size_t i = 0; i < count; i++) {
        write_refusal(&w, &entries[i]);
    }
    nv_json_end_array(&w);
    nv_json_end_object(&w);
    nv_http_send_json(x, &w, NV_SPAN_EMPTY);
    nv_buf_deinit(&body);
}
