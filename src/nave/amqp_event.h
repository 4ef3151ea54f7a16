/** An event as the Event Hubs-compatible endpoint sends it, as the JSON of docs/events-api.md. Pure. */
#ifndef NV_NAVE_AMQP_EVENT_H
#define NV_NAVE_AMQP_EVENT_H

#include "codec/amqp/message.h"
#include "codec/json.h"

/**
 * Write one object without line breaks. Times are in milliseconds, as AMQP has them.
 * @param scratch  joins a body of several sections; cleared
 * @return false: it is no event: no sequence number, or malformed. What was written is to be dropped
 */
bool nv_amqp_event_json(nv_json_writer *w, uint32_t partition, nv_span message, nv_buf *scratch);

/** Was it sent by, or does it tell of, this device or one of its modules? */
bool nv_amqp_event_is_of(nv_span message, const char *device_id);

#endif
