/* Publishing to the Event Hubs-compatible endpoint: it is for reading (amqp.md section 5.8). */
#include "session/amqp/server_internal.h"

#include "core/event_hub.h"

void amqp_open_events_send(amqp_server *s, amqp_device *device, nv_amqp_link *link, const amqp_address *address)
{
    (void)device;
    if (!nv_event_hub_is_entity(amqp_hub(s), address->entity)) {
        amqp_refuse(s, link, NV_AMQP_ERR_NOT_FOUND, "there is no such event hub: see EntityPath of `nave hub show`");
        return;
    }
    amqp_refuse(s, link, NV_AMQP_ERR_UNAUTHORIZED_ACCESS,
                "this endpoint is for reading events: send as a device to /devices/{id}/messages/events");
}
