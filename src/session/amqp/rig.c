#include "session/amqp/rig.h"

#include "base/alloc.h"
#include "base/diag.h"
#include "base/metrics.h"
#include "codec/base64.h"
#include "codec/hex.h"
#include "codec/sas.h"
#include "core/policies.h"
#include "support/hub_rest.h"
#include "support/temp_dir.h"

#include <inttypes.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define WIRE_MAX (64u << 20)
#define OUT_MAX  (4u << 20)
#define CREDIT   100u
#define TTL_S    3600
#define STEP_US  NV_US_PER_S

const nv_key amqp_rig_key = {"device-key-device-key-device-key", 32};
const nv_key amqp_rig_secondary_key = {"Device-key-device-key-device-key", 32};

/* ---- the hub ------------------------------------------------------------------------------------------------ */

static void keep_line(void *arg, nv_level level, const char *line, size_t len)
{
    amqp_rig *rig = arg;
    if (level >= NV_LEVEL_INFO) {
        (void)snprintf(rig->last_line, sizeof(rig->last_line), "%.*s", (int)len, line);
    }
}

static void open_stores(amqp_rig *rig)
{
    char state_dir[100];
    char log_dir[100];
    (void)snprintf(state_dir, sizeof(state_dir), "%s/state", rig->dir);
    (void)snprintf(log_dir, sizeof(log_dir), "%s/log", rig->dir);
    nv_buf why;
    nv_buf_init(&why, 500);
    nv_state_config state = {.dir = state_dir, .clock = &rig->clock.clock, .rng = &rig->rng.rng};
    nv_log_config log = {.dir = log_dir,
                         .partitions = 4,
                         .durability = NV_DURABILITY_COMMIT,
                         .segment_bytes = 16u << 20,
                         .disk = nv_disk_posix(),
                         .clock = &rig->clock.clock,
                         .rng = nv_rng_system()};
    if (nv_state_open(&rig->state, &state, &why) != NV_OK || nv_log_open(&rig->log, &log, &why) != NV_OK) {
        fail_msg("%.*s", NV_SPAN_ARG(nv_buf_span(&why)));
    }
    nv_buf_deinit(&why);
}

amqp_rig *amqp_rig_new(const amqp_rig_options *options)
{
    amqp_rig *rig = nv_calloc(1, sizeof(*rig));
    nv_list_init(&rig->clients);
    nv_exec_queue_init(&rig->queue);
    nv_manual_clock_init(&rig->clock, AMQP_RIG_WALL_US);
    nv_seeded_rng_init(&rig->rng, 42);
    temp_dir_make(rig->dir, sizeof(rig->dir), NULL);
    nv_diag_setup(NV_LEVEL_DEBUG, false, -1);
    nv_diag_set_sink(keep_line, rig);
    open_stores(rig);
    static const char *const names[] = {AMQP_RIG_HOST, AMQP_RIG_NAMESPACE, "127.0.0.1"};
    nv_exec *loops[] = {&rig->queue.exec};
    nv_hub_config config = {.host_names = names,
                            .host_name_count = NV_COUNT_OF(names),
                            .limits = options && options->limits ? options->limits : &nv_limits_open,
                            .log = rig->log,
                            .state = rig->state,
                            .clock = &rig->clock.clock,
                            .rng = &rig->rng.rng,
                            .loops = loops,
                            .loop_count = 1,
                            .fault_injection = options && options->fault_injection};
    nv_buf why;
    nv_buf_init(&why, 500);
    assert_int_equal(nv_hub_new(&rig->hub, &config, &why), NV_OK);
    nv_buf_deinit(&why);
    return rig;
}

void amqp_rig_free(amqp_rig *rig)
{
    assert_true(nv_list_empty(&rig->clients));
    hub_rest(rig->hub);
    nv_state_close(rig->state);
    (void)nv_exec_queue_run(&rig->queue);
    nv_log_close(rig->log);
    (void)nv_exec_queue_run(&rig->queue);
    nv_hub_free(rig->hub);
    nv_exec_queue_deinit(&rig->queue);
    nv_diag_set_sink(NULL, NULL);
    temp_dir_remove(rig->dir);
    free(rig);
}

/* ---- moving bytes ------------------------------------------------------------------------------------------- */

static int64_t now_of(const amqp_rig *rig)
{
    return nv_mono_us(&rig->clock.clock);
}

