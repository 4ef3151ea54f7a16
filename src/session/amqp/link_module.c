/*
 * Inputs of modules (amqp.md section 3.8). What goes to an input comes by routes between modules, which this hub does
 * not have: the link stands, and is silent.
 */
#include "session/amqp/device_links.h"

#include "base/alloc.h"

#include <stdlib.h>

static void end_link(amqp_device_link *self)
{
    free(self);
}

static void on_room(nv_amqp_link *link)
{
    if (link->drain) {
        nv_amqp_link_drained(link);
    }
}

static const nv_amqp_link_ops ops = {.room = on_room, .detached = amqp_device_link_detached};

void amqp_open_module_input(amqp_server *s, amqp_device *device, nv_amqp_link *link, const amqp_address *address)
{
    (void)s;
    (void)address;
    amqp_device_link *self = nv_calloc(1, sizeof(*self));
    self->end = end_link;
    amqp_device_link_add(device, self, link);
    nv_amqp_accept accept = {.ops = &ops, .owner = self};
    nv_amqp_link_accept(link, &accept);
}
