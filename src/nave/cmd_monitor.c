/**
 * `nave monitor` over HTTP: follows GET /nave/v1/events. When the connection ends it comes back and goes on behind the
 * last sequence seen of each partition. The stream is in commit order, so what was not seen was committed after the
 * last line; asking again from a little before that line's time and skipping known sequences misses and repeats
 * nothing, unless the hub's clock was set back by more than REPLAY_S meanwhile.
 *
 * A hub of ours is read this way unless a consumer group is wanted: one stream in commit order, of which the hub leaves
 * out other devices, and nobody's reader of a group is in its way. Any other hub is read by AMQP (monitor_amqp.c).
 */
#include "base/alloc.h"
#include "base/clock.h"
#include "codec/json.h"
#include "nave/amqp_client.h"
#include "nave/commands.h"
#include "nave/monitor.h"
#include "nave/table.h"

#include <assert.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PATH_MAX_BYTES (4u << 20) /* more than the words of one command line, encoded */
#define REPLAY_S       10

typedef nv_monitor monitor;

static int usage(const char *text)
{
    fprintf(stderr, "nave: %s\n", text);
    return NV_EXIT_USAGE;
}

/* "2024-05-01T10:20:30" plus or minus seconds, as UTC text. @return false when it is no time */
static bool shift_time(const char *text, int seconds, char out[40])
{
    struct tm tm = {0};
    if (!strptime(text, "%Y-%m-%dT%H:%M:%S", &tm)) {
        return false;
    }
    time_t moved = timegm(&tm) + seconds;
    (void)gmtime_r(&moved, &tm);
    return strftime(out, 40, "%Y-%m-%dT%H:%M:%SZ", &tm) > 0;
}

/* ---- one line ------------------------------------------------------------------------------------------------ */

static void print_plain(const char *text)
{
    char *plain = nv_plain_dup(text);
    fputs(plain, stdout);
    free(plain);
}

static void print_properties(struct json_object *properties)
{
    if (!json_object_is_type(properties, json_type_object)) {
        return;
    }
    json_object_object_foreach(properties, name, value)
    {
        putchar(' ');
        print_plain(name);
        putchar('=');
        const char *text = value ? json_object_get_string(value) : "";
        print_plain(text);
    }
}

/* Where it comes from, when it was not sent by the device but tells of it. */
static void print_source(struct json_object *system)
{
    const char *source = nv_json_text(system, "iothub-message-source");
    if (source[0] && strcmp(source, "Telemetry") != 0) {
        putchar('[');
        print_plain(source);
        fputs("] ", stdout);
    }
}

static void print_message(struct json_object *event)
{
    const char *module = nv_json_text(event, "moduleId");
    const char *base64 = nv_json_text(event, "bodyBase64");
    struct json_object *body = nv_json_member(event, "body");
    printf("%.23s  %s%s%s  ", nv_json_text(event, "enqueuedTime"), nv_json_text(event, "deviceId"),
           module[0] ? "/" : "", module);
    print_source(nv_json_member(event, "systemProperties"));
    if (body) {
        const char *text = json_object_is_type(body, json_type_string)
                               ? json_object_get_string(body)
                               : json_object_to_json_string_ext(body, JSON_C_TO_STRING_NOSLASHESCAPE);
        print_plain(text);
    } else if (base64[0]) {
        printf("base64:%s", base64);
    }
    print_properties(nv_json_member(event, "properties"));
    putchar('\n');
}

/* @return true when the message was shown before */
static bool is_known(monitor *m, struct json_object *event)
{
    uint64_t partition = json_object_get_uint64(nv_json_member(event, "partition"));
    uint64_t sequence = json_object_get_uint64(nv_json_member(event, "sequence"));
    const char *time = nv_json_text(event, "enqueuedTime");
    if (partition >= NV_MONITOR_PARTITIONS) {
        return false;
    }
    if (m->seen[partition] && sequence <= m->sequence[partition]) {
        return true;
    }
    m->seen[partition] = true;
    m->sequence[partition] = sequence;
    (void)snprintf(m->last_time, sizeof(m->last_time), "%s", time);
    return false;
}

bool nv_monitor_line(monitor *m, nv_span line)
{
    struct json_object *event = NULL;
    if (nv_json_parse(line, NV_JSON_MAX_DEPTH, UINT32_MAX, &event) != NV_OK ||
        !json_object_is_type(event, json_type_object)) {
        fputs("nave: the hub sent a line that is no event; it is left out\n", stderr);
        json_object_put(event);
        return true;
    }
    if (!nv_json_member(event, "sequence") || is_known(m, event)) {
        json_object_put(event); /* a line of another kind, such as a keep-alive, or one shown before */
        return true;
    }
    if (m->json) {
        printf("%.*s\n", NV_SPAN_ARG(line));
    } else {
        print_message(event);
    }
    json_object_put(event);
    if (m->left != UINT64_MAX) {
        m->left--;
    }
    return fflush(stdout) == 0 && m->left > 0;
}

static bool take_line(void *arg, nv_span line)
{
    return nv_monitor_line(arg, line);
}

/* ---- connections --------------------------------------------------------------------------------------------- */

static void add_parameter(nv_buf *path, const char *name, const char *value)
{
    char *encoded = nv_path_segment(value);
    nv_err err = nv_buf_printf(path, "&%s=%s", name, encoded);
    assert(err == NV_OK);
    free(encoded);
}

