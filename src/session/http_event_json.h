/** One event of the telemetry log as JSON (docs/events-api.md). Pure. */
#ifndef NV_SESSION_HTTP_EVENT_JSON_H
#define NV_SESSION_HTTP_EVENT_JSON_H

#include "codec/json.h"
#include "store/record.h"

/** Write @p record as one JSON object without line breaks. A stamp that cannot be decoded leaves its members out. */
void nv_event_write_json(nv_json_writer *w, const nv_record *record);

#endif
