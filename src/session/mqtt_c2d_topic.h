/** The topic of a cloud-to-device message, with its properties, as every SDK can read it (mqtt.md section 7). Pure. */
#ifndef NV_SESSION_MQTT_C2D_TOPIC_H
#define NV_SESSION_MQTT_C2D_TOPIC_H

#include "base/cursor.h"
#include "core/c2d.h"

/**
 * devices/{device}/messages/devicebound/%24.to=...&{system}&iothub-ack=...&{application}: `to` first, what is of the
 * service before what is of the sender, everything encoded.
 * @param default_ttl_us  a life of exactly this length was not asked for by the sender, so the expiry is left out
 */
void mqtt_write_c2d_topic(nv_writer *w, nv_span device_id, const nv_c2d_message *message, int64_t default_ttl_us);

#endif
