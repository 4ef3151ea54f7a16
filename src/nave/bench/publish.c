/*
 * Publishing. Closed loop: every connection keeps `window` messages unacknowledged. Open loop: message k of the run is
 * due at k / rate on connection k mod n, and its latency counts from that moment, however late it could be sent.
 */
#include "nave/bench/mqtt.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "codec/mqtt.h"

#include <stdlib.h>

#define BUILD_BYTES ((size_t)64 * 1024) /* written at once; one message may be longer */
#define PACKET_IDS  65535u
#define NS          1000000000
#define SPIN_NS     200000 /* open loop: look instead of sleeping, since waking up late would count as latency */

/* What one connection publishes. Message numbers count from 0; number n has packet id n mod 65,535 + 1. */
typedef struct lane {
    uint8_t *packet; /* a whole PUBLISH, its packet id to be filled in; owned */
    size_t packet_len;
    size_t id_offset; /* of the packet id; 0 with QoS 0 */
    int64_t *sent_ns; /* ring by number mod window: when it was due or written, 0 = acknowledged; owned */
    uint64_t next;    /* number of the next message to write */
    uint64_t low;     /* oldest unacknowledged */
    uint16_t low_id;  /* its packet id */
    bool ping_sent;   /* QoS 0: the window is written, PINGRESP awaited */
} lane;

typedef struct publish {
    const nv_bench_mqtt_options *o;
    lane *lanes;
    size_t longest;    /* PUBLISH; they differ by the digits in their topics */
    uint8_t *out;      /* where a write is built: BUILD_BYTES or one message, and a PINGREQ */
    int64_t start_ns;  /* open loop: due time of message 0 */
    uint64_t due_done; /* open loop: messages of the run already offered to their connection */
    bool stopping;
    bool measuring;
    int64_t measure_ns; /* latency counts for messages sent after this */
    uint64_t acked;     /* in the measured time */
    uint64_t reordered; /* PUBACKs that came before an older one */
    nv_histogram latency_ns;
} publish;

static int64_t due_ns(const publish *p, uint32_t index, uint64_t number)
{
    double k = (double)number * (double)p->o->connections + index;
    return p->start_ns + (int64_t)(k * (double)NS / (double)p->o->rate);
}

/* How many messages of connection @p index are due at @p now. */
static uint64_t due_count(const publish *p, uint32_t index, int64_t now_ns)
{
    if (now_ns < p->start_ns) {
        return 0;
    }
    uint64_t all = (uint64_t)((double)(now_ns - p->start_ns) * (double)p->o->rate / (double)NS) + 1;
    return all > index ? (all - index - 1) / p->o->connections + 1 : 0;
}

static uint64_t room(const publish *p, const lane *l, uint32_t index, int64_t now_ns)
{
    if (l->ping_sent || (p->stopping && (p->o->qos == 1 || l->next == l->low))) {
        return 0;
    }
    uint64_t free_window = p->o->window - (l->next - l->low);
    if (p->o->rate) {
        uint64_t due = due_count(p, index, now_ns);
        uint64_t late = due > l->next ? due - l->next : 0;
        return late < free_window ? late : free_window;
    }
    return free_window;
}

/* Build up to @p count messages at p->out. @return bytes */
static size_t build(publish *p, lane *l, uint32_t index, uint64_t count, int64_t now_ns)
{
    size_t len = l->packet_len;
    size_t used = 0;
    uint64_t slot = l->next % p->o->window;
    uint32_t id = (uint32_t)(l->next % PACKET_IDS) + 1;
    for (; count && (used == 0 || used + len <= BUILD_BYTES); count--) {
        memcpy(p->out + used, l->packet, len);
        if (l->id_offset) {
            nv_store_u16_be(p->out + used + l->id_offset, (uint16_t)id);
        }
        l->sent_ns[slot] = p->o->rate ? due_ns(p, index, l->next) : now_ns;
        slot = slot + 1 == p->o->window ? 0 : slot + 1;
        id = id == PACKET_IDS ? 1 : id + 1;
        l->next++;
        used += len;
    }
    if (p->o->qos == 0 && l->next - l->low == p->o->window) {
        p->out[used++] = NV_MQTT_PINGREQ << 4;
        p->out[used++] = 0;
        l->ping_sent = true;
    }
    return used;
}

static void on_turn(nv_fleet *fleet, nv_client *client)
{
    publish *p = fleet->mode;
    lane *l = &p->lanes[client->index];
    while (client->rest_len == 0) {
        uint64_t count = room(p, l, client->index, fleet->now_ns);
        if (count == 0) {
            return;
        }
        size_t len = build(p, l, client->index, count, fleet->now_ns);
        if (!nv_fleet_write(fleet, client, p->out, len)) {
            return;
        }
    }
}

