/*
 * The cloud talks to devices: direct methods, desired properties and cloud-to-device messages. Requests go out by REST
 * over kept-alive HTTPS connections, one at a time on each; the devices of the fleet answer over MQTT.
 *
 *   method   a call and its answer, closed loop over the HTTPS connections, or open loop with --rate
 *   desired  one patch for each device; over when every device has been told
 *   c2d      messages, each completed by a PUBACK; at most `window` on their way to each device
 */
#include "nave/bench/http_lane.h"
#include "nave/bench/mqtt.h"

#include "base/alloc.h"

#include <inttypes.h>
#include <stdlib.h>

#define NS        1000000000
#define SPIN_NS   200000
#define BODY_MAX  ((size_t)24 * 1024)
#define SENT_RING 65536u /* more than can be on their way */

typedef struct service {
    const nv_bench_mqtt_options *o;
    nv_fleet fleet;
    nv_http_lanes http;
    char *text;        /* `size` bytes of payload */
    char *body;        /* of a request */
    uint64_t next;     /* request */
    uint64_t answered; /* requests of all time */
    uint64_t told;     /* messages that reached a device, of all time */
    int64_t *sent_ns;  /* ring by request */
    int64_t start_ns;
    int64_t measure_ns; /* 0: not measuring */
    bool stopping;
    uint64_t count;          /* in the measured time: answers, or completed messages */
    nv_histogram latency_ns; /* request to answer; c2d, desired: request to device */
} service;

static service *service_of(nv_fleet *fleet)
{
    return nv_container_of(fleet, service, fleet);
}

static void record(service *s, int64_t since_ns)
{
    if (s->measure_ns) {
        s->count++;
        if (since_ns >= s->measure_ns) {
            nv_histogram_add(&s->latency_ns, (uint64_t)(s->fleet.now_ns - since_ns), 1);
        }
    }
}

/* ---- requests --------------------------------------------------------------------------------------------- */

static int64_t due_ns(const service *s)
{
    return s->o->rate ? s->start_ns + (int64_t)((double)s->next * (double)NS / (double)s->o->rate) : 0;
}

static bool may_send(const service *s)
{
    if (s->o->mode == NV_BENCH_DESIRED) {
        return s->next < s->o->connections;
    }
    bool room = s->o->mode == NV_BENCH_METHOD || s->next - s->told < s->o->window * s->o->connections;
    return !s->stopping && room && due_ns(s) <= s->fleet.now_ns;
}

static void send_next(service *s, nv_http_lane *lane)
{
    char path[320];
    const char *id = s->fleet.credentials.ids[s->next % s->o->connections];
    const char *method = "POST";
    int64_t since_ns = s->o->rate ? due_ns(s) : s->fleet.now_ns;
    if (s->o->mode == NV_BENCH_DESIRED) {
        method = "PATCH";
        (void)snprintf(path, sizeof(path), "/twins/%s?api-version=2021-04-12", id);
        (void)snprintf(s->body, BODY_MAX, "{\"properties\":{\"desired\":{\"n\":%" PRIu64 ",\"text\":\"%s\"}}}",
                       (uint64_t)s->start_ns, s->text);
    } else if (s->o->mode == NV_BENCH_C2D) {
        (void)snprintf(path, sizeof(path), "/nave/v1/devices/%s/messages", id);
        (void)snprintf(s->body, BODY_MAX, "{\"body\":\"%" PRIu64 " %s\"}", s->next, s->text);
    } else {
        (void)snprintf(path, sizeof(path), "/twins/%s/methods?api-version=2021-04-12", id);
        (void)snprintf(s->body, BODY_MAX,
                       "{\"methodName\":\"bench\",\"responseTimeoutInSeconds\":30,\"payload\":{\"text\":\"%s\"}}",
                       s->text);
    }
    s->sent_ns[s->next % SENT_RING] = since_ns;
    nv_http_lane_send(lane, s->next++, since_ns, method, path, s->body);
}

static void offer(service *s)
{
    for (uint32_t i = 0; i < s->http.count && may_send(s); i++) {
        nv_http_lane *lane = &s->http.lanes[i];
        if (lane->open && !lane->busy) {
            send_next(s, lane);
        }
    }
}

static void on_answered(nv_http_lane *lane, unsigned status, nv_span body)
{
    service *s = service_of(lane->lanes->fleet);
    unsigned wanted = s->o->mode == NV_BENCH_C2D ? 201 : 200;
    s->answered++;
    if (status != wanted) {
        nv_bench_failures_add(&s->fleet.failures, NV_FLEET_STATUS, "https: %u %.*s", status,
                              (int)(body.len < 200 ? body.len : 200), (const char *)body.ptr);
        s->told += s->o->mode == NV_BENCH_C2D || s->o->mode == NV_BENCH_DESIRED ? 1 : 0; /* it never will be */
    } else if (s->o->mode == NV_BENCH_METHOD) {
        record(s, lane->since_ns);
    }
    if (may_send(s)) {
        send_next(s, lane);
    }
}

/* ---- the devices' side ------------------------------------------------------------------------------------ */

static void answer_method(nv_fleet *fleet, nv_client *client, const nv_mqtt_publish *publish)
{
    uint8_t packet[256];
    char topic[160];
    size_t mark = nv_span_find(publish->topic, '?');
    (void)snprintf(topic, sizeof(topic), "$iothub/methods/res/200/%.*s",
                   NV_SPAN_ARG(nv_span_skip(publish->topic, mark)));
    nv_mqtt_publish answer = {.topic = nv_span_str(topic), .payload = nv_span_str("{\"ok\":true}")};
    nv_writer w = nv_writer_of(packet, sizeof(packet));
    nv_mqtt_write_publish(&w, &answer);
    (void)nv_fleet_write(fleet, client, packet, nv_writer_len(&w)); /* the rest is kept */
}

