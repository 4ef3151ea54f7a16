/*
 * `nave monitor` by AMQP, from a Nave or any other hub (amqp.md sections 5 and 6):
 *
 *   hub: PLAIN, a receiver from /messages/events/... --redirect-->
 *   event hub (at once with its own string): a token on $cbs, then
 *     $management: which partitions there are, and for "now" where each of them ends
 *     a receiver for each partition, behind the last event that was shown
 *
 * When the connection ends all of it begins again, as often as it must; only what the hub refuses ends the command.
 */
#include "nave/monitor.h"

#include "base/alloc.h"
#include "nave/amqp_client.h"
#include "nave/amqp_event.h"
#include "session/http_message.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CREDIT        500u
#define EVENT_MAX     (16u << 20)
#define WAIT_FIRST_US (250 * NV_US_PER_MS)
#define WAIT_LAST_US  (4 * NV_US_PER_S)
#define ENTITY_MAX    256u

typedef struct feed feed;

/* One connection, from the attempt to its end. */
typedef struct contact {
    feed *f;
    nv_amqp_client *client; /* NULL: not ready yet */
} contact;

typedef struct part {
    feed *f;
    uint32_t number;
    char id[12];
    const char *properties[9]; /* of the question where it ends */
    nv_amqp_ask ask;
} part;

struct feed {
    nv_amqp_run run;
    nv_monitor *m;
    const char *group;
    int64_t only;  /* this partition; -1: all */
    int64_t first; /* --from SEQUENCE; -1: it is none */
    int64_t from_ms;
    nv_amqp_place hub;
    nv_amqp_place events;
    char entity[ENTITY_MAX + 1];
    contact *at;   /* the connection of this phase; the end of any other is of no interest */
    char why[200]; /* known before its end */
    nv_amqp_node *management;
    const char *properties[7];
    nv_amqp_ask ask;
    part parts[NV_MONITOR_PARTITIONS];
    size_t part_count;
    size_t asked;   /* ends of partitions that are not told yet */
    bool contacted; /* once it worked */
    bool said;
    int64_t wait_us;
    nv_timer retry;
    nv_buf line;
    nv_buf scratch;
};

static void locate(feed *f);

/* ---- ends ------------------------------------------------------------------------------------------------------ */

static void try_again(nv_timer *timer, int64_t now_us)
{
    (void)now_us;
    feed *f = nv_container_of(timer, feed, retry);
    nv_client_close(f->run.client); /* the hub may have come back on another port */
    int code = nv_client_open_events(f->run.client, f->m->args);
    if (code != NV_EXIT_OK) {
        nv_amqp_run_end(&f->run, code);
    } else {
        locate(f);
    }
}

/* The connection of this phase is over. The first contact says in one sentence what is wrong; later ones are patient.
 */
static void lost(feed *f, nv_amqp_condition condition, const char *why)
{
    f->at = NULL;
    why = f->why[0] ? f->why : why;
    if (condition == NV_AMQP_ERR_UNAUTHORIZED_ACCESS) {
        nv_amqp_run_refuse_key(&f->run, why);
        return;
    }
    if (!f->contacted) {
        nv_amqp_run_refuse(&f->run, "the hub cannot be read: %s%s", why, nv_amqp_cure(f->run.client, why));
        return;
    }
    if (!f->said) {
        fputs("nave: the connection to the hub ended; trying again\n", stderr);
    }
    f->said = true;
    f->why[0] = '\0';
    nv_timer_set(f->run.loop, &f->retry, nv_loop_now_us(f->run.loop) + f->wait_us);
    f->wait_us = f->wait_us < WAIT_LAST_US ? 2 * f->wait_us : WAIT_LAST_US;
}

static void contact_ended(nv_amqp_client *client, void *arg, nv_amqp_condition condition, const char *why)
{
    contact *c = arg;
    (void)client;
    if (c == c->f->at && !nv_amqp_run_ended(&c->f->run)) {
        lost(c->f, condition, why);
    }
    free(c);
}

