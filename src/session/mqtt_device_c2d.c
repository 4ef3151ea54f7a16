/* Cloud-to-device messages over MQTT: a subscription is granted; messages follow with the queue of the core. */
#include "session/mqtt_device_internal.h"

void mqtt_c2d_set(mqtt_device *m, bool wanted)
{
    (void)m;
    (void)wanted;
}

void mqtt_c2d_room(mqtt_device *m)
{
    (void)m;
}

void mqtt_on_puback(mqtt_device *m, uint16_t packet_id)
{
    (void)m;
    (void)packet_id;
}