/* What one end has in its output goes to the other. @return true: something moved */
static bool move(amqp_client *c, nv_buf *from, nv_session *sender, nv_session *receiver)
{
    bool any = false;
    while (nv_buf_len(from) > 0 && receiver && receiver->reading && !receiver->closing && !c->cut) {
        nv_span shown = nv_span_first(nv_buf_span(from), c->step > 0 ? c->step : SIZE_MAX);
        size_t taken = receiver->ops->input(receiver, shown, now_of(c->rig));
        if (taken == 0 && shown.len < nv_buf_len(from)) { /* more of the unit is there */
            taken = receiver->ops->input(receiver, nv_buf_span(from), now_of(c->rig));
        }
        if (taken == 0) {
            break;
        }
        if (receiver == &c->conn.session) {
            assert_int_equal(nv_buf_append(&c->from_hub, nv_span_first(nv_buf_span(from), taken)), NV_OK);
        }
        nv_buf_consume(from, taken);
        any = true;
        if (!sender->closing && sender->ops->sent) {
            sender->ops->sent(sender, now_of(c->rig));
        }
    }
    return any;
}

/* The hub's session has said that it ends, or the client's has: the transport goes when the output is read. */
static bool end_transport(amqp_client *c)
{
    bool hub_closes = c->hub && c->hub->closing && (nv_buf_len(&c->hub_out) == 0 || c->conn.session.closing);
    bool client_closes = c->conn.session.closing && nv_buf_len(&c->out) == 0;
    if (c->cut || !(hub_closes || client_closes)) {
        return false;
    }
    c->cut = true;
    return true;
}

static bool serve(amqp_client *c)
{
    bool moved = !c->mute && move(c, &c->out, &c->conn.session, c->hub);
    if (!c->stuck) {
        moved = move(c, &c->hub_out, c->hub, &c->conn.session) || moved;
    }
    if (end_transport(c)) {
        moved = true;
        if (!c->ended) {
            c->conn.session.ops->lost(&c->conn.session, "the hub closed it", now_of(c->rig));
        }
        if (c->hub) {
            c->hub->ops->lost(c->hub, "the client closed it", now_of(c->rig));
        }
    }
    if (c->cut && c->hub && c->hub->done) {
        c->hub->ops->free(c->hub);
        c->hub = NULL;
        moved = true;
    }
    return moved;
}

static bool tick(nv_session *session, int64_t now_us)
{
    if (session && session->deadline_us <= now_us && session->deadline_us != INT64_MAX) {
        session->ops->tick(session, now_us);
        return true;
    }
    return false;
}

static bool step(amqp_rig *rig)
{
    bool moved = nv_exec_queue_run(&rig->queue) > 0;
    for (nv_list *node = rig->clients.next; node != &rig->clients; node = node->next) {
        amqp_client *c = nv_container_of(node, amqp_client, node);
        moved = serve(c) || moved;
        if (!c->cut) {
            moved = tick(&c->conn.session, now_of(rig)) || moved;
            moved = tick(c->hub, now_of(rig)) || moved;
        }
    }
    nv_hub_loop_turn_end(&rig->hub->loops[0]);
    if (nv_hub_loop_due(&rig->hub->loops[0]) <= now_of(rig)) {
        nv_hub_loop_tick(&rig->hub->loops[0], now_of(rig));
        moved = true;
    }
    return moved;
}

/* Nothing that the stores were asked for is on its way. */
static bool stores_answered(void)
{
    return nv_metric_get(NV_M_STATE_REQUESTS) == nv_metric_get(NV_M_STATE_REQUESTS_DONE) &&
           nv_metric_get(NV_M_LOG_BATCHES) == nv_metric_get(NV_M_LOG_BATCHES_DONE);
}

void amqp_rig_settle(amqp_rig *rig)
{
    for (int quiet = 0; quiet < 2;) {
        bool answered = stores_answered(); /* before the tasks run that tell of it */
        if (step(rig)) {
            quiet = 0;
        } else if (answered) {
            quiet++;
        } else {
            (void)sched_yield();
        }
    }
}

void amqp_rig_advance(amqp_rig *rig, int64_t us)
{
    while (us > 0) {
        int64_t delta_us = us < STEP_US ? us : STEP_US;
        nv_manual_clock_advance(&rig->clock, delta_us);
        us -= delta_us;
        amqp_rig_settle(rig);
    }
}

/* ---- identities --------------------------------------------------------------------------------------------- */

