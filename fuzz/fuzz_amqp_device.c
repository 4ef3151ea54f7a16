/**
 * A device's links against the hub in memory: the input says what the device, the services and the stores do, in turn,
 * and what the messages are. Nothing may remain when everybody has left.
 *
 *   step  u8 what, u8 link, then for messages u16 length and their bytes
 */
#include "support/amqp_device_rig.h"

#include "core/devices.h"
#include "core/method.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define STEPS_MAX 64
#define CALLS_MAX 8

typedef struct place {
    const char *address;
    bool sends;
} place;

static const place places[] = {
    {"/devices/d1/messages/events", true},
    {"/devices/d1/messages/devicebound", false},
    {"/devices/d1/twin", true},
    {"/devices/d1/twin", false},
    {"/devices/d1/methods/devicebound", true},
    {"/devices/d1/methods/devicebound", false},
    {"/messages/servicebound/feedback", true},
    {"/devices/d2/messages/events", true},
};

typedef struct world {
    amqp_rig *rig;
    rig_peer *peer; /* the connection that lives */
    nv_method_call calls[CALLS_MAX];
    size_t call_count;
    size_t calls_open;
    uint64_t version;
} world;

static void on_called(nv_method_call *call)
{
    world *w = call->arg;
    w->calls_open--;
    nv_buf_deinit(&call->answer);
}

static void invoke(world *w)
{
    if (w->call_count == CALLS_MAX) {
        return;
    }
    nv_method_call *call = &w->calls[w->call_count++];
    *call = (nv_method_call){.device_id = nv_span_str("d1"),
                             .name = nv_span_str("m"),
                             .response_timeout_us = 30 * NV_US_PER_S,
                             .done = on_called,
                             .arg = w};
    w->calls_open++;
    nv_method_invoke(&w->rig->core.hub->loops[0], call);
}

/* A fault may have ended it. */
static bool has_session(world *w)
{
    nv_list *sessions = &w->peer->conn.sessions;
    for (nv_list *node = sessions->next; !w->peer->ended && node != sessions; node = node->next) {
        if (nv_container_of(node, nv_amqp_session, _node) == w->peer->session) {
            return true;
        }
    }
    return false;
}

static void attach(world *w, uint8_t which, uint8_t how)
{
    const place *p = &places[which % NV_COUNT_OF(places)];
    if (!has_session(w) || w->peer->link_count == RIG_LINKS) {
        return;
    }
    static const char *const correlations[] = {NULL, "x:1", "x:2"};
    (void)rig_attach_link(w->rig, w->peer,
                          &(rig_attach){.address = p->address,
                                        .sends = p->sends,
                                        .credit = how & 7u,
                                        .snd_settle_mode = 2,
                                        .rcv_settle_mode = how >> 3 & 1u,
                                        .correlation = correlations[(how >> 4) % 3]});
}

static rig_link *live(world *w, uint8_t which, bool sends)
{
    if (!has_session(w) || w->peer->link_count == 0) {
        return NULL;
    }
    rig_link *l = &w->peer->links[which % w->peer->link_count];
    return l->link && l->attached && l->link->sender == sends ? l : NULL;
}

static void send(world *w, uint8_t which, nv_span bytes)
{
    rig_link *l = live(w, which, true);
    uint32_t id;
    if (l && l->outcome_count < RIG_MESSAGES / 2 && nv_amqp_link_room(l->link)) {
        nv_amqp_send message = {.format = which & 0x40u ? NV_AMQP_FORMAT_BATCH : 0,
                                .settled = (which & 0x80u) != 0,
                                .track = true,
                                .body = bytes};
        nv_ignore(nv_amqp_link_send(l->link, &message, &id));
    }
}

static void settle(world *w, uint8_t which, uint8_t how)
{
    rig_link *l = live(w, which, false);
    if (l && l->message_count > 0 && l->message_count < RIG_MESSAGES / 2) {
        size_t message = how % l->message_count;
        if (how & 0x80u) {
            rig_dispose(w->rig, l, message, (uint8_t)(NV_AMQP_ACCEPTED + (how >> 5 & 3u)));
        } else {
            rig_settle(l, message, (nv_amqp_outcome_kind)(how >> 5 & 3u));
        }
    }
}

