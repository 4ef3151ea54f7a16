/*
 * Reported patches: every connection keeps `window` of them unanswered. A patch sets one number and carries `size`
 * bytes of text beside it; the answer names it by its request id.
 */
#include "nave/bench/mqtt.h"

#include "base/alloc.h"

#include <inttypes.h>
#include <stdlib.h>

#define NS          1000000000
#define BUILD_BYTES ((size_t)64 * 1024)
#define PACKET_MAX  ((size_t)4096) /* what a patch needs beside its text */

typedef struct lane {
    int64_t *sent_ns; /* ring by request id mod window; 0 = answered; owned */
    uint64_t next;
    uint64_t outstanding;
} lane;

typedef struct twins {
    const nv_bench_mqtt_options *o;
    lane *lanes;
    char *text;   /* `size` bytes */
    char *body;   /* of a patch */
    uint8_t *out; /* where a write is built */
    bool stopping;
    bool measuring;
    int64_t measure_ns;
    uint64_t answered;
    nv_histogram latency_ns;
} twins;

static size_t build(twins *t, lane *l, int64_t now_ns)
{
    size_t used = 0;
    size_t longest = PACKET_MAX + t->o->size;
    while (l->outstanding < t->o->window && l->sent_ns[l->next % t->o->window] == 0 &&
           (used == 0 || used + longest <= BUILD_BYTES)) {
        char topic[96];
        int len = snprintf(t->body, longest, "{\"n\":%" PRIu64 ",\"text\":\"%s\"}", l->next, t->text);
        (void)snprintf(topic, sizeof(topic), "$iothub/twin/PATCH/properties/reported/?$rid=%" PRIu64, l->next);
        nv_mqtt_publish publish = {.topic = nv_span_str(topic),
                                   .payload = nv_span_of(t->body, (size_t)len),
                                   .qos = (uint8_t)t->o->qos,
                                   .packet_id = t->o->qos ? (uint16_t)(l->next % 65535 + 1) : 0};
        nv_writer w = nv_writer_of(t->out + used, longest);
        nv_mqtt_write_publish(&w, &publish);
        used += nv_writer_len(&w);
        l->sent_ns[l->next++ % t->o->window] = now_ns;
        l->outstanding++;
    }
    return used;
}

static void on_turn(nv_fleet *fleet, nv_client *client)
{
    twins *t = fleet->mode;
    lane *l = &t->lanes[client->index];
    while (client->rest_len == 0 && !t->stopping) {
        size_t len = build(t, l, fleet->now_ns);
        if (len == 0 || !nv_fleet_write(fleet, client, t->out, len)) {
            return;
        }
    }
}

/* "$iothub/twin/res/204/?$rid=17&$version=42" */
static bool parse_answer(nv_span topic, uint64_t *rid)
{
    static const char start[] = "$iothub/twin/res/204/?$rid=";
    if (!nv_span_eq_str(nv_span_first(topic, sizeof(start) - 1), start)) {
        return false;
    }
    nv_span rest = nv_span_skip(topic, sizeof(start) - 1);
    return nv_span_to_u64(nv_span_first(rest, nv_span_find(rest, '&')), rid);
}

static void on_message(nv_fleet *fleet, nv_client *client, const nv_mqtt_publish *publish)
{
    twins *t = fleet->mode;
    lane *l = &t->lanes[client->index];
    uint64_t rid = 0;
    int64_t *sent = NULL;
    if (parse_answer(publish->topic, &rid) && rid < l->next && l->next - rid <= t->o->window) {
        sent = &l->sent_ns[rid % t->o->window];
    }
    if (!sent || *sent == 0) {
        char words[160];
        (void)snprintf(words, sizeof(words), "not an answer that is outstanding: %.*s", NV_SPAN_ARG(publish->topic));
        nv_fleet_fail(fleet, client, NV_FLEET_PROTOCOL, words);
        return;
    }
    if (t->measuring) {
        t->answered++;
        if (*sent >= t->measure_ns) {
            nv_histogram_add(&t->latency_ns, (uint64_t)(fleet->now_ns - *sent), 1);
        }
    }
    *sent = 0;
    l->outstanding--;
}

