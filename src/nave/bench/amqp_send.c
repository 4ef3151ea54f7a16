/*
 * Sending. Closed loop: every link keeps `window` messages without an outcome. Open loop: message k of the run is due
 * at k / rate on link k mod n, and its latency counts from that moment, however late it could be sent. `through` is the
 * open loop with a reader: the due time stands in the body, and the latency is counted where the event arrives.
 */
#include "base/alloc.h"
#include "nave/bench/amqp.h"

#include <stdlib.h>

#define NS      1000000000
#define SPIN_NS 200000 /* open loop: look instead of sleeping, since waking up late would count as latency */

typedef struct sender {
    struct sending *s;
    nv_amqp_peer *peer;
    nv_amqp_link *link; /* NULL: gone */
    uint32_t number;    /* of the device */
    uint64_t next;      /* number of the next message */
    uint64_t done;      /* those with an outcome */
} sender;

typedef struct sending {
    const nv_bench_amqp_options *o;
    nv_amqp_fleet fleet;
    nv_amqp_readers readers;
    bool through;
    sender *senders;
    uint32_t attached; /* of them, with credit once */
    uint8_t *message;  /* sections before the body, then the body */
    size_t head_len;
    int64_t start_ns;  /* open loop: due time of message 0 */
    uint64_t due_done; /* open loop: messages of the run already offered to their link */
    bool stopping;
    bool measuring;
    int64_t measure_ns; /* latency counts for messages due after this */
    uint64_t accepted;  /* in the measured time */
    nv_histogram outcome_ns;
    nv_histogram through_ns;
} sending;

static int64_t due_ns(const sending *s, const sender *one, uint64_t number)
{
    double k = (double)number * (double)s->o->base.devices + one->number;
    return s->start_ns + (int64_t)(k * (double)NS / (double)s->o->base.rate);
}

/* How many messages of this link are due now. */
static uint64_t due_count(const sending *s, const sender *one)
{
    int64_t now_ns = s->fleet.now_ns;
    if (now_ns < s->start_ns) {
        return 0;
    }
    uint64_t all = (uint64_t)((double)(now_ns - s->start_ns) * (double)s->o->base.rate / (double)NS) + 1;
    return all > one->number ? (all - one->number - 1) / s->o->base.devices + 1 : 0;
}

static void stamp(sending *s, int64_t due)
{
    static const char digits[] = "0123456789abcdef";
    uint8_t *at = s->message + s->head_len;
    for (unsigned i = 0; i < NV_BENCH_AMQP_STAMP; i++) {
        at[i] = (uint8_t)digits[(uint64_t)due >> (60 - 4 * i) & 15];
    }
}

static void send_some(sender *one)
{
    sending *s = one->s;
    if (!one->link || s->stopping) {
        return;
    }
    uint64_t window = s->o->base.window;
    uint64_t due = s->o->base.rate ? due_count(s, one) : UINT64_MAX;
    while (one->next - one->done < window && one->next < due && nv_amqp_link_room(one->link)) {
        int64_t since = s->o->base.rate ? due_ns(s, one, one->next) : s->fleet.now_ns;
        if (s->through) {
            stamp(s, since);
        }
        nv_amqp_send send = {.track = true,
                             .cookie = (uint64_t)since,
                             .head = nv_span_of(s->message, s->head_len),
                             .body = nv_span_of(s->message + s->head_len, s->o->base.size)};
        uint32_t id;
        if (nv_amqp_link_send(one->link, &send, &id) != NV_OK) {
            return;
        }
        one->next++;
    }
}

/* ---- links -------------------------------------------------------------------------------------------------- */

static void on_room(nv_amqp_link *link)
{
    sender *one = link->owner;
    if (!one->link) {
        one->link = link;
        one->s->attached++;
        one->s->fleet.links_ready++;
    }
    send_some(one);
}

static void record(nv_histogram *into, const sending *s, int64_t since)
{
    if (since >= s->measure_ns) {
        int64_t took = s->fleet.now_ns - since;
        nv_histogram_add(into, (uint64_t)(took > 0 ? took : 0), 1);
    }
}

static void on_outcome(nv_amqp_link *link, uint32_t id, uint64_t cookie, const nv_amqp_outcome *outcome)
{
    sender *one = link->owner;
    sending *s = one->s;
    one->done++;
    if (outcome->kind != NV_AMQP_OUT_ACCEPTED) {
        nv_amqp_fleet_fail_problem(&s->fleet, one->peer, NV_AMQP_FLEET_REJECTED, &outcome->problem);
    } else if (s->measuring) {
        s->accepted++;
        record(&s->outcome_ns, s, (int64_t)cookie);
    }
    if (!outcome->settled) {
        nv_amqp_link_settle(link, id, outcome);
    }
    send_some(one);
}

