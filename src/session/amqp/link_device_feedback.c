/* Feedback that a device sends (amqp.md section 3.1): no SDK does; it is accepted and means nothing. */
#include "session/amqp/device_links.h"

static bool on_delivery(nv_amqp_link *link, const nv_amqp_delivery *delivery)
{
    if (amqp_server_of(link)->draining) {
        return false;
    }
    amqp_accept_one(link, delivery);
    return true;
}

static void on_detached(nv_amqp_link *link, const nv_amqp_problem *problem)
{
    (void)link;
    (void)problem;
}

static const nv_amqp_link_ops ops = {.delivery = on_delivery, .detached = on_detached};

void amqp_open_device_feedback(amqp_server *s, amqp_device *device, nv_amqp_link *link, const amqp_address *address)
{
    (void)device; /* of no device in particular */
    (void)address;
    nv_amqp_accept accept = {.ops = &ops, .owner = s, .credit = nv_limit_31(amqp_hub(s)->limits.amqp_credit)};
    nv_amqp_link_accept(link, &accept);
}