static contact *contact_new(feed *f)
{
    f->at = nv_calloc(1, sizeof(*f->at));
    f->at->f = f;
    return f->at;
}

static void leave(feed *f)
{
    if (f->at && f->at->client) {
        nv_amqp_client_close(f->at->client);
    }
}

/* A link was refused or taken away. @return true: nothing more to do but wait for the end of the connection */
static bool link_over(feed *f, const nv_amqp_problem *problem, const char *what)
{
    char why[520];
    bool passing = problem->symbol.len == 0 || problem->condition == NV_AMQP_ERR_CONNECTION_FORCED ||
                   problem->condition == NV_AMQP_ERR_DETACH_FORCED || problem->condition == NV_AMQP_ERR_TIMEOUT;
    if (!passing) {
        nv_amqp_explain(problem, why, sizeof(why));
        nv_amqp_run_refuse(&f->run, "%s cannot be read: %s (%.*s)", what, why, NV_SPAN_ARG(problem->symbol));
    } else {
        leave(f);
    }
    return passing;
}

/* ---- events ---------------------------------------------------------------------------------------------------- */

static bool show(part *p, nv_span message)
{
    feed *f = p->f;
    const char *device = nv_args_get(f->m->args, "device");
    if (device && !nv_amqp_event_is_of(message, device)) {
        return true;
    }
    nv_buf_clear(&f->line);
    nv_json_writer w = nv_json_writer_of(&f->line);
    if (!nv_amqp_event_json(&w, p->number, message, &f->scratch)) {
        fputs("nave: the hub sent something that is no event; it is left out\n", stderr);
        return true;
    }
    return nv_monitor_line(f->m, nv_buf_span(&f->line));
}

static bool event_delivery(nv_amqp_link *link, const nv_amqp_delivery *delivery)
{
    part *p = link->owner;
    nv_amqp_link_accept_delivery(link, delivery->id);
    if (!nv_amqp_run_ended(&p->f->run) && !show(p, delivery->bytes)) {
        nv_amqp_run_end(&p->f->run, NV_EXIT_OK);
    }
    return true;
}

static void event_detached(nv_amqp_link *link, const nv_amqp_problem *problem)
{
    part *p = link->owner;
    char what[80];
    (void)snprintf(what, sizeof(what), "partition %s in consumer group %s", p->id, p->f->group);
    (void)link_over(p->f, problem, what);
}

static const nv_amqp_link_ops event_ops = {.delivery = event_delivery, .detached = event_detached};

static void write_filter(const feed *f, const part *p, char *out, size_t size)
{
    const nv_monitor *m = f->m;
    if (m->seen[p->number]) {
        (void)snprintf(out, size, "amqp.annotation.x-opt-sequence-number > '%" PRIu64 "'", m->sequence[p->number]);
    } else if (f->first >= 0) {
        (void)snprintf(out, size, "amqp.annotation.x-opt-sequence-number >= '%" PRId64 "'", f->first);
    } else if (f->from_ms >= 0) {
        (void)snprintf(out, size, "amqp.annotation.x-opt-enqueued-time > '%" PRId64 "'", f->from_ms - 1);
    } else {
        (void)snprintf(out, size, "amqp.annotation.x-opt-offset > '-1'");
    }
}

static void read_part(feed *f, nv_amqp_session *session, part *p)
{
    char address[ENTITY_MAX + 200];
    char name[40];
    char filter[100];
    uint8_t source[1024];
    (void)snprintf(address, sizeof(address), "%s/ConsumerGroups/%s/Partitions/%s", f->entity, f->group, p->id);
    (void)snprintf(name, sizeof(name), "nave-monitor-%s", p->id);
    write_filter(f, p, filter, sizeof(filter));
    nv_writer w = nv_writer_of(source, sizeof(source));
    nv_amqp_put_source(&w, address, filter);
    (void)nv_amqp_link_attach(session, &(nv_amqp_attach_options){.name = name,
                                                                 .source = nv_writer_span(&w),
                                                                 .address = address,
                                                                 .ops = &event_ops,
                                                                 .owner = p,
                                                                 .credit = CREDIT});
}