static void complete_message(nv_fleet *fleet, nv_client *client, const nv_mqtt_publish *publish)
{
    service *s = service_of(fleet);
    uint8_t ack[NV_MQTT_ACK_SIZE];
    uint64_t number = 0;
    bool ours = nv_span_to_u64(nv_span_first(publish->payload, nv_span_find(publish->payload, ' ')), &number);
    (void)nv_mqtt_put_puback(ack, publish->packet_id);
    (void)nv_fleet_write(fleet, client, ack, sizeof(ack));
    s->told++;
    if (ours && number < s->next) {
        record(s, s->sent_ns[number % SENT_RING]);
    }
}

static void on_message(nv_fleet *fleet, nv_client *client, const nv_mqtt_publish *publish)
{
    service *s = service_of(fleet);
    if (fleet->o->mode == NV_BENCH_METHOD) {
        answer_method(fleet, client, publish);
    } else if (fleet->o->mode == NV_BENCH_DESIRED) {
        s->told++;
        record(s, s->sent_ns[client->index % SENT_RING]);
    } else {
        complete_message(fleet, client, publish);
        offer(s); /* room */
    }
}

/* ---- running ---------------------------------------------------------------------------------------------- */

static void run_until(service *s, int64_t end_ns)
{
    for (s->fleet.now_ns = nv_bench_now_ns(); s->fleet.now_ns < end_ns && s->http.open && s->fleet.ready;) {
        offer(s);
        int64_t wake_ns = s->o->rate && !s->stopping && due_ns(s) < end_ns ? due_ns(s) : end_ns;
        int64_t wait_ns = wake_ns - s->fleet.now_ns;
        nv_fleet_poll(&s->fleet, s->o->spin || (s->o->rate && wait_ns < SPIN_NS) ? 0 : wait_ns);
    }
}

static bool finished(const service *s)
{
    bool told = s->o->mode == NV_BENCH_METHOD || s->told >= s->next;
    return s->answered == s->next && told && (s->o->mode != NV_BENCH_DESIRED || s->next == s->o->connections);
}

static void finish(service *s)
{
    int64_t end = nv_bench_now_ns() + (int64_t)(s->o->setup_s * NS);
    for (s->fleet.now_ns = nv_bench_now_ns(); !finished(s) && s->fleet.now_ns < end && s->http.open;) {
        offer(s);
        nv_fleet_poll(&s->fleet, end - s->fleet.now_ns);
    }
    s->fleet.failures.counts[NV_FLEET_UNACKED] += finished(s) ? 0 : 1;
}

static void measure(service *s, nv_usage *from, nv_usage *to)
{
    bool once = s->o->mode == NV_BENCH_DESIRED;
    s->start_ns = s->fleet.now_ns = nv_bench_now_ns();
    if (!once) {
        run_until(s, s->start_ns + (int64_t)(s->o->warmup_s * NS));
    }
    nv_usage_read(from, (pid_t)s->o->pid);
    s->measure_ns = nv_bench_now_ns();
    if (once) {
        finish(s);
        nv_usage_read(to, (pid_t)s->o->pid);
        return;
    }
    run_until(s, s->measure_ns + (int64_t)(s->o->duration_s * NS));
    nv_usage_read(to, (pid_t)s->o->pid);
    s->measure_ns = 0;
    s->stopping = true;
    finish(s);
}

static void report(const service *s, const nv_usage *from, const nv_usage *to)
{
    double wall = to->wall_s - from->wall_s;
    nv_report figures;
    nv_bench_mqtt_report_begin(&figures, &s->fleet);
    nv_report_int(&figures, "operations", (int64_t)s->count);
    nv_report_real(&figures, "operations_per_s", (double)s->count / wall, 1);
    nv_report_real(&figures, "wall_s", wall, 3);
    nv_bench_mqtt_report_latency(&figures, &s->latency_ns);
    nv_bench_mqtt_report_usage(&figures, s->o, from, to, s->count);
    nv_bench_failures_report(&s->fleet.failures, &figures);
    nv_report_end(&figures);
}

static bool init(service *s)
{
    size_t size = s->o->size < BODY_MAX / 2 ? s->o->size : BODY_MAX / 2;
    s->text = nv_calloc(1, size + 1);
    memset(s->text, 't', size);
    s->body = nv_malloc(BODY_MAX);
    s->sent_ns = nv_calloc(SENT_RING, sizeof(int64_t));
    if (!s->fleet.credentials.service) {
        fprintf(stderr, "nave bench: REST needs the key of a policy: --hub with its connection string, or --policy\n");
        return false;
    }
    return true;
}

int nv_bench_service(const nv_bench_mqtt_options *o)
{
    static const nv_fleet_hooks hooks = {.message = on_message};
    service *s = nv_calloc(1, sizeof(*s));
    nv_usage from = {0};
    nv_usage to = {0};
    int code = 2;
    s->o = o;
    if (nv_fleet_init(&s->fleet, o, &hooks, s) && init(s)) {
        if (nv_fleet_open_all(&s->fleet) && nv_http_lanes_init(&s->http, &s->fleet, on_answered)) {
            measure(s, &from, &to);
        }
        report(s, &from, &to);
        code = nv_bench_failures_sum(&s->fleet.failures) || s->count == 0 ? 1 : 0;
    }
    nv_http_lanes_deinit(&s->http);
    nv_fleet_deinit(&s->fleet);
    free(s->text);
    free(s->body);
    free(s->sent_ns);
    free(s);
    return code;
}
