/*
 * Event readers that dial the hub are sent on to its Event Hubs-compatible endpoint (amqp.md section 5.1), which is the
 * same listener under the same name: what the client dialled is what it can reach.
 *
 * The service attaches the link, asks another of its machines and redirects some time later. Clients count on that: the
 * way that the Event Hubs SDK for JavaScript documents for the string of a hub (IoT Explorer and others have it, too)
 * listens for the error only once the link is attached, and waits for ever when both frames come at once; and Python's
 * pyamqp (newer az iot) detaches a link without termini itself, before it has seen the error.
 */
#include "session/amqp/server_internal.h"

#include "base/alloc.h"
#include "base/timers.h"
#include "core/event_hub.h"

#include <stdio.h>
#include <stdlib.h>

#define PORT        5671
#define ADDRESS_MAX 1024u
#define HOST_MAX    256u
#define INFO_MAX    (ADDRESS_MAX + 3 * HOST_MAX)
#define PAUSE_US    (50 * NV_US_PER_MS) /* from ATTACH to DETACH */

#define SAYS "events are read from the Event Hubs-compatible endpoint: see the address in info"

typedef struct redirect_link {
    nv_amqp_link *link;
    amqp_server *server;
    nv_timer pause;
    uint8_t info[INFO_MAX];
    size_t info_len;
} redirect_link;

static void on_pause_over(nv_timer *timer, int64_t now_us)
{
    (void)now_us;
    redirect_link *self = nv_container_of(timer, redirect_link, pause);
    nv_amqp_link_detach_with(self->link, NV_AMQP_ERR_LINK_REDIRECT, SAYS, nv_span_of(self->info, self->info_len));
    free(self);
}

static void on_detached(nv_amqp_link *link, const nv_amqp_problem *problem)
{
    (void)problem;
    redirect_link *self = link->owner;
    nv_timers_clear(&amqp_loop(self->server)->timers, &self->pause);
    free(self);
}

static const nv_amqp_link_ops ops = {.detached = on_detached};

/* The name that the client dialled, if it is the hub's. An IPv6 address without brackets. */
static nv_span dialled(const amqp_server *s)
{
    const nv_hub *hub = amqp_hub(s);
    nv_span host = nv_span_str(s->host);
    return host.len > 0 && nv_hub_is_alias(hub, host) ? host : amqp_host_of(hub->host_names[0]);
}

static nv_span put_info(nv_writer *w, nv_span host, nv_span address)
{
    size_t mark = nv_amqp_begin_map(w);
    nv_amqp_put_symbol_of(w, "hostname");
    nv_amqp_put_string(w, host);
    nv_amqp_put_symbol_of(w, "network-host");
    nv_amqp_put_string(w, host);
    nv_amqp_put_symbol_of(w, "port");
    nv_amqp_put_int(w, PORT);
    nv_amqp_put_symbol_of(w, "address");
    nv_amqp_put_string(w, address);
    nv_amqp_end_map(w, mark, 8);
    return w->err == NV_OK ? nv_writer_span(w) : NV_SPAN_EMPTY;
}

void amqp_open_redirect(amqp_server *s, amqp_device *device, nv_amqp_link *link, const amqp_address *address)
{
    (void)device;
    char target[ADDRESS_MAX];
    redirect_link *self = nv_calloc(1, sizeof(*self));
    nv_span host = dialled(s);
    bool ipv6 = nv_span_find(host, ':') < host.len;
    nv_span entity = nv_event_hub_entity(amqp_hub(s));
    int len = snprintf(target, sizeof(target), ipv6 ? "amqps://[%.*s]:%d/%.*s%.*s" : "amqps://%.*s:%d/%.*s%.*s",
                       NV_SPAN_ARG(host), PORT, NV_SPAN_ARG(entity), NV_SPAN_ARG(address->rest));
    nv_writer w = nv_writer_of(self->info, sizeof(self->info));
    if (len > 0 && (size_t)len < sizeof(target)) {
        self->info_len = put_info(&w, host, nv_span_of(target, (size_t)len)).len;
    }
    if (self->info_len == 0) {
        free(self);
        amqp_refuse(s, link, NV_AMQP_ERR_NOT_FOUND, "there is nothing at this address");
        return;
    }
    nv_hub_loop *loop = amqp_loop(s);
    if (loop->hub->time_stands) { /* a pause would last until somebody moves the clock */
        nv_amqp_link_refuse(link, NV_AMQP_ERR_LINK_REDIRECT, SAYS, nv_span_of(self->info, self->info_len));
        free(self);
        return;
    }
    self->link = link;
    self->server = s;
    nv_timer_init(&self->pause, on_pause_over);
    nv_timers_set(&loop->timers, &self->pause, nv_mono_us(loop->hub->clock) + PAUSE_US);
    nv_amqp_link_accept(link, &(nv_amqp_accept){.ops = &ops, .owner = self});
}