static void on_detached(nv_amqp_link *link, const nv_amqp_problem *problem)
{
    sender *one = link->owner;
    one->link = NULL;
    nv_amqp_peer_lost_link(one->peer, problem);
}

static void attach(sending *s, nv_amqp_peer *peer, uint32_t number)
{
    static const nv_amqp_link_ops ops = {.room = on_room, .outcome = on_outcome, .detached = on_detached};
    char address[256];
    char name[64];
    if (s->o->queue) {
        (void)snprintf(address, sizeof(address), "%s", s->o->queue);
    } else {
        (void)snprintf(address, sizeof(address), "/devices/%.160s/messages/events", s->fleet.credentials.ids[number]);
    }
    (void)snprintf(name, sizeof(name), "sender-%u", number);
    sender *one = &s->senders[number];
    *one = (sender){.s = s, .peer = peer, .number = number};
    nv_amqp_attach_options options = {.name = name, .sender = true, .address = address, .ops = &ops, .owner = one};
    (void)nv_amqp_peer_attach(peer, &options); /* usable with the first credit */
}

static void on_ready(nv_amqp_fleet *fleet, nv_amqp_peer *peer)
{
    sending *s = fleet->mode;
    if (peer->role == NV_AMQP_ROLE_READER) {
        nv_amqp_readers_attach(&s->readers, peer);
        return;
    }
    for (uint32_t i = 0; i < nv_amqp_peer_devices(peer); i++) {
        attach(s, peer, nv_amqp_peer_device(peer, i));
    }
}

static int64_t stamp_of(nv_span body)
{
    uint64_t out = 0;
    for (size_t i = 0; i < NV_BENCH_AMQP_STAMP && body.len >= NV_BENCH_AMQP_STAMP; i++) {
        uint8_t c = body.ptr[i];
        out = out << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    return (int64_t)out;
}

static void on_event(nv_amqp_readers *readers, nv_span bytes)
{
    sending *s = readers->owner;
    nv_amqp_message message;
    if (nv_amqp_message_read(bytes, &message) != NV_OK || message.body_kind != NV_AMQP_BODY_IS_DATA) {
        nv_amqp_fleet_fail(&s->fleet, &s->fleet.peers[0], NV_AMQP_FLEET_CONTENT, "an event that is none of ours");
    } else if (s->measuring) {
        record(&s->through_ns, s, stamp_of(message.body));
    }
}

/* ---- running ------------------------------------------------------------------------------------------------ */

/* Open loop: give what has become due to its links. */
static void offer_due(sending *s)
{
    uint64_t n = s->o->base.devices;
    s->fleet.now_ns = nv_bench_now_ns();
    uint64_t due = (uint64_t)((double)(s->fleet.now_ns - s->start_ns) * (double)s->o->base.rate / (double)NS) + 1;
    uint64_t fresh = due > s->due_done ? due - s->due_done : 0;
    for (uint64_t i = 0; i < fresh && i < n; i++) {
        send_some(&s->senders[(s->due_done + i) % n]);
    }
    s->due_done += fresh;
}

static void run_until(sending *s, int64_t end_ns)
{
    nv_amqp_fleet *fleet = &s->fleet;
    const nv_bench_mqtt_options *base = &s->o->base;
    for (fleet->now_ns = nv_bench_now_ns(); fleet->now_ns < end_ns && fleet->open;) {
        int64_t wake_ns = end_ns;
        if (base->rate && !s->stopping) {
            offer_due(s);
            int64_t next = s->start_ns + (int64_t)((double)s->due_done * (double)NS / (double)base->rate);
            wake_ns = next < end_ns ? next : end_ns;
        }
        int64_t wait_ns = wake_ns - fleet->now_ns;
        nv_amqp_fleet_poll(fleet, base->spin || (base->rate && wait_ns < SPIN_NS) ? 0 : wait_ns);
    }
}

static uint64_t outstanding(const sending *s)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < s->o->base.devices; i++) {
        sum += s->senders[i].link ? s->senders[i].next - s->senders[i].done : 0;
    }
    return sum;
}

