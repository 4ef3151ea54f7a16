/* Putting events into the outbox. */
#include "core/events.h"

#include "base/diag.h"
#include "base/hash.h"
#include "core/events_drain.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

#define PROPERTIES_MAX UINT16_MAX /* of the log */

bool nv_events_wanted(const nv_hub *hub, nv_source source)
{
    const nv_events *ev = hub->events;
    if (!ev) {
        return false;
    }
    switch (source) {
    case NV_SOURCE_CONNECTION_STATE:
        return ev->config.connection_state;
    case NV_SOURCE_LIFECYCLE:
        return ev->config.lifecycle;
    case NV_SOURCE_TWIN_CHANGE:
        return ev->config.twin_change;
    case NV_SOURCE_DIGITAL_TWIN_CHANGE:
        return ev->config.digital_twin_change;
    case NV_SOURCE_TELEMETRY:
    case NV_SOURCE_JOB_LIFECYCLE:
        return false;
    }
    return false;
}

static nv_err put_system(nv_buf *out, nv_system_property id, nv_span text)
{
    nv_property property = {.id = (uint8_t)id, .value = nv_value_string(text)};
    return nv_property_put(out, &property);
}

static nv_err put_application(nv_buf *out, const char *name, nv_span text)
{
    nv_property property = {.name = nv_span_str(name), .value = nv_value_string(text)};
    return text.len ? nv_property_put(out, &property) : NV_OK;
}

static nv_span time_text(const nv_event *event, char text[NV_TIME_TEXT_SIZE + 8])
{
    nv_time_format(event->operation_us, text);
    size_t len = strlen(text);
    if (event->source == NV_SOURCE_DIGITAL_TWIN_CHANGE) { /* semantics.md section 4.3 */
        memcpy(text + len - 1, "+00:00", sizeof("+00:00"));
    }
    return nv_span_str(text);
}

/* The envelope of semantics.md section 4. */
static nv_err put_properties(nv_buf *out, const nv_events *ev, const nv_event *event, uint64_t number)
{
    bool patch = event->source == NV_SOURCE_DIGITAL_TWIN_CHANGE;
    char time[NV_TIME_TEXT_SIZE + 8];
    char correlation[33];
    (void)snprintf(correlation, sizeof(correlation), "%016" PRIx64 "%016" PRIx64, number,
                   nv_hash_stable(event->device_id));
    const struct {
        nv_system_property id;
        nv_span text;
    } system[] = {
        {NV_PROP_CONTENT_TYPE, nv_span_str(patch ? "application/json-patch+json" : "application/json")},
        {NV_PROP_CONTENT_ENCODING, nv_span_str("utf-8")},
        {NV_PROP_CORRELATION_ID, nv_span_str(correlation)},
        {NV_PROP_USER_ID, nv_span_str(ev->hub_name)},
    };
    const struct {
        const char *name;
        nv_span text;
    } application[] = {
        {"hubName", nv_span_str(ev->hub_name)},
        {"deviceId", event->device_id},
        {"moduleId", event->module_id},
        {"operationTimestamp", time_text(event, time)},
        {"iothub-message-schema", nv_span_str(event->schema)},
        {"opType", nv_span_str(event->operation)},
    };
    nv_err err = NV_OK;
    for (size_t i = 0; err == NV_OK && i < NV_COUNT_OF(system); i++) {
        err = put_system(out, system[i].id, system[i].text);
    }
    for (size_t i = 0; err == NV_OK && i < NV_COUNT_OF(application); i++) {
        err = put_application(out, application[i].name, application[i].text);
    }
    return err;
}

/* A twin of thousands of tiny properties has metadata beyond what the log takes: that it changed is told all the same.
 */
static nv_span body_that_fits(const nv_event *event)
{
    if (event->body.len <= NV_LOG_MESSAGE_MAX) {
        return event->body;
    }
    nv_subject subject = {.device = event->device_id, .module = event->module_id};
    nv_diag(NV_LEVEL_WARN, "events", &subject, "the body of %s has %zu bytes, the log takes %d: it is left empty",
            event->operation, event->body.len, NV_LOG_MESSAGE_MAX);
    return nv_span_str("{}");
}

nv_err nv_events_put(const nv_hub *hub, nv_txn *txn, const nv_event *event)
{
    assert(hub->events && event->schema && event->operation);
    /* Connections cannot be refused when they end; there are only so many of them. */
    if (event->source != NV_SOURCE_CONNECTION_STATE &&
        atomic_load_explicit(&hub->events->refused, memory_order_relaxed)) {
        return NV_E_NO_SPACE;
    }
    nv_buf properties;
    nv_buf_init(&properties, PROPERTIES_MAX);
    nv_err err = put_properties(&properties, hub->events, event, nv_txn_generation(txn));
    if (err == NV_OK) {
        nv_outbox_row row = {.device_id = event->device_id,
                             .module_id = event->module_id,
                             .generation = event->generation,
                             .source = (uint8_t)event->source,
                             .properties = nv_buf_span(&properties),
                             .body = body_that_fits(event)};
        err = nv_txn_outbox_put(txn, &row);
    }
    nv_buf_deinit(&properties);
    return err;
}

void nv_events_committed(nv_hub *hub)
{
    nv_events *ev = hub->events;
    if (ev && !atomic_exchange_explicit(&ev->posted, true, memory_order_acq_rel)) {
        nv_post(ev->loop->exec, &ev->task);
    }
}