static void add_position(const monitor *m, nv_buf *path)
{
    const char *partition = nv_args_get(m->args, "partition");
    unsigned long number = partition ? strtoul(partition, NULL, 10) : 0;
    char text[40];
    if (m->resumed && partition && m->seen[number]) {
        (void)snprintf(text, sizeof(text), "%" PRIu64, m->sequence[number] + 1);
        add_parameter(path, "from", text);
    } else if (m->resumed && m->last_time[0] && shift_time(m->last_time, -REPLAY_S, text)) {
        bool too_early = m->start[0] && strncmp(text, m->start, 19) < 0;
        add_parameter(path, "from", too_early ? m->start : text);
    } else {
        add_parameter(path, "from", m->resumed && m->start[0] ? m->start : m->from);
    }
}

static nv_stream_end follow(monitor *m, nv_client *client)
{
    nv_buf path;
    nv_buf_init(&path, PATH_MAX_BYTES);
    nv_err err = nv_buf_append_str(&path, "/nave/v1/events?follow=true");
    assert(err == NV_OK);
    if (nv_args_get(m->args, "device")) {
        add_parameter(&path, "device", nv_args_get(m->args, "device"));
    }
    if (nv_args_get(m->args, "partition")) {
        add_parameter(&path, "partition", nv_args_get(m->args, "partition"));
    }
    add_position(m, &path);
    err = nv_buf_append(&path, nv_span_of("", 1));
    assert(err == NV_OK);
    nv_stream_end end = nv_client_stream(client, (const char *)path.data + path.start, take_line, m);
    nv_buf_deinit(&path);
    return end;
}

/* "now" is where each partition ends at the first contact; a later connection must not go behind it. */
static void remember_now(monitor *m, const nv_answer *answer)
{
    struct json_object *partitions = nv_json_member(answer->body, "partitions");
    size_t count = json_object_is_type(partitions, json_type_array) ? json_object_array_length(partitions) : 0;
    for (size_t i = 0; i < count && i < NV_MONITOR_PARTITIONS; i++) {
        uint64_t next =
            json_object_get_uint64(nv_json_member(json_object_array_get_idx(partitions, i), "nextSequence"));
        m->seen[i] = next > 0;
        m->sequence[i] = next > 0 ? next - 1 : 0;
    }
    time_t date = (time_t)answer->date_unix_s - REPLAY_S;
    struct tm tm;
    (void)gmtime_r(&date, &tm);
    (void)strftime(m->start, sizeof(m->start), "%Y-%m-%dT%H:%M:%SZ", &tm);
}

/* The first contact says in one sentence what is wrong; later ones are patient. */
static int first_contact(monitor *m, nv_client *client)
{
    nv_answer answer = {0};
    int code = nv_client_do(client, "GET", "/nave/v1/hub", NULL, NULL, &answer);
    if (code == NV_EXIT_OK && strcmp(m->from, "now") == 0) {
        remember_now(m, &answer);
    } else if (code == NV_EXIT_OK && strchr(m->from, '-')) {
        (void)snprintf(m->start, sizeof(m->start), "%s", m->from);
    }
    nv_answer_deinit(&answer);
    return code;
}

static void pause_ms(long ms)
{
    struct timespec pause = {ms / 1000, ms % 1000 * 1000000};
    (void)nanosleep(&pause, NULL);
}

static int run(monitor *m, nv_client *client)
{
    int code = first_contact(m, client);
    long wait_ms = 250;
    bool said = false;
    while (code == NV_EXIT_OK) {
        nv_stream_end end = follow(m, client);
        if (end == NV_STREAM_STOPPED) {
            return NV_EXIT_OK;
        }
        if (end == NV_STREAM_REFUSED) {
            return NV_EXIT_REFUSED;
        }
        if (!said || end == NV_STREAM_ENDED) {
            fputs("nave: the connection to the hub ended; trying again\n", stderr);
        }
        said = true;
        wait_ms = end == NV_STREAM_ENDED ? 250 : wait_ms < 4000 ? 2 * wait_ms : 4000;
        m->resumed = true;
        pause_ms(wait_ms);
        nv_client_close(client); /* the hub may have come back on another port */
        code = nv_client_open(client, m->args);
    }
    return code;
}

static int choose(monitor *m, nv_client *client, const char *over)
{
    bool http = over && strcmp(over, "http") == 0;
    int code = NV_EXIT_OK;
    if (http && client->entity) {
        return usage("an event hub is read by AMQP: leave --over http out");
    }
    if (!over && !client->entity && !client->amqp_port && !nv_args_has(m->args, "consumer-group")) {
        code = nv_amqp_rather_http(client, &http);
    }
    return code != NV_EXIT_OK ? code : http ? run(m, client) : nv_monitor_amqp(m, client);
}

int nv_cmd_monitor(const nv_args *args)
{
    monitor m = {.args = args, .from = nv_args_get(args, "from"), .left = UINT64_MAX};
    const char *partition = nv_args_get(args, "partition");
    const char *count = nv_args_get(args, "count");
    uint64_t number = 0;
    m.from = m.from ? m.from : "now";
    if (partition && (!nv_span_to_u64(nv_span_str(partition), &number) || number >= NV_MONITOR_PARTITIONS)) {
        return usage("--partition is a number from 0 to 127");
    }
    if (count && (!nv_span_to_u64(nv_span_str(count), &m.left) || m.left == 0 || m.left == UINT64_MAX)) {
        return usage("--count is a number of messages, at least 1");
    }
    if (nv_span_to_u64(nv_span_str(m.from), &number) && !partition) {
        return usage("--from SEQUENCE needs --partition: sequences count per partition");
    }
    const char *over = nv_args_get(args, "over");
    if (over && strcmp(over, "http") == 0 && nv_args_has(args, "consumer-group")) {
        return usage("--consumer-group is for --over amqp: over HTTP there are none");
    }
    nv_client client = {0};
    int code = nv_client_open_events(&client, args);
    m.json = client.json;
    if (code == NV_EXIT_OK) {
        code = choose(&m, &client, over);
    }
    nv_client_close(&client);
    return code;
}