static void read_all(feed *f)
{
    nv_amqp_session *session = nv_amqp_session_begin(nv_amqp_client_conn(f->at->client));
    for (size_t i = 0; i < f->part_count; i++) {
        read_part(f, session, &f->parts[i]);
    }
    f->contacted = true;
    f->said = false;
    f->wait_us = WAIT_FIRST_US;
}

/* ---- partitions ------------------------------------------------------------------------------------------------ */

/* @return false: there is none, and what follows from it was done */
static bool good(feed *f, int status, nv_span description, const nv_amqp_message *reply, nv_amqp_value *map)
{
    if (nv_amqp_run_ended(&f->run) || !f->at) {
        return false;
    }
    if (!reply) {
        (void)snprintf(f->why, sizeof(f->why), "%.*s", NV_SPAN_ARG(nv_span_first(description, sizeof(f->why) - 1)));
        leave(f);
        return false;
    }
    nv_reader r = nv_reader_of(reply->body);
    if (status >= 300) {
        nv_amqp_run_refuse(&f->run, "%s cannot be read: %.*s (%d)", f->entity, NV_SPAN_ARG(description), status);
        return false;
    }
    if (reply->body_kind != NV_AMQP_BODY_IS_VALUE || !nv_amqp_read(&r, map) || map->type != NV_AMQP_MAP) {
        nv_amqp_run_refuse(&f->run, "the hub answered with something that is no description of %s", f->entity);
        return false;
    }
    return true;
}

/* "now" is where each partition ends at the first contact; a later connection must not go behind it. */
static void told_end(nv_amqp_ask *ask, int status, nv_span description, const nv_amqp_message *reply)
{
    part *p = ask->arg;
    feed *f = p->f;
    nv_amqp_value map;
    nv_amqp_value value;
    uint64_t last = 0;
    if (!good(f, status, description, reply, &map)) {
        return;
    }
    if (nv_amqp_map_find(&map, "last_enqueued_sequence_number", &value) && nv_amqp_to_u64(&value, &last)) {
        f->m->seen[p->number] = true; /* of an empty one it is -1 */
        f->m->sequence[p->number] = last;
    }
    bool empty = nv_amqp_map_find(&map, "is_partition_empty", &value) && value.type == NV_AMQP_BOOLEAN && value.boolean;
    if (empty && last == 0) {
        f->m->seen[p->number] = false;
    }
    if (--f->asked == 0) {
        read_all(f);
    }
}

static void ask_end(feed *f, part *p)
{
    const char *const words[] = {"operation", "READ",    "type",      "com.microsoft:partition",
                                 "name",      f->entity, "partition", p->id};
    memcpy(p->properties, words, sizeof(words));
    p->ask = (nv_amqp_ask){.properties = p->properties, .done = told_end, .arg = p};
    nv_amqp_node_ask(f->management, &p->ask);
}

static void add_part(feed *f, nv_span id)
{
    uint64_t number = 0;
    part *p = &f->parts[f->part_count];
    if (f->part_count == NV_MONITOR_PARTITIONS || id.len >= sizeof(p->id) || !nv_span_to_u64(id, &number) ||
        number >= NV_MONITOR_PARTITIONS || (f->only >= 0 && number != (uint64_t)f->only)) {
        return;
    }
    *p = (part){.f = f, .number = (uint32_t)number};
    (void)snprintf(p->id, sizeof(p->id), "%.*s", NV_SPAN_ARG(id));
    f->part_count++;
}