static void on_registered(nv_registry_request *request)
{
    amqp_rig *rig = request->arg;
    rig->registered = true;
}

static void registry_do(amqp_rig *rig, nv_registry_request *request)
{
    rig->registered = false;
    request->done = on_registered;
    request->arg = rig;
    nv_registry_do(amqp_rig_loop(rig), request);
    while (!rig->registered) {
        (void)nv_exec_queue_run_wait(&rig->queue);
    }
    if (request->error != NV_HUB_ERROR_NONE) {
        fail_msg("%s: %s", nv_hub_error_info_of(request->error)->name, request->detail);
    }
    nv_identity_unref(request->identity);
    amqp_rig_settle(rig);
}

nv_identity_spec amqp_rig_spec(const char *device, const char *module)
{
    return (nv_identity_spec){.device_id = nv_span_str(device),
                              .module_id = nv_span_str(module),
                              .enabled = true,
                              .auth = NV_AUTH_SAS,
                              .has_keys = true,
                              .primary_key = amqp_rig_key,
                              .secondary_key = amqp_rig_secondary_key};
}

void amqp_rig_put(amqp_rig *rig, const nv_identity_spec *spec)
{
    nv_registry_request request = {.verb = NV_REGISTRY_UPSERT, .spec = *spec};
    registry_do(rig, &request);
}

void amqp_rig_add(amqp_rig *rig, const char *device, const char *module)
{
    nv_identity_spec spec = amqp_rig_spec(device, module);
    amqp_rig_put(rig, &spec);
}

void amqp_rig_delete(amqp_rig *rig, const char *device, const char *module)
{
    nv_registry_request request = {.verb = NV_REGISTRY_DELETE,
                                   .precondition = NV_IF_ANY,
                                   .spec = {.device_id = nv_span_str(device), .module_id = nv_span_str(module)}};
    registry_do(rig, &request);
}

const nv_peer_certificate *amqp_rig_certificate(void)
{
    static const nv_peer_certificate certificate = {
        .sha1 = {1, 2, 3}, .sha256 = {4, 5, 6}, .not_before_us = 0, .not_after_us = 2 * AMQP_RIG_WALL_US};
    return &certificate;
}

void amqp_rig_add_x509(amqp_rig *rig, const char *device)
{
    char text[64];
    nv_writer w = nv_writer_of(text, sizeof(text));
    nv_hex_encode_upper(nv_span_of(amqp_rig_certificate()->sha256, 32), &w);
    nv_identity_spec spec = {.device_id = nv_span_str(device),
                             .enabled = true,
                             .auth = NV_AUTH_SELF_SIGNED,
                             .primary_thumbprint = nv_writer_span(&w),
                             .secondary_thumbprint = nv_writer_span(&w)};
    amqp_rig_put(rig, &spec);
}

/* ---- tokens ------------------------------------------------------------------------------------------------- */

const char *amqp_rig_token(amqp_rig *rig, const amqp_token *token)
{
    static char texts[4][1024];
    static unsigned next;
    char *text = texts[next++ % NV_COUNT_OF(texts)];
    const nv_policy *policy = token->policy ? nv_policies_find(rig->hub->policies, nv_span_str(token->policy)) : NULL;
    const nv_key *key = token->key ? token->key : policy ? &policy->primary_key : &amqp_rig_key;
    char encoded[NV_BASE64_LEN(NV_KEY_MAX)];
    nv_writer k = nv_writer_of(encoded, sizeof(encoded));
    nv_base64_encode(nv_span_of(key->bytes, key->len), &k);
    nv_writer w = nv_writer_of(text, sizeof(texts[0]) - 1);
    int64_t ttl_s = token->ttl_s != 0 ? token->ttl_s : TTL_S;
    nv_sas_write(&w, nv_span_str(token->resource), nv_wall_us(&rig->clock.clock) / NV_US_PER_S + ttl_s,
                 nv_span_str(token->policy), token->as_text ? nv_writer_span(&k) : nv_span_of(key->bytes, key->len));
    assert_int_equal(w.err, NV_OK);
    text[nv_writer_len(&w)] = '\0';
    return text;
}

/* ---- connections -------------------------------------------------------------------------------------------- */

static void wake(nv_carrier *carrier)
{
    (void)carrier; /* everything is looked at all the time */
}

static void copy_text(nv_span from, char *out, size_t size)
{
    (void)snprintf(out, size, "%.*s", NV_SPAN_ARG(nv_span_first(from, size - 1)));
}

