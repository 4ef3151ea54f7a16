/**
 * The MQTT session of a device or module (mqtt.md sections 1 to 6 and 11): from CONNECT to the last PUBACK, without a
 * socket. Telemetry is stored before it is acknowledged; sessions, subscriptions and take-over are the core's.
 */
#ifndef NV_SESSION_MQTT_DEVICE_H
#define NV_SESSION_MQTT_DEVICE_H

#include "session/session.h"

/** A session that waits for CONNECT. Limits, clock and names come from carrier->loop->hub. The carrier frees it by
 * session->ops->free. */
nv_session *nv_mqtt_device_new(nv_carrier *carrier);

#endif