static void on_acked(nv_fleet *fleet, nv_client *client, const uint8_t *acks, size_t count)
{
    (void)fleet; /* the answer counts, not the receipt */
    (void)client;
    (void)acks;
    (void)count;
}

static void run_until(nv_fleet *fleet, int64_t end_ns)
{
    for (int64_t now = nv_bench_now_ns(); now < end_ns && fleet->ready; now = nv_bench_now_ns()) {
        nv_fleet_poll(fleet, end_ns - now);
    }
}

static uint64_t outstanding(const twins *t, const nv_fleet *fleet)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < t->o->connections; i++) {
        sum += fleet->clients[i].state == NV_CLIENT_READY ? t->lanes[i].outstanding : 0;
    }
    return sum;
}

static void measure(twins *t, nv_fleet *fleet, nv_usage *from, nv_usage *to)
{
    fleet->now_ns = nv_bench_now_ns();
    for (uint32_t i = 0; i < t->o->connections; i++) {
        on_turn(fleet, &fleet->clients[i]);
    }
    run_until(fleet, nv_bench_now_ns() + (int64_t)(t->o->warmup_s * NS));
    nv_usage_read(from, (pid_t)t->o->pid);
    t->measure_ns = nv_bench_now_ns();
    t->measuring = true;
    run_until(fleet, t->measure_ns + (int64_t)(t->o->duration_s * NS));
    nv_usage_read(to, (pid_t)t->o->pid);
    t->measuring = false;
    t->stopping = true;
    for (int64_t end = nv_bench_now_ns() + (int64_t)(t->o->setup_s * NS), now = nv_bench_now_ns();
         outstanding(t, fleet) && now < end; now = nv_bench_now_ns()) {
        nv_fleet_poll(fleet, end - now);
    }
    fleet->failures.counts[NV_FLEET_UNACKED] += outstanding(t, fleet);
}

static void report(const twins *t, const nv_fleet *fleet, const nv_usage *from, const nv_usage *to)
{
    nv_report figures;
    nv_bench_mqtt_report_begin(&figures, fleet);
    nv_report_int(&figures, "patches", (int64_t)t->answered);
    nv_report_real(&figures, "patches_per_s", (double)t->answered / (to->wall_s - from->wall_s), 1);
    nv_bench_mqtt_report_latency(&figures, &t->latency_ns);
    nv_bench_mqtt_report_usage(&figures, t->o, from, to, t->answered);
    nv_bench_failures_report(&fleet->failures, &figures);
    nv_report_end(&figures);
}

static void init(twins *t)
{
    t->lanes = nv_calloc(t->o->connections, sizeof(*t->lanes));
    for (uint32_t i = 0; i < t->o->connections; i++) {
        t->lanes[i].sent_ns = nv_calloc(t->o->window, sizeof(int64_t));
    }
    t->text = nv_calloc(1, t->o->size + 1);
    memset(t->text, 't', t->o->size);
    t->body = nv_malloc(PACKET_MAX + t->o->size);
    t->out = nv_malloc(BUILD_BYTES + PACKET_MAX + t->o->size);
}

static void deinit(twins *t)
{
    for (uint32_t i = 0; t->lanes && i < t->o->connections; i++) {
        free(t->lanes[i].sent_ns);
    }
    free(t->lanes);
    free(t->text);
    free(t->body);
    free(t->out);
    free(t);
}

int nv_bench_twin(const nv_bench_mqtt_options *o)
{
    static const nv_fleet_hooks hooks = {.acked = on_acked, .message = on_message, .turn = on_turn};
    twins *t = nv_calloc(1, sizeof(*t));
    nv_fleet fleet;
    nv_usage from = {0};
    nv_usage to = {0};
    int code = 2;
    t->o = o;
    if (nv_fleet_init(&fleet, o, &hooks, t)) {
        init(t);
        t->stopping = true; /* until all connections stand */
        if (nv_fleet_open_all(&fleet)) {
            t->stopping = false;
            measure(t, &fleet, &from, &to);
        }
        report(t, &fleet, &from, &to);
        code = nv_bench_failures_sum(&fleet.failures) || t->answered == 0 ? 1 : 0;
    }
    nv_fleet_deinit(&fleet);
    deinit(t);
    return code;
}
