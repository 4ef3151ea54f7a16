#include "nave/amqp_service.h"

#include "base/alloc.h"
#include "codec/json.h"
#include "codec/percent.h"
#include "nave/amqp_client.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MESSAGE_MAX     (1u << 20)
#define WAIT_US         NV_US_PER_S
#define FEEDBACK_CREDIT 1u /* what is not shown yet stays with the hub, and others may have it */

/* One link to a node of the hub, as its policy. */
typedef struct desk {
    nv_amqp_run run;
    nv_amqp_attach_options link;
    nv_amqp_client *client;
    const nv_args *args; /* to find the hub again; NULL: the end of the connection is that of the command */
    nv_amqp_place place;
    nv_timer retry;
    bool contacted;
    bool said;
    /* sending */
    const nv_amqp_message_to *message;
    bool sent;
    /* feedback */
    uint64_t left;
} desk;

/* "ErrorCode:Name;text" becomes "text (Name)"; a description without a name gets that of the condition. */
static void complain(desk *d, const nv_amqp_problem *problem)
{
    char text[520];
    nv_amqp_explain(problem, text, sizeof(text));
    const char *name = strncmp(text, "ErrorCode:", 10) == 0 ? text + 10 : NULL;
    const char *rest = name ? strchr(name, ';') : NULL;
    if (rest && rest[1]) {
        nv_amqp_run_refuse(&d->run, "%s (%.*s)", rest + 1 + strspn(rest + 1, " "), (int)(rest - name), name);
    } else if (name) {
        nv_amqp_run_refuse(&d->run, "the hub refused (%.*s)", (int)strcspn(name, ";"), name);
    } else {
        nv_amqp_run_refuse(&d->run, "%s (%.*s)", text, NV_SPAN_ARG(problem->symbol));
    }
}

/* ---- the connection -------------------------------------------------------------------------------------------- */

static void locate(desk *d);

static void try_again(nv_timer *timer, int64_t now_us)
{
    (void)now_us;
    desk *d = nv_container_of(timer, desk, retry);
    nv_client_close(d->run.client); /* the hub may have come back on another port */
    int code = nv_client_open(d->run.client, d->args);
    if (code == NV_EXIT_OK) {
        locate(d);
    } else {
        nv_amqp_run_end(&d->run, code);
    }
}

static void ended(nv_amqp_client *client, void *arg, nv_amqp_condition condition, const char *why)
{
    desk *d = arg;
    (void)client;
    d->client = NULL;
    if (nv_amqp_run_ended(&d->run)) {
        return;
    }
    if (condition == NV_AMQP_ERR_UNAUTHORIZED_ACCESS) {
        nv_amqp_run_refuse_key(&d->run, why);
    } else if (!d->contacted || !d->args) {
        nv_amqp_run_refuse(&d->run, "the hub cannot be used by AMQP: %s%s", why,
                           d->contacted ? "" : nv_amqp_cure(d->run.client, why));
    } else {
        if (!d->said) {
            fputs("nave: the connection to the hub ended; trying again\n", stderr);
        }
        d->said = true;
        nv_timer_set(d->run.loop, &d->retry, nv_loop_now_us(d->run.loop) + WAIT_US);
    }
}

static void detached(nv_amqp_link *link, const nv_amqp_problem *problem)
{
    desk *d = link->owner;
    bool passing = problem->symbol.len == 0 || problem->condition == NV_AMQP_ERR_CONNECTION_FORCED ||
                   problem->condition == NV_AMQP_ERR_DETACH_FORCED;
    if (!passing) {
        complain(d, problem);
    } else if (d->client) {
        nv_amqp_client_close(d->client);
    }
}

static void ready(nv_amqp_client *client, void *arg)
{
    desk *d = arg;
    d->client = client;
    d->contacted = true;
    d->said = false;
    (void)nv_amqp_link_attach(nv_amqp_session_begin(nv_amqp_client_conn(client)), &d->link);
}

static void locate(desk *d)
{
    int code = nv_amqp_place_of(d->run.client, &d->place);
    if (code != NV_EXIT_OK) {
        nv_amqp_run_end(&d->run, code);
        return;
    }
    nv_amqp_client_config config = {.ready = ready, .ended = ended, .arg = d};
    nv_amqp_run_connect_policy(&d->run, &d->place, &config);
}