static void record(publish *p, int64_t sent_ns, int64_t now_ns, uint64_t times)
{
    if (p->measuring) {
        p->acked += times;
        if (sent_ns >= p->measure_ns) {
            nv_histogram_add(&p->latency_ns, (uint64_t)(now_ns > sent_ns ? now_ns - sent_ns : 0), times);
        }
    }
}

/* A PUBACK that is not for the oldest message. @return false when nothing with this id is outstanding */
static bool ack_out_of_order(publish *p, lane *l, uint16_t id, int64_t now_ns)
{
    uint64_t number = l->low + (uint64_t)((id + PACKET_IDS - l->low_id) % PACKET_IDS);
    int64_t *sent = &l->sent_ns[number % p->o->window];
    if (id == 0 || number >= l->next || *sent == 0) {
        return false;
    }
    p->reordered++;
    record(p, *sent, now_ns, 1);
    *sent = 0;
    return true;
}

static void on_acked(nv_fleet *fleet, nv_client *client, const uint8_t *acks, size_t count)
{
    publish *p = fleet->mode;
    lane *l = &p->lanes[client->index];
    for (size_t i = 0; i < count; i++, acks += NV_MQTT_ACK_SIZE) {
        uint16_t id = nv_load_u16_be(acks + 2);
        if (NV_UNLIKELY(l->low == l->next || p->o->qos == 0 ||
                        (id != l->low_id && !ack_out_of_order(p, l, id, fleet->now_ns)))) {
            nv_fleet_fail(fleet, client, NV_FLEET_PUBACK, "PUBACK for a message that is not outstanding");
            return;
        }
        if (id == l->low_id) {
            record(p, l->sent_ns[l->low % p->o->window], fleet->now_ns, 1);
            l->sent_ns[l->low % p->o->window] = 0;
        }
        while (l->low < l->next && l->sent_ns[l->low % p->o->window] == 0) {
            l->low++;
            l->low_id = (uint16_t)(l->low_id == PACKET_IDS ? 1 : l->low_id + 1);
        }
    }
}

static void on_pong(nv_fleet *fleet, nv_client *client)
{
    publish *p = fleet->mode;
    lane *l = &p->lanes[client->index];
    if (!l->ping_sent) {
        nv_fleet_fail(fleet, client, NV_FLEET_PROTOCOL, "PINGRESP without PINGREQ");
        return;
    }
    l->ping_sent = false;
    record(p, l->sent_ns[l->low % p->o->window], fleet->now_ns, l->next - l->low);
    l->low = l->next;
}

/* ---- setting up ------------------------------------------------------------------------------------------- */

static void build_packet(publish *p, const nv_fleet *fleet, uint32_t index)
{
    char topic[256];
    const char *id = fleet->credentials.ids[index];
    if (p->o->anonymous) {
        (void)snprintf(topic, sizeof(topic), "%.120s/%u/messages/events", p->o->prefix, index);
    } else {
        (void)snprintf(topic, sizeof(topic), "devices/%.160s/messages/events/", id);
    }
    uint8_t *body = nv_malloc(p->o->size + 1);
    for (size_t i = 0; i < p->o->size; i++) {
        body[i] = (uint8_t)('a' + i % 26);
    }
    nv_mqtt_publish packet = {.topic = nv_span_str(topic),
                              .payload = nv_span_of(body, p->o->size),
                              .packet_id = p->o->qos ? 1 : 0,
                              .qos = (uint8_t)p->o->qos};
    size_t len = nv_mqtt_publish_size(packet.topic.len, packet.payload.len, packet.qos);
    lane *l = &p->lanes[index];
    *l = (lane){.packet = nv_malloc(len),
                .packet_len = len,
                .id_offset = p->o->qos ? len - p->o->size - 2 : 0,
                .sent_ns = nv_calloc(p->o->window, sizeof(int64_t)),
                .low_id = 1};
    nv_writer w = nv_writer_of(l->packet, len);
    nv_mqtt_write_publish(&w, &packet);
    p->longest = len > p->longest ? len : p->longest;
    free(body);
}

static void init(publish *p, const nv_fleet *fleet)
{
    p->lanes = nv_calloc(p->o->connections, sizeof(*p->lanes));
    for (uint32_t i = 0; i < p->o->connections; i++) {
        build_packet(p, fleet, i);
    }
    p->out = nv_malloc((p->longest > BUILD_BYTES ? p->longest : BUILD_BYTES) + 2);
}

static void deinit(publish *p)
{
    for (uint32_t i = 0; p->lanes && i < p->o->connections; i++) {
        free(p->lanes[i].packet);
        free(p->lanes[i].sent_ns);
    }
    free(p->lanes);
    free(p->out);
}

/* ---- running ---------------------------------------------------------------------------------------------- */