static void on_opened(nv_amqp_conn *conn, const nv_amqp_open *open)
{
    amqp_client *c = (amqp_client *)(void *)conn;
    size_t size = 2048 + open->container_id.len + open->properties.len;
    c->open = nv_malloc(size);
    nv_writer w = nv_writer_of(c->open, size);
    nv_amqp_encode_open(&w, open);
    nv_amqp_performative p;
    assert_int_equal(nv_amqp_decode_span(nv_writer_span(&w), &p), NV_OK);
    c->hub_open = p.open;
    c->opened = true;
}

static void on_ended(nv_amqp_conn *conn, const nv_amqp_problem *problem)
{
    amqp_client *c = (amqp_client *)(void *)conn;
    c->ended = true;
    copy_text(problem->symbol, c->condition, sizeof(c->condition));
    copy_text(problem->description, c->description, sizeof(c->description));
    nv_amqp_conn_done(conn);
}

static void on_free(nv_amqp_conn *conn)
{
    nv_amqp_conn_deinit(conn);
}

static const nv_amqp_conn_ops client_ops = {.opened = on_opened, .ended = on_ended, .free = on_free};

static void join(amqp_client *c, const amqp_client_options *options)
{
    nv_buf_init(&c->out, OUT_MAX);
    nv_buf_init(&c->hub_out, OUT_MAX);
    nv_buf_init(&c->from_hub, WIRE_MAX);
    c->peer = (nv_peer){.connection_id = ++c->rig->connections,
                        .address = nv_span_str("192.0.2.1:5000"),
                        .tls = true,
                        .certificate = options->certificate};
    c->hub_carrier = (nv_carrier){.peer = &c->peer, .loop = amqp_rig_loop(c->rig), .out = &c->hub_out, .wake = wake};
    c->carrier = (nv_carrier){.peer = &c->peer, .loop = amqp_rig_loop(c->rig), .out = &c->out, .wake = wake};
    c->hub = nv_amqp_server_new(&c->hub_carrier);
    c->hub->carrier = &c->hub_carrier;
    c->hub->out = &c->hub_out;
}

amqp_client *amqp_client_new(amqp_rig *rig, const amqp_client_options *options)
{
    amqp_client *c = nv_calloc(1, sizeof(*c));
    char response[8192];
    size_t len = 0;
    c->rig = rig;
    nv_list_init(&c->links);
    nv_list_push_back(&rig->clients, &c->node);
    join(c, options);
    if (options->user) {
        len = (size_t)snprintf(response, sizeof(response), "%c%s%c%s", '\0', options->user, '\0', options->password);
    }
    nv_amqp_config config = {.container_id = "rig",
                             .hostname = options->hostname ? options->hostname : AMQP_RIG_HOST,
                             .sasl_mechanisms = options->mechanism,
                             .sasl_response = nv_span_of(response, len),
                             .max_frame_size = options->max_frame_size > 0 ? options->max_frame_size : 65536,
                             .channel_max = UINT16_MAX,
                             .handle_max = UINT32_MAX,
                             .idle_time_out_ms = options->idle_time_out_ms,
                             .max_unsettled_bytes = WIRE_MAX,
                             .output_mark = OUT_MAX / 2,
                             .sessions = UINT16_MAX,
                             .links = UINT16_MAX};
    nv_amqp_client_init(&c->conn, &c->carrier, &client_ops, &config);
    c->conn.session.carrier = &c->carrier;
    c->conn.session.out = &c->out;
    amqp_rig_settle(rig);
    if (c->opened && !c->ended) {
        c->session = nv_amqp_session_begin(&c->conn);
        assert_non_null(c->session);
        amqp_rig_settle(rig);
    }
    return c;
}

static amqp_client *opened(amqp_client *c)
{
    if (!c->opened || c->ended) {
        fail_msg("the connection did not open: %s %s; %s", c->condition, c->description, c->rig->last_line);
    }
    return c;
}

amqp_client *amqp_client_device(amqp_rig *rig, const char *device, const char *module)
{
    char user[300];
    char resource[300];
    (void)snprintf(user, sizeof(user), "%s%s%s@sas.hub", device, module ? "/modules/" : "", module ? module : "");
    (void)snprintf(resource, sizeof(resource), AMQP_RIG_HOST "/devices/%s%s%s", device, module ? "/modules/" : "",
                   module ? module : "");
    amqp_client_options options = {
        .mechanism = "PLAIN", .user = user, .password = amqp_rig_token(rig, &(amqp_token){.resource = resource})};
    return opened(amqp_client_new(rig, &options));
}