static void start(nv_amqp_run *run)
{
    locate(run->arg);
}

static int work(desk *d, nv_client *client)
{
    d->run = (nv_amqp_run){.client = client, .start = start, .arg = d};
    d->link.owner = d;
    nv_timer_init(&d->retry, try_again);
    return nv_amqp_run_do(&d->run);
}

/* ---- sending --------------------------------------------------------------------------------------------------- */

static nv_span string_in(nv_writer *w, nv_span text)
{
    const uint8_t *from = w->at;
    nv_amqp_put_string(w, text);
    return nv_span_of(from, (size_t)(w->at - from));
}

static nv_span address_of(nv_writer *w, const char *device)
{
    const uint8_t *from = w->at;
    nv_write_span(w, nv_span_str("/devices/"));
    nv_percent_encode(nv_span_str(device), w);
    nv_write_span(w, nv_span_str("/messages/devicebound"));
    return nv_span_of(from, (size_t)(w->at - from));
}

static nv_span text_flag(const nv_args *args, const char *name)
{
    const char *text = nv_args_get(args, name);
    return text ? nv_span_str(text) : NV_SPAN_EMPTY;
}

static void put_properties(nv_writer *w, const nv_amqp_message_to *m)
{
    uint8_t memory[4096];
    nv_writer texts = nv_writer_of(memory, sizeof(memory));
    nv_span correlation = text_flag(m->args, "correlation-id");
    nv_amqp_properties p = {.content_type = text_flag(m->args, "content-type"),
                            .content_encoding = text_flag(m->args, "content-encoding")};
    p.to = string_in(&texts, address_of(&texts, m->device));
    p.message_id = m->id ? string_in(&texts, nv_span_str(m->id)) : NV_SPAN_EMPTY;
    p.correlation_id = correlation.ptr ? string_in(&texts, correlation) : NV_SPAN_EMPTY;
    if (m->ttl_s > 0) {
        int64_t until_ms = nv_wall_us(nv_clock_system()) / NV_US_PER_MS + (int64_t)m->ttl_s * 1000;
        NV_AMQP_SET(&p, properties, absolute_expiry_time, until_ms);
    }
    nv_amqp_put_properties_section(w, &p);
    w->err = w->err == NV_OK ? texts.err : w->err;
}

static void put_application(nv_writer *w, const nv_amqp_message_to *m)
{
    size_t mark = nv_amqp_begin_map_section(w, NV_AMQP_APPLICATION_PROPERTIES);
    uint32_t count = 0;
    size_t at = 0;
    for (const char *word = NULL; (word = nv_args_next(m->args, "property", &at)) != NULL; count += 2) {
        nv_span pair = nv_span_str(word);
        size_t equals = nv_span_find(pair, '=');
        nv_amqp_put_string(w, nv_span_first(pair, equals));
        nv_amqp_put_string(w, nv_span_skip(pair, equals + 1));
    }
    if (m->ack) {
        nv_amqp_put_string_of(w, "iothub-ack");
        nv_amqp_put_string_of(w, m->ack);
        count += 2;
    }
    nv_amqp_end_map(w, mark, count);
}

static void send_room(nv_amqp_link *link)
{
    desk *d = link->owner;
    if (d->sent || nv_amqp_run_ended(&d->run) || !nv_amqp_link_room(link)) {
        return;
    }
    uint8_t *memory = nv_malloc(MESSAGE_MAX);
    nv_writer w = nv_writer_of(memory, MESSAGE_MAX);
    put_properties(&w, d->message);
    put_application(&w, d->message);
    nv_amqp_put_data_head(&w, d->message->body.len);
    nv_amqp_send send = {.track = true, .head = nv_writer_span(&w), .body = d->message->body};
    uint32_t id = 0;
    nv_err err = w.err == NV_OK ? nv_amqp_link_send(link, &send, &id) : w.err;
    free(memory);
    d->sent = err == NV_OK;
    if (err != NV_OK && err != NV_E_AGAIN) {
        nv_amqp_run_refuse(&d->run, "the message is too large");
    }
}