static void turn_one(nv_fleet *fleet, uint32_t index)
{
    if (fleet->clients[index].state == NV_CLIENT_READY) {
        on_turn(fleet, &fleet->clients[index]);
    }
}

/* Open loop: give what has become due to its connections. */
static void offer_due(publish *p, nv_fleet *fleet)
{
    uint64_t n = p->o->connections;
    fleet->now_ns = nv_bench_now_ns();
    uint64_t due = (uint64_t)((double)(fleet->now_ns - p->start_ns) * (double)p->o->rate / (double)NS) + 1;
    uint64_t fresh = due > p->due_done ? due - p->due_done : 0;
    for (uint64_t i = 0; i < fresh && i < n; i++) {
        turn_one(fleet, (uint32_t)((p->due_done + i) % n));
    }
    p->due_done += fresh;
}

static void run_until(publish *p, nv_fleet *fleet, int64_t end_ns)
{
    for (fleet->now_ns = nv_bench_now_ns(); fleet->now_ns < end_ns && fleet->ready;) {
        int64_t wake_ns = end_ns;
        if (p->o->rate && !p->stopping) {
            offer_due(p, fleet);
            int64_t next = p->start_ns + (int64_t)((double)p->due_done * (double)NS / (double)p->o->rate);
            wake_ns = next < end_ns ? next : end_ns;
        }
        int64_t wait_ns = wake_ns - fleet->now_ns;
        nv_fleet_poll(fleet, p->o->spin || (p->o->rate && wait_ns < SPIN_NS) ? 0 : wait_ns);
    }
}

static uint64_t outstanding(const publish *p, const nv_fleet *fleet)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < p->o->connections; i++) {
        sum += fleet->clients[i].state == NV_CLIENT_READY ? p->lanes[i].next - p->lanes[i].low : 0;
    }
    return sum;
}

/* Stop sending and wait for the acknowledgements of what was sent. */
static void drain(publish *p, nv_fleet *fleet)
{
    int64_t end = nv_bench_now_ns() + (int64_t)(p->o->setup_s * NS);
    p->stopping = true;
    p->measuring = false;
    while (outstanding(p, fleet) && nv_bench_now_ns() < end) {
        nv_fleet_poll(fleet, end - nv_bench_now_ns());
    }
    fleet->failures.counts[NV_FLEET_UNACKED] += outstanding(p, fleet);
}

static void report(publish *p, const nv_fleet *fleet, const nv_usage *from, const nv_usage *to)
{
    double wall = to->wall_s - from->wall_s;
    nv_report figures;
    nv_bench_mqtt_report_begin(&figures, fleet);
    nv_report_int(&figures, "messages", (int64_t)p->acked);
    nv_report_real(&figures, "messages_per_s", (double)p->acked / wall, 1);
    nv_report_real(&figures, "body_mbytes_per_s", (double)p->acked * (double)p->o->size / wall / 1e6, 1);
    nv_bench_mqtt_report_latency(&figures, &p->latency_ns);
    nv_report_int(&figures, "pubacks_out_of_order", (int64_t)p->reordered);
    nv_bench_mqtt_report_usage(&figures, p->o, from, to, p->acked);
    nv_bench_failures_report(&fleet->failures, &figures);
    nv_report_end(&figures);
}

int nv_bench_publish(const nv_bench_mqtt_options *o)
{
    static const nv_fleet_hooks hooks = {.acked = on_acked, .pong = on_pong, .turn = on_turn};
    publish *p = nv_calloc(1, sizeof(*p));
    nv_fleet fleet;
    nv_usage from = {0};
    nv_usage to = {0};
    int code = 2;
    p->o = o;
    if (nv_fleet_init(&fleet, o, &hooks, p)) {
        init(p, &fleet);
        p->stopping = true; /* until all connections stand */
        if (nv_fleet_open_all(&fleet)) {
            p->stopping = false;
            p->start_ns = fleet.now_ns = nv_bench_now_ns();
            for (uint32_t i = 0; !o->rate && i < o->connections; i++) {
                turn_one(&fleet, i);
            }
            run_until(p, &fleet, p->start_ns + (int64_t)(o->warmup_s * NS));
            nv_usage_read(&from, (pid_t)o->pid);
            p->measure_ns = nv_bench_now_ns();
            p->measuring = true;
            run_until(p, &fleet, p->measure_ns + (int64_t)(o->duration_s * NS));
            nv_usage_read(&to, (pid_t)o->pid);
            drain(p, &fleet);
        }
        report(p, &fleet, &from, &to);
        code = nv_bench_failures_sum(&fleet.failures) ? 1 : 0;
    }
    deinit(p);
    nv_fleet_deinit(&fleet);
    free(p);
    return code;
}
