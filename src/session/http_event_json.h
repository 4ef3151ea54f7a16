/** One event of the telemetry log as JSON (docs/events-api.md). Pure. */
#ifndef NV_SESSION_HTTP_EVENT_JSON_H
#define NV_SESSION_HTTP_EVENT_JSON_H

#include "codec/json.h"
#include "store/record.h"

/** Write @p record as one JSON object without line breaks. A stamp that cannot be decoded leaves its members out. */
void nv_event_write_json(nv_json_writer *w, const nv_record *record);

/* ---- parts, for events that come from elsewhere ---- */

/** The value of a property. */
void nv_event_write_value(nv_json_writer *w, const nv_value *value);
/**
 * "body", and "bodyBase64" for what is no text.
 * @param plain  bytes as the device sent them; false: an encoded AMQP value, whose bytes count where it is text or
 * binary
 * @param type      content-type, which says with
 * @param encoding  content-encoding whether the body is JSON
 */
void nv_event_write_body(nv_json_writer *w, nv_span body, bool plain, nv_span type, nv_span encoding);

#endif