static void say_sent(desk *d)
{
    const char *id = d->message->id;
    if (d->run.client->json) {
        struct json_object *out = json_object_new_object();
        json_object_object_add(out, "deviceId", json_object_new_string(d->message->device));
        json_object_object_add(out, "messageId", id ? json_object_new_string(id) : NULL);
        json_object_object_add(out, "outcome", json_object_new_string("accepted"));
        nv_print_json(out);
        json_object_put(out);
    } else {
        fprintf(stderr, "queued for %s%s%s\n", d->message->device, id ? ", message id " : "", id ? id : "");
    }
    nv_amqp_run_end(&d->run, NV_EXIT_OK);
}

static void send_outcome(nv_amqp_link *link, uint32_t id, uint64_t cookie, const nv_amqp_outcome *outcome)
{
    desk *d = link->owner;
    (void)id;
    (void)cookie;
    switch (outcome->kind) {
    case NV_AMQP_OUT_ACCEPTED:
        say_sent(d);
        break;
    case NV_AMQP_OUT_REJECTED:
        complain(d, &outcome->problem);
        break;
    case NV_AMQP_OUT_RELEASED:
    case NV_AMQP_OUT_MODIFIED:
        nv_amqp_run_refuse(&d->run, "the hub gave the message back; try again");
        break;
    case NV_AMQP_OUT_NONE:
    case NV_AMQP_OUT_OTHER:
        nv_amqp_run_refuse(&d->run, "the hub did not say what became of the message");
        break;
    }
}

static const nv_amqp_link_ops send_ops = {.room = send_room, .outcome = send_outcome, .detached = detached};

int nv_amqp_send_to(nv_client *client, const nv_amqp_message_to *message)
{
    desk d = {.message = message,
              .link = {.name = "nave-send", .sender = true, .address = "/messages/devicebound", .ops = &send_ops}};
    return work(&d, client);
}

/* ---- feedback -------------------------------------------------------------------------------------------------- */

static void show_record(const desk *d, struct json_object *record)
{
    if (d->run.client->json) {
        puts(json_object_to_json_string_ext(record, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
        return;
    }
    const char *status = nv_json_text(record, "statusCode");
    const char *description = nv_json_text(record, "description");
    bool more = strcmp(status, description) != 0;
    printf("%.23s  %s  %s  %s%s%s%s\n", nv_json_text(record, "enqueuedTimeUtc"), nv_json_text(record, "deviceId"),
           nv_json_text(record, "originalMessageId"), status, more ? " (" : "", more ? description : "",
           more ? ")" : "");
}

static bool feedback_delivery(nv_amqp_link *link, const nv_amqp_delivery *delivery)
{
    desk *d = link->owner;
    nv_amqp_message m;
    nv_buf scratch;
    nv_span body = NV_SPAN_EMPTY;
    struct json_object *records = NULL;
    nv_buf_init(&scratch, MESSAGE_MAX);
    bool good = !nv_amqp_run_ended(&d->run) && nv_amqp_message_read(delivery->bytes, &m) == NV_OK &&
                nv_amqp_message_bytes(&m, &scratch, &body) == NV_OK &&
                nv_json_parse(body, NV_JSON_MAX_DEPTH, UINT32_MAX, &records) == NV_OK &&
                json_object_is_type(records, json_type_array);
    for (size_t i = 0; good && i < json_object_array_length(records); i++) {
        show_record(d, json_object_array_get_idx(records, i));
        d->left -= d->left > 0 && d->left != UINT64_MAX ? 1 : 0;
    }
    json_object_put(records);
    nv_buf_deinit(&scratch);
    if (nv_amqp_run_ended(&d->run)) {
        return true; /* it returns to the queue */
    }
    if (!good) {
        fputs("nave: the hub sent something that is no feedback; it is left out\n", stderr);
    }
    if (fflush(stdout) != 0) {
        nv_amqp_run_end(&d->run, NV_EXIT_REFUSED);
        return true;
    }
    nv_amqp_link_accept_delivery(link, delivery->id);
    if (d->left == 0) {
        nv_amqp_run_end(&d->run, NV_EXIT_OK);
    }
    return true;
}

static const nv_amqp_link_ops feedback_ops = {.delivery = feedback_delivery, .detached = detached};

int nv_amqp_feedback(nv_client *client, const nv_args *args, uint64_t count)
{
    desk d = {.args = args,
              .left = count,
              .link = {.name = "nave-feedback",
                       .address = "/messages/serviceBound/feedback",
                       .ops = &feedback_ops,
                       .credit = FEEDBACK_CREDIT}};
    return work(&d, client);
}