amqp_client *amqp_client_policy(amqp_rig *rig, const char *policy)
{
    char user[100];
    (void)snprintf(user, sizeof(user), "%s@sas.root.hub", policy);
    amqp_client_options options = {.mechanism = "PLAIN",
                                   .user = user,
                                   .password =
                                       amqp_rig_token(rig, &(amqp_token){.resource = AMQP_RIG_HOST, .policy = policy})};
    return opened(amqp_client_new(rig, &options));
}

amqp_client *amqp_client_anonymous(amqp_rig *rig)
{
    return opened(amqp_client_new(rig, &(amqp_client_options){.mechanism = "ANONYMOUS"}));
}

void amqp_client_close(amqp_client *c)
{
    nv_amqp_conn_close(&c->conn, NV_AMQP_ERR_NONE, NULL);
    amqp_rig_settle(c->rig);
}

void amqp_client_cut(amqp_client *c)
{
    if (!c->cut) {
        c->cut = true;
        if (!c->ended) {
            c->conn.session.ops->lost(&c->conn.session, "cut by the test", now_of(c->rig));
        }
        if (c->hub) {
            c->hub->ops->lost(c->hub, "cut by the test", now_of(c->rig));
        }
    }
    amqp_rig_settle(c->rig);
}

static void message_free(amqp_client_message *m)
{
    nv_list_remove(&m->node);
    free(m);
}

static void link_free(amqp_client_link *l)
{
    nv_list_remove(&l->node);
    while (!nv_list_empty(&l->messages)) {
        message_free(nv_container_of(nv_list_first(&l->messages), amqp_client_message, node));
    }
    nv_buf_deinit(&l->info);
    nv_buf_deinit(&l->answer);
    free(l);
}

void amqp_client_free(amqp_client *c)
{
    amqp_client_cut(c);
    assert_null(c->hub); /* it is done when all is quiet */
    nv_list_remove(&c->node);
    c->conn.session.ops->free(&c->conn.session);
    while (!nv_list_empty(&c->links)) {
        link_free(nv_container_of(nv_list_first(&c->links), amqp_client_link, node));
    }
    nv_buf_deinit(&c->out);
    nv_buf_deinit(&c->hub_out);
    nv_buf_deinit(&c->from_hub);
    free(c->open);
    free(c);
}

/* ---- links -------------------------------------------------------------------------------------------------- */

static void on_attached(nv_amqp_link *link, const nv_amqp_attach *attach)
{
    amqp_client_link *l = link->owner;
    l->attached = true;
    size_t room = 1024 + attach->name.len + attach->source.len + attach->target.len + attach->properties.len +
                  attach->offered_capabilities.len + attach->desired_capabilities.len;
    nv_writer w = nv_writer_of(nv_buf_reserve(&l->answer, room), room);
    nv_amqp_encode_attach(&w, attach);
    assert_int_equal(w.err, NV_OK);
    nv_buf_commit(&l->answer, nv_writer_len(&w));
}

static bool on_delivery(nv_amqp_link *link, const nv_amqp_delivery *delivery)
{
    amqp_client_link *l = link->owner;
    amqp_client_message *m = nv_malloc(sizeof(*m) + delivery->bytes.len + delivery->tag.len);
    *m = (amqp_client_message){.id = delivery->id, .format = delivery->format, .settled = delivery->settled};
    nv_writer w = nv_writer_of(m->_memory, delivery->bytes.len + delivery->tag.len);
    nv_write_span(&w, delivery->bytes);
    nv_write_span(&w, delivery->tag);
    m->bytes = nv_span_of(m->_memory, delivery->bytes.len);
    m->tag = nv_span_of(m->_memory + delivery->bytes.len, delivery->tag.len);
    assert_int_equal(nv_amqp_message_read(m->bytes, &m->message), NV_OK);
    nv_list_push_back(&l->messages, &m->node);
    l->received++;
    if (l->auto_accept && !delivery->settled) {
        nv_amqp_link_accept_delivery(link, delivery->id);
    }
    return true;
}