static void told_partitions(nv_amqp_ask *ask, int status, nv_span description, const nv_amqp_message *reply)
{
    feed *f = ask->arg;
    nv_amqp_value map;
    nv_amqp_value ids;
    nv_amqp_value id;
    if (!good(f, status, description, reply, &map)) {
        return;
    }
    f->part_count = 0;
    if (nv_amqp_map_find(&map, "partition_ids", &ids) && ids.type == NV_AMQP_ARRAY) {
        nv_reader at = nv_reader_of(ids.bytes);
        while (nv_amqp_array_next(&ids, &at, &id)) {
            add_part(f, nv_amqp_is_text(&id) ? id.bytes : NV_SPAN_EMPTY);
        }
    }
    if (f->part_count == 0) {
        if (f->only >= 0) {
            nv_amqp_run_refuse(&f->run, "there is no partition %" PRId64, f->only);
        } else {
            nv_amqp_run_refuse(&f->run, "the hub tells of no partitions");
        }
        return;
    }
    if (f->contacted || strcmp(f->m->from, "now") != 0) {
        read_all(f);
        return;
    }
    f->asked = f->part_count;
    for (size_t i = 0; i < f->part_count; i++) {
        ask_end(f, &f->parts[i]);
    }
}

/* ---- the event hub --------------------------------------------------------------------------------------------- */

static void events_ready(nv_amqp_client *client, void *arg)
{
    feed *f = ((contact *)arg)->f;
    const char *const words[] = {"operation", "READ", "type", "com.microsoft:eventhub", "name", f->entity};
    memcpy(f->properties, words, sizeof(words));
    ((contact *)arg)->client = client;
    f->management = nv_amqp_node_open(client, "$management");
    f->ask = (nv_amqp_ask){.properties = f->properties, .done = told_partitions, .arg = f};
    nv_amqp_node_ask(f->management, &f->ask);
}

static char *make_token(void *arg, const char *audience, int64_t *life_s)
{
    return nv_amqp_event_token(((contact *)arg)->f->run.client, audience, life_s);
}

static void connect_events(feed *f)
{
    char audience[sizeof(f->events.host) + ENTITY_MAX + 8];
    (void)snprintf(audience, sizeof(audience), "sb://%s/%s", f->events.host, f->entity);
    nv_amqp_run_connect(&f->run, &f->events,
                        &(nv_amqp_client_config){.audience = audience,
                                                 .make_token = make_token,
                                                 .ready = events_ready,
                                                 .ended = contact_ended,
                                                 .arg = contact_new(f)});
}

/* ---- the hub --------------------------------------------------------------------------------------------------- */

static bool keep_text(const nv_amqp_value *map, const char *key, char *out, size_t size)
{
    nv_amqp_value value;
    if (!nv_amqp_map_find(map, key, &value) || !nv_amqp_is_text(&value) || value.bytes.len == 0 ||
        value.bytes.len >= size) {
        return false;
    }
    (void)snprintf(out, size, "%.*s", NV_SPAN_ARG(value.bytes));
    return true;
}

/* "amqps://host:5671/entity/...": the entity. */
static bool keep_entity(feed *f, const char *address)
{
    const char *path = strstr(address, "://");
    path = strchr(path ? path + 3 : address, '/');
    size_t len = path ? strcspn(path + 1, "/") : 0;
    if (len == 0 || len > ENTITY_MAX) {
        return false;
    }
    (void)snprintf(f->entity, sizeof(f->entity), "%.*s", (int)len, path + 1);
    return true;
}

static bool follow(feed *f, nv_span info)
{
    nv_reader r = nv_reader_of(info);
    nv_amqp_value map;
    char address[1024];
    if (!nv_amqp_read(&r, &map) || !keep_text(&map, "hostname", f->events.host, sizeof(f->events.host)) ||
        !keep_text(&map, "address", address, sizeof(address)) || !keep_entity(f, address)) {
        return false;
    }
    /* The port of the same host is the one that worked: the address always says 5671. */
    bool same = nv_span_eq_nocase(nv_span_str(f->events.host), nv_span_str(f->hub.host));
    f->events.websocket = f->hub.websocket ? NV_AMQP_EVENTS_WEBSOCKET : NULL;
    f->events.port = same ? f->hub.port : f->hub.websocket ? 443 : 5671;
    return true;
}

static void probe_detached(nv_amqp_link *link, const nv_amqp_problem *problem)
{
    feed *f = link->owner;
    if (problem->condition != NV_AMQP_ERR_LINK_REDIRECT) {
        (void)link_over(f, problem, "the hub");
    } else if (!follow(f, problem->info)) {
        nv_amqp_run_refuse(&f->run, "the hub redirects to a place that cannot be understood");
    } else {
        leave(f);
        connect_events(f);
    }
}

