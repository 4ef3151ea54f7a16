/*
 * Notifications of file uploads (amqp.md section 4.4). Devices cannot upload files to this hub yet, so there is nothing
 * to tell; services attach this link beside others and wait.
 */
#include "session/amqp/server_internal.h"

static void on_room(nv_amqp_link *link)
{
    if (link->drain) {
        nv_amqp_link_drained(link);
    }
}

static const nv_amqp_link_ops ops = {.room = on_room};

void amqp_open_file_notifications(amqp_server *s, amqp_device *device, nv_amqp_link *link, const amqp_address *address)
{
    (void)s;
    (void)device;
    (void)address;
    nv_amqp_link_accept(link, &(nv_amqp_accept){.ops = &ops});
}