static void on_outcome(nv_amqp_link *link, uint32_t id, uint64_t cookie, const nv_amqp_outcome *outcome)
{
    (void)cookie;
    amqp_client_link *l = link->owner;
    if (outcome->kind == NV_AMQP_OUT_ACCEPTED) {
        l->accepted++;
    } else if (outcome->kind == NV_AMQP_OUT_REJECTED) {
        l->rejected++;
        copy_text(outcome->problem.symbol, l->reject_condition, sizeof(l->reject_condition));
        copy_text(outcome->problem.description, l->reject_description, sizeof(l->reject_description));
    } else {
        l->other++;
    }
    if (!outcome->settled) {
        nv_amqp_link_settle(link, id, &(nv_amqp_outcome){.kind = outcome->kind});
    }
}

static void on_detached(nv_amqp_link *link, const nv_amqp_problem *problem)
{
    amqp_client_link *l = link->owner;
    l->link = NULL;
    l->ended = true;
    copy_text(problem->symbol, l->condition, sizeof(l->condition));
    copy_text(problem->description, l->description, sizeof(l->description));
    if (problem->info.len > 0) {
        assert_int_equal(nv_buf_append(&l->info, problem->info), NV_OK);
    }
}

static const nv_amqp_link_ops link_ops = {
    .attached = on_attached, .delivery = on_delivery, .outcome = on_outcome, .detached = on_detached};

amqp_client_link *amqp_client_attach(amqp_client *c, bool sender, const char *address,
                                     const amqp_client_attach_options *options)
{
    static const amqp_client_attach_options none = {.session = NULL};
    options = options ? options : &none;
    amqp_client_link *l = nv_calloc(1, sizeof(*l));
    static unsigned number;
    char name[40];
    (void)snprintf(name, sizeof(name), "link-%u", ++number);
    l->client = c;
    l->auto_accept = !options->keep;
    l->keep = options->keep;
    nv_list_init(&l->messages);
    nv_buf_init(&l->info, 1 << 16);
    nv_buf_init(&l->answer, 1 << 16);
    nv_list_push_back(&c->links, &l->node);
    uint32_t credit = options->credit == 0 ? CREDIT : options->credit;
    nv_amqp_attach_options attach = {.name = options->name ? options->name : name,
                                     .sender = sender,
                                     .address = address,
                                     .source = sender ? NV_SPAN_EMPTY : options->terminus,
                                     .target = sender ? options->terminus : NV_SPAN_EMPTY,
                                     .snd_settle_mode = options->snd_settle_mode,
                                     .rcv_settle_mode = options->rcv_settle_mode,
                                     .properties = options->properties,
                                     .desired_capabilities = options->desired_capabilities,
                                     .ops = &link_ops,
                                     .owner = l,
                                     .credit = credit == UINT32_MAX ? 0 : credit};
    l->link = nv_amqp_link_attach(options->session ? options->session : c->session, &attach);
    assert_non_null(l->link);
    amqp_rig_settle(c->rig);
    return l;
}

nv_amqp_attach amqp_client_answer(const amqp_client_link *l)
{
    nv_amqp_performative p;
    assert_true(l->attached);
    assert_int_equal(nv_amqp_decode_span(nv_buf_span(&l->answer), &p), NV_OK);
    return p.attach;
}

nv_amqp_session *amqp_client_session(amqp_client *c)
{
    nv_amqp_session *session = nv_amqp_session_begin(&c->conn);
    assert_non_null(session);
    amqp_rig_settle(c->rig);
    return session;
}

void amqp_client_detach(amqp_client_link *l)
{
    if (l->link) {
        nv_amqp_link_detach(l->link, NV_AMQP_ERR_NONE, NULL);
        l->link = NULL;
        l->ended = true;
    }
    amqp_rig_settle(l->client->rig);
}

nv_err amqp_client_send(amqp_client_link *l, nv_span message, uint32_t format, bool settled)
{
    assert_non_null(l->link);
    nv_amqp_send send = {.format = format, .settled = settled, .track = !settled, .head = message};
    uint32_t id = 0;
    return nv_amqp_link_send(l->link, &send, &id);
}

void amqp_client_send_body(amqp_client_link *l, const char *body)
{
    uint8_t memory[1024];
    nv_writer w = nv_writer_of(memory, sizeof(memory));
    nv_amqp_put_data_head(&w, strlen(body));
    nv_write_span(&w, nv_span_str(body));
    assert_int_equal(w.err, NV_OK);
    uint32_t before = l->accepted;
    assert_int_equal(amqp_client_send(l, nv_writer_span(&w), 0, false), NV_OK);
    amqp_rig_settle(l->client->rig);
    assert_int_equal(l->accepted, before + 1);
}