static bool probe_delivery(nv_amqp_link *link, const nv_amqp_delivery *delivery)
{
    feed *f = link->owner;
    (void)delivery;
    nv_amqp_run_refuse(&f->run, "the hub did not redirect to its event hub");
    return true;
}

static const nv_amqp_link_ops probe_ops = {.delivery = probe_delivery, .detached = probe_detached};

static void hub_ready(nv_amqp_client *client, void *arg)
{
    feed *f = ((contact *)arg)->f;
    char address[200];
    ((contact *)arg)->client = client;
    (void)snprintf(address, sizeof(address), "/messages/events/ConsumerGroups/%s/Partitions/%s", f->group, "0");
    (void)nv_amqp_link_attach(
        nv_amqp_session_begin(nv_amqp_client_conn(client)),
        &(nv_amqp_attach_options){
            .name = "nave-monitor", .address = address, .ops = &probe_ops, .owner = f, .credit = 1});
}

/* The string of an event hub says where it is. */
static void connect_entity(feed *f)
{
    const nv_client *client = f->run.client;
    (void)snprintf(f->events.host, sizeof(f->events.host), "%s", client->host);
    (void)snprintf(f->entity, sizeof(f->entity), "%s", client->entity);
    f->events.port = client->port;
    f->events.plain = client->plain;
    f->events.websocket = client->websocket ? NV_AMQP_EVENTS_WEBSOCKET : NULL;
    connect_events(f);
}

static void locate(feed *f)
{
    if (f->run.client->entity) {
        connect_entity(f);
        return;
    }
    int code = nv_amqp_place_of(f->run.client, &f->hub);
    if (code != NV_EXIT_OK) {
        nv_amqp_run_end(&f->run, code);
        return;
    }
    nv_amqp_client_config config = {.ready = hub_ready, .ended = contact_ended, .arg = contact_new(f)};
    nv_amqp_run_connect_policy(&f->run, &f->hub, &config);
}

static void start(nv_amqp_run *run)
{
    locate(run->arg);
}

/* ---- the command ----------------------------------------------------------------------------------------------- */

static bool read_from(feed *f)
{
    const char *from = f->m->from;
    uint64_t number = 0;
    int64_t wall_us = 0;
    f->first = f->from_ms = -1;
    if (nv_span_to_u64(nv_span_str(from), &number) && number <= INT64_MAX) {
        f->first = (int64_t)number;
    } else if (nv_http_read_time(nv_span_str(from), &wall_us)) {
        f->from_ms = wall_us / NV_US_PER_MS;
    } else {
        return strcmp(from, "beginning") == 0 || strcmp(from, "now") == 0;
    }
    return true;
}

int nv_monitor_amqp(nv_monitor *m, nv_client *client)
{
    feed *f = nv_calloc(1, sizeof(*f));
    const char *group = nv_args_get(m->args, "consumer-group");
    const char *partition = nv_args_get(m->args, "partition");
    *f = (feed){.run = {.client = client, .start = start, .arg = f},
                .m = m,
                .group = group ? group : "$Default",
                .only = partition ? (int64_t)strtoul(partition, NULL, 10) : -1,
                .wait_us = WAIT_FIRST_US};
    int code = NV_EXIT_USAGE;
    if (!read_from(f)) {
        fputs("nave: --from is beginning, now, a time such as 2024-05-01T10:00:00Z, or a sequence number\n", stderr);
    } else if (strlen(f->group) > 100 || strpbrk(f->group, "/ ")) {
        fprintf(stderr, "nave: \"%.100s\" cannot be the name of a consumer group\n", f->group);
    } else {
        nv_buf_init(&f->line, EVENT_MAX);
        nv_buf_init(&f->scratch, EVENT_MAX);
        nv_timer_init(&f->retry, try_again);
        code = nv_amqp_run_do(&f->run);
        nv_buf_deinit(&f->line);
        nv_buf_deinit(&f->scratch);
    }
    free(f);
    return code;
}