/* By another connection. The older one is cut, or taken over; what it waits for may be held back still. */
static void reconnect(world *w, bool cut)
{
    rig_peer *next = w->peer == &w->rig->a ? &w->rig->b : &w->rig->a;
    if (next->used) {
        rig_release(w->rig);
        rig_cut(w->rig, next);
    }
    if (w->peer && cut) {
        amqp_end_cut(&w->peer->hub_end);
        amqp_end_cut(&w->peer->end);
    }
    w->peer = next;
    rig_open(w->rig, w->peer, "d1");
}

static void cloud(world *w, uint8_t what, uint8_t arg)
{
    amqp_rig *rig = w->rig;
    nv_delivery *delivery;
    switch (what % 8) {
    case 0:
        fake_c2d_send(&rig->core.hub->loops[0], "d1", NV_ACK_NONE, NV_SPAN_EMPTY, nv_span_str("c"));
        break;
    case 1:
        fake_c2d_lose_locks();
        break;
    case 2:
        fake_c2d_set_hold(arg & 1u);
        (void)fake_c2d_settle_one();
        break;
    case 3:
        fake_twin_set_hold(arg & 1u);
        (void)fake_twin_complete();
        break;
    case 4:
        fake_log_set_mode(&rig->core, arg & 1u ? FAKE_LOG_HOLD : FAKE_LOG_AUTO);
        fake_log_set_batch_records(&rig->core, 1 + (arg >> 4));
        break;
    case 5:
        (void)fake_log_complete(&rig->core, arg & 1u ? NV_E_IO : NV_OK);
        break;
    case 6:
        invoke(w);
        break;
    default:
        delivery = nv_delivery_new(NV_DELIVER_DESIRED, NV_SPAN_EMPTY, nv_span_str("{\"a\":1}"));
        delivery->version = ++w->version;
        (void)nv_devices_deliver(nv_hub_shard_loop(rig->core.hub, nv_span_str("d1")), nv_span_str("d1"), NV_SPAN_EMPTY,
                                 delivery);
        break;
    }
}

static void step(world *w, nv_reader *r)
{
    uint8_t what = nv_read_u8(r);
    uint8_t arg = nv_read_u8(r);
    rig_link *l;
    switch (what % 8) {
    case 0:
    case 1:
        send(w, arg, nv_read_span(r, nv_read_u16_be(r) % 600));
        break;
    case 2:
        attach(w, what >> 3, arg);
        break;
    case 3:
        settle(w, what >> 3, arg);
        break;
    case 4:
        cloud(w, what >> 3, arg);
        break;
    case 5:
        l = live(w, what >> 3, arg & 1u);
        if (l) {
            nv_amqp_link_detach(l->link, NV_AMQP_ERR_NONE, NULL);
            l->link = NULL;
        }
        break;
    case 6:
        rig_advance(w->rig, arg * NV_US_PER_S / 8);
        break;
    default:
        if ((arg & 7u) == 0) {
            reconnect(w, (arg & 8u) == 0);
        } else if ((arg & 7u) == 1) {
            fake_register(&w->rig->core, "d1", "", NULL); /* other generation: evicted, or not */
        } else {
            l = live(w, what >> 3, false);
            if (l) {
                nv_amqp_link_set_credit(l->link, arg & 15u);
            }
        }
        break;
    }
    if (what & 0x80u) {
        rig_run(w->rig);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    world w = {.rig = rig_new_faulty(), .version = 1};
    nv_reader r = nv_reader_of(nv_span_of(data, size));
    reconnect(&w, false);
    for (int i = 0; i < STEPS_MAX && r.err == NV_OK && nv_reader_left(&r) > 0; i++) {
        step(&w, &r);
    }
    rig_run(w.rig);
    rig_advance(w.rig, 40 * NV_US_PER_S); /* calls time out */
    rig_free(w.rig);
    if (w.calls_open != 0) {
        abort();
    }
    return 0;
}