amqp_client_message *amqp_client_take(amqp_client_link *l)
{
    nv_list *node = nv_list_pop_front(&l->messages);
    return node ? nv_container_of(node, amqp_client_message, node) : NULL;
}

void amqp_client_settle(amqp_client_link *l, const amqp_client_message *message, nv_amqp_outcome_kind kind)
{
    assert_non_null(l->link);
    nv_amqp_link_settle(l->link, message->id, &(nv_amqp_outcome){.kind = kind});
    amqp_rig_settle(l->client->rig);
}

void amqp_client_expect_end(const amqp_client_link *l, const char *condition)
{
    if (!l->ended || strcmp(l->condition, condition) != 0) {
        fail_msg("%s, with \"%s\" (%s), not %s", l->ended ? "it ended" : "it did not end", l->condition, l->description,
                 condition);
    }
}

/* ---- $cbs --------------------------------------------------------------------------------------------------- */

static amqp_client_link *find_cbs(const amqp_client *c, bool sender)
{
    for (nv_list *node = c->links.next; node != &c->links; node = node->next) {
        amqp_client_link *l = nv_container_of(node, amqp_client_link, node);
        if (l->link && l->link->sender == sender &&
            nv_span_eq_str(l->link->name, sender ? "rig-cbs-out" : "rig-cbs-in")) {
            return l;
        }
    }
    return NULL;
}

int amqp_client_put_token(amqp_client *c, const char *name, const char *token)
{
    static uint64_t id;
    amqp_client_link *in = find_cbs(c, false);
    amqp_client_link *out = find_cbs(c, true);
    in = in ? in
            : amqp_client_attach(c, false, "$cbs", &(amqp_client_attach_options){.name = "rig-cbs-in", .credit = 1000});
    out = out ? out : amqp_client_attach(c, true, "$cbs", &(amqp_client_attach_options){.name = "rig-cbs-out"});
    uint8_t memory[4096];
    uint8_t id_memory[16];
    nv_writer i = nv_writer_of(id_memory, sizeof(id_memory));
    nv_amqp_put_ulong(&i, id++);
    nv_writer w = nv_writer_of(memory, sizeof(memory));
    nv_amqp_properties properties = {.message_id = nv_writer_span(&i)};
    nv_amqp_put_properties_section(&w, &properties);
    size_t mark = nv_amqp_begin_map_section(&w, NV_AMQP_APPLICATION_PROPERTIES);
    nv_amqp_put_string_of(&w, "operation");
    nv_amqp_put_string_of(&w, "put-token");
    nv_amqp_put_string_of(&w, "type");
    nv_amqp_put_string_of(&w, "servicebus.windows.net:sastoken");
    nv_amqp_put_string_of(&w, "name");
    nv_amqp_put_string_of(&w, name);
    nv_amqp_end_map(&w, mark, 6);
    nv_amqp_put_value_head(&w);
    nv_amqp_put_string_of(&w, token);
    assert_int_equal(amqp_client_send(out, nv_writer_span(&w), 0, false), NV_OK);
    amqp_rig_settle(c->rig);
    amqp_client_message *reply = amqp_client_take(in);
    nv_amqp_value status;
    int64_t code = 0;
    if (reply && nv_amqp_map_find(&reply->message.application_properties, "status-code", &status)) {
        assert_int_equal(status.type, NV_AMQP_INT);
        code = status.i;
    }
    free(reply);
    return (int)code;
}

const char *amqp_message_text(const nv_amqp_value *map, const char *key)
{
    static char texts[4][1024];
    static unsigned next;
    char *text = texts[next++ % NV_COUNT_OF(texts)];
    nv_amqp_value value;
    int64_t number = 0;
    if (!nv_amqp_map_find(map, key, &value)) {
        return NULL;
    }
    if (nv_amqp_is_text(&value)) {
        copy_text(value.bytes, text, sizeof(texts[0]));
    } else if (nv_amqp_to_i64(&value, &number) || value.type == NV_AMQP_TIMESTAMP) {
        (void)snprintf(text, sizeof(texts[0]), "%" PRId64, value.type == NV_AMQP_TIMESTAMP ? value.i : number);
    } else {
        (void)snprintf(text, sizeof(texts[0]), "(type %d)", (int)value.type);
    }
    return text;
}