/* Stop sending and wait for the outcomes of what was sent. */
static void drain(sending *s)
{
    int64_t end = nv_bench_now_ns() + (int64_t)(s->o->base.setup_s * NS);
    s->stopping = true;
    s->measuring = false;
    while (outstanding(s) && nv_bench_now_ns() < end) {
        nv_amqp_fleet_poll(&s->fleet, end - nv_bench_now_ns());
    }
    s->fleet.failures.counts[NV_AMQP_FLEET_UNACKED] += outstanding(s);
}

static void build_message(sending *s)
{
    uint8_t head[64];
    size_t size = s->o->base.size;
    nv_writer w = nv_writer_of(head, sizeof(head));
    if (s->o->queue) {
        nv_amqp_header header = {0};
        NV_AMQP_SET(&header, header, durable, true);
        nv_amqp_put_header_section(&w, &header);
    }
    nv_amqp_put_data_head(&w, size);
    s->head_len = nv_writer_len(&w);
    s->message = nv_malloc(s->head_len + size + 1);
    memcpy(s->message, head, s->head_len);
    for (size_t i = 0; i < size; i++) {
        s->message[s->head_len + i] = (uint8_t)('a' + i % 26);
    }
}

static void report(sending *s, const nv_usage *from, const nv_usage *to)
{
    double wall = to->wall_s - from->wall_s;
    const nv_histogram *latency = s->through ? &s->through_ns : &s->outcome_ns;
    nv_report figures;
    nv_amqp_report_begin(&figures, &s->fleet);
    nv_report_int(&figures, "messages", (int64_t)s->accepted);
    nv_report_real(&figures, "messages_per_s", (double)s->accepted / wall, 1);
    nv_report_real(&figures, "body_mbytes_per_s", (double)s->accepted * (double)s->o->base.size / wall / 1e6, 1);
    nv_bench_mqtt_report_latency(&figures, latency);
    if (s->through) {
        nv_report_int(&figures, "events_measured", (int64_t)s->through_ns.total);
        nv_report_real(&figures, "outcome_p99_us", (double)nv_histogram_at(&s->outcome_ns, 0.99) / 1000, 1);
    }
    nv_bench_mqtt_report_usage(&figures, &s->o->base, from, to, s->accepted);
    nv_bench_failures_report(&s->fleet.failures, &figures);
    nv_report_end(&figures);
}

static void measure(sending *s, nv_usage *from, nv_usage *to)
{
    const nv_bench_mqtt_options *base = &s->o->base;
    s->stopping = false;
    s->start_ns = s->fleet.now_ns = nv_bench_now_ns();
    for (uint32_t i = 0; !base->rate && i < base->devices; i++) {
        send_some(&s->senders[i]);
    }
    run_until(s, s->start_ns + (int64_t)(base->warmup_s * NS));
    nv_usage_read(from, (pid_t)base->pid);
    s->measure_ns = nv_bench_now_ns();
    s->measuring = true;
    run_until(s, s->measure_ns + (int64_t)(base->duration_s * NS));
    nv_usage_read(to, (pid_t)base->pid);
    drain(s);
}

/* Readers first: what is sent must find them. @return true when everything stands */
static bool open_all(sending *s, uint32_t device_peers)
{
    if (s->through) {
        nv_amqp_readers_init(&s->readers, &s->fleet, 1, false);
        s->readers.message = on_event;
        s->readers.owner = s;
        if (!nv_amqp_fleet_open(&s->fleet, device_peers, 1)) {
            return false;
        }
    }
    s->fleet.links_wanted += (uint32_t)s->o->base.devices;
    return nv_amqp_fleet_open(&s->fleet, 0, device_peers);
}

int nv_bench_amqp_send(const nv_bench_amqp_options *o)
{
    sending *s = nv_calloc(1, sizeof(*s));
    uint32_t device_peers = (uint32_t)o->base.connections;
    nv_usage from = {0};
    nv_usage to = {.wall_s = 1};
    int code = 2;
    s->o = o;
    s->through = o->mode == NV_BENCH_AMQP_THROUGH;
    s->stopping = true; /* until all links stand */
    s->senders = nv_calloc(o->base.devices, sizeof(*s->senders));
    build_message(s);
    if (nv_amqp_fleet_init(&s->fleet, o, device_peers, s->through ? 1 : 0, on_ready, s)) {
        if (open_all(s, device_peers)) {
            measure(s, &from, &to);
        }
        report(s, &from, &to);
        code = nv_bench_failures_sum(&s->fleet.failures) ? 1 : 0;
    }
    nv_amqp_fleet_deinit(&s->fleet);
    nv_amqp_readers_deinit(&s->readers);
    free(s->senders);
    free(s->message);
    free(s);
    return code;
}
