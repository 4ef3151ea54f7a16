#include "support/amqp_reader_rig.h"

#include "base/alloc.h"
#include "core/registry.h"
#include "session/amqp/engine_impl.h"
#include "session/amqp/server.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define KEY_SELECTOR "apache.org:selector-filter:string"

/* Of the order in which things were heard. */
static uint64_t heard;

static void copy_text(char *out, size_t size, nv_span text)
{
    (void)snprintf(out, size, "%.*s", NV_SPAN_ARG(text));
}

nv_rig_hub rig_on;

int rig_set_up(void **state)
{
    (void)state;
    nv_rig_hub_init(&rig_on);
    return 0;
}

int rig_tear_down(void **state)
{
    (void)state;
    nv_rig_hub_deinit(&rig_on);
    return 0;
}

/* ---- links of the client ------------------------------------------------------------------------------------- */

static void on_attached(nv_amqp_link *link, const nv_amqp_attach *attach)
{
    rig_link *self = link->owner;
    self->attached = true;
    self->refused = !attach->source.ptr && !attach->target.ptr;
    nv_amqp_performative source;
    if (attach->source.ptr && nv_amqp_decode_span(attach->source, &source) == NV_OK && source.code == NV_AMQP_SOURCE) {
        self->has_filter = source.source.filter.len > 0;
    }
}

static bool on_delivery(nv_amqp_link *link, const nv_amqp_delivery *delivery)
{
    rig_link *self = link->owner;
    assert_true(self->count < RIG_DELIVERIES);
    rig_delivery *to = &self->deliveries[self->count++];
    to->bytes = nv_malloc(delivery->bytes.len + 1);
    to->len = delivery->bytes.len;
    memcpy(to->bytes, delivery->bytes.ptr, delivery->bytes.len);
    to->tag_len = delivery->tag.len;
    memcpy(to->tag, delivery->tag.ptr, delivery->tag.len);
    to->id = delivery->id;
    to->settled = delivery->settled;
    to->when = heard++;
    assert_int_equal(nv_amqp_message_read(nv_span_of(to->bytes, to->len), &to->message), NV_OK);
    if (!delivery->settled && !self->keep) {
        nv_amqp_link_accept_delivery(link, delivery->id);
    }
    return true;
}

static void on_outcome(nv_amqp_link *link, uint32_t id, uint64_t cookie, const nv_amqp_outcome *outcome)
{
    rig_link *self = link->owner;
    assert_true(self->outcome_count < RIG_DELIVERIES);
    rig_outcome *to = &self->outcomes[self->outcome_count++];
    to->cookie = cookie;
    to->kind = outcome->kind;
    to->when = heard++;
    copy_text(to->symbol, sizeof(to->symbol), outcome->problem.symbol);
    copy_text(to->description, sizeof(to->description), outcome->problem.description);
    if (!outcome->settled) {
        nv_amqp_link_settle(link, id, outcome);
    }
}

static void on_detached(nv_amqp_link *link, const nv_amqp_problem *problem)
{
    rig_link *self = link->owner;
    self->link = NULL;
    self->detached = true;
    copy_text(self->symbol, sizeof(self->symbol), problem->symbol);
    copy_text(self->description, sizeof(self->description), problem->description);
    self->info_len = problem->info.len < sizeof(self->info) ? problem->info.len : 0;
    if (self->info_len > 0) {
        memcpy(self->info, problem->info.ptr, self->info_len);
    }
}

static const nv_amqp_link_ops link_ops = {
    .attached = on_attached, .delivery = on_delivery, .outcome = on_outcome, .detached = on_detached};

/* ---- the connection ------------------------------------------------------------------------------------------ */

static rig_client *client_of(nv_amqp_conn *conn)
{
    return (rig_client *)(void *)conn;
}

static void on_opened(nv_amqp_conn *conn, const nv_amqp_open *open)
{
    (void)open;
    client_of(conn)->opened = true;
}

static void on_ended(nv_amqp_conn *conn, const nv_amqp_problem *problem)
{
    (void)problem;
    client_of(conn)->ended = true;
    nv_amqp_conn_done(conn);
}

static void on_free(nv_amqp_conn *conn)
{
    nv_amqp_conn_deinit(conn);
}

static const nv_amqp_conn_ops conn_ops = {.opened = on_opened, .ended = on_ended, .free = on_free};

static bool move_once(rig_client *c)
{
    size_t to_server = nv_buf_len(&c->end.out);
    if (to_server > 0 && !c->line.lost) {
        nv_rig_send(&c->line, nv_buf_span(&c->end.out));
    }
    nv_buf_consume(&c->end.out, to_server);
    nv_rig_pump(&c->line);
    size_t to_client = nv_buf_len(&c->line.received);
    if (to_client > 0 && !c->end.lost) {
        assert_int_equal(nv_buf_append(&c->end.in, nv_buf_span(&c->line.received)), NV_OK);
    }
    nv_buf_consume(&c->line.received, to_client);
    amqp_end_serve(&c->end);
    return to_server > 0 || to_client > 0;
}

void rig_move(rig_client *c)
{
    while (move_once(c)) {
    }
}

void rig_wait(rig_client *c)
{
    assert_true(nv_exec_queue_run_wait(&c->line.on->queue));
    rig_move(c);
}

/* The state of a thread as the system sees it: 'S' waits, 'R' has work, 'D' waits for a disk. */
static char state_of_thread(const char *id)
{
    char path[64];
    char text[256] = "";
    (void)snprintf(path, sizeof(path), "/proc/self/task/%.20s/stat", id);
    FILE *file = fopen(path, "r");
    if (!file) {
        return 'S'; /* it has ended */
    }
    text[fread(text, 1, sizeof(text) - 1, file)] = '\0';
    (void)fclose(file);
    const char *behind_name = strrchr(text, ')');
    return behind_name && behind_name[1] ? behind_name[2] : 'S';
}

static bool others_wait(void)
{
    bool wait = true;
    char self[24];
    (void)snprintf(self, sizeof(self), "%d", gettid());
    DIR *threads = opendir("/proc/self/task");
    assert_non_null(threads);
    for (struct dirent *entry; (entry = readdir(threads)) != NULL;) {
        bool other = entry->d_name[0] != '.' && strcmp(entry->d_name, self) != 0;
        wait = wait && (!other || state_of_thread(entry->d_name) == 'S');
    }
    (void)closedir(threads);
    return wait;
}

void rig_rest(rig_client *c)
{
    /* A test that waits for nothing to come cannot await it: all is quiet when no thread of the stores has work. */
    for (int quiet = 0; quiet < 3;) {
        const struct timespec pause = {.tv_nsec = 2000000};
        (void)nanosleep(&pause, NULL);
        bool idle = others_wait();
        bool ran = nv_exec_queue_run(&c->line.on->queue) > 0;
        quiet = move_once(c) || ran || !idle ? 0 : quiet + 1;
    }
}

void rig_advance(rig_client *c, int64_t delta_us)
{
    nv_rig_advance(&c->line, delta_us);
    rig_move(c);
}

rig_client *rig_connect(nv_rig_hub *on, const char *policy, const char *host)
{
    static char plain[1200];
    rig_client *c = nv_calloc(1, sizeof(*c));
    int len = snprintf(plain, sizeof(plain), "%c%s@sas.root.hub%c%s", '\0', policy, '\0',
                       nv_rig_policy_token(on, policy, NULL));
    assert_true(len > 0 && (size_t)len < sizeof(plain));
    nv_rig_init(&c->line, on, nv_amqp_server_new);
    amqp_end_init(&c->end, &on->clock.clock, 64u << 20);
    nv_amqp_config config = amqp_client_config;
    config.hostname = host;
    config.sasl_response = nv_span_of(plain, (size_t)len);
    nv_amqp_client_init(&c->conn, &c->end.carrier, &conn_ops, &config);
    c->end.session = &c->conn.session;
    RIG_UNTIL(c, c->opened || c->ended);
    assert_true(c->opened && !c->ended);
    c->session = nv_amqp_session_begin(&c->conn);
    return c;
}

rig_client *rig_connect_service(void)
{
    return rig_connect(&rig_on, "service", NV_RIG_HOST);
}

void rig_disconnect(rig_client *c)
{
    if (!c->end.freed) {
        amqp_end_cut(&c->end);
    }
    nv_rig_deinit(&c->line);
    assert_true(c->end.freed);
    amqp_end_deinit(&c->end);
    for (size_t i = 0; i < c->link_count; i++) {
        for (size_t n = 0; n < c->links[i]->count; n++) {
            free(c->links[i]->deliveries[n].bytes);
        }
        free(c->links[i]);
    }
    free(c);
}

/* ---- what a client does -------------------------------------------------------------------------------------- */

static void put_filter(nv_writer *w, const rig_attach *how)
{
    size_t mark = nv_amqp_begin_map(w);
    nv_amqp_put_symbol_of(w, KEY_SELECTOR);
    if (how->filter_by_code) {
        nv_amqp_put_descriptor(w, UINT64_C(0x468C00000004));
    } else {
        nv_write_u8(w, 0);
        nv_amqp_put_symbol_of(w, KEY_SELECTOR);
    }
    nv_amqp_put_string_of(w, how->filter);
    nv_amqp_end_map(w, mark, 2);
}

/* A source or target; without an address it is there but empty. */
static nv_span put_terminus(uint8_t *memory, size_t size, nv_amqp_code code, const char *address, nv_span filter)
{
    nv_writer w = nv_writer_of(memory, size / 2);
    if (address) {
        nv_amqp_put_string_of(&w, address);
    }
    nv_amqp_performative p = {.code = code};
    if (code == NV_AMQP_SOURCE) {
        p.source.address = address ? nv_writer_span(&w) : NV_SPAN_EMPTY;
        p.source.filter = filter;
    } else {
        p.target.address = address ? nv_writer_span(&w) : NV_SPAN_EMPTY;
    }
    nv_writer all = nv_writer_of(memory + size / 2, size / 2);
    nv_amqp_encode(&all, &p);
    assert_true(w.err == NV_OK && all.err == NV_OK);
    return nv_writer_span(&all);
}

rig_link *rig_attach_begin(rig_client *c, const rig_attach *how)
{
    uint8_t source[4096];
    uint8_t target[4096];
    uint8_t filter[1024];
    char name[32];
    nv_writer w = nv_writer_of(filter, sizeof(filter));
    if (how->filter) {
        put_filter(&w, how);
    }
    rig_link *self = nv_calloc(1, sizeof(*self));
    self->keep = how->keep;
    assert_true(c->link_count < RIG_LINKS);
    (void)snprintf(name, sizeof(name), "link-%zu", c->link_count);
    c->links[c->link_count++] = self;
    const char *from = how->sender ? how->own_address : how->address;
    const char *to = how->sender ? how->address : how->own_address;
    nv_amqp_attach_options options = {
        .name = how->name ? how->name : name,
        .sender = how->sender,
        .source = put_terminus(source, sizeof(source), NV_AMQP_SOURCE, from, nv_writer_span(&w)),
        .target = put_terminus(target, sizeof(target), NV_AMQP_TARGET, to, NV_SPAN_EMPTY),
        .snd_settle_mode = how->snd_settle_mode,
        .rcv_settle_mode = how->rcv_settle_mode,
        .properties = how->properties,
        .desired_capabilities = how->desired,
        .ops = &link_ops,
        .owner = self,
        .credit = how->credit};
    self->link = nv_amqp_link_attach(how->session ? how->session : c->session, &options);
    assert_non_null(self->link);
    rig_move(c);
    return self;
}

rig_link *rig_attach_link(rig_client *c, const rig_attach *how)
{
    rig_link *self = rig_attach_begin(c, how);
    RIG_UNTIL(c, self->attached || self->detached);
    RIG_UNTIL(c, !self->refused || self->detached);
    return self;
}

rig_link *rig_attach_reader(rig_client *client, const char *address, const char *filter, uint32_t credit)
{
    return rig_attach_link(client, &(rig_attach){.address = address, .filter = filter, .credit = credit});
}

void rig_detach(rig_client *c, rig_link *link)
{
    nv_amqp_link_detach(link->link, NV_AMQP_ERR_NONE, NULL);
    link->link = NULL;
    rig_move(c);
}

void rig_credit(rig_client *c, rig_link *link, uint32_t credit)
{
    nv_amqp_link_set_credit(link->link, credit);
    rig_move(c);
}

void rig_drain(rig_client *c, rig_link *link)
{
    engine_send_flow(engine_session_of(link->link->session), engine_link_of(link->link), true);
    rig_move(c);
}

uint64_t rig_send(rig_client *c, rig_link *link, nv_span message)
{
    uint32_t id;
    RIG_UNTIL(c, nv_amqp_link_room(link->link));
    nv_amqp_send send = {.track = true, .cookie = link->sent, .head = message};
    assert_int_equal(nv_amqp_link_send(link->link, &send, &id), NV_OK);
    return link->sent++;
}

const rig_outcome *rig_send_wait(rig_client *c, rig_link *link, nv_span message)
{
    size_t before = link->outcome_count;
    (void)rig_send(c, link, message);
    RIG_UNTIL(c, link->outcome_count > before || link->detached);
    assert_true(link->outcome_count > before);
    return &link->outcomes[before];
}

void rig_settle(rig_client *c, rig_link *link, const rig_delivery *delivery, nv_amqp_outcome_kind kind)
{
    nv_amqp_link_settle(link->link, delivery->id, &(nv_amqp_outcome){.kind = kind, .settled = true});
    rig_move(c);
}

void rig_accept_second(rig_client *c, rig_link *link, const rig_delivery *delivery)
{
    uint8_t state[16];
    nv_writer w = nv_writer_of(state, sizeof(state));
    nv_amqp_encode_accepted(&w, &(nv_amqp_accepted){0});
    nv_amqp_performative p = {.code = NV_AMQP_DISPOSITION};
    NV_AMQP_SET(&p.disposition, disposition, role, true);
    NV_AMQP_SET(&p.disposition, disposition, first, delivery->id);
    NV_AMQP_SET(&p.disposition, disposition, settled, false);
    p.disposition.state = nv_writer_span(&w);
    assert_true(engine_write(&c->conn, NV_AMQP_FRAME_AMQP, link->link->session->channel, &p, sizeof(state)));
    rig_move(c);
}

uint32_t rig_unsettled(const rig_link *link)
{
    return engine_link_of(link->link)->ring.live;
}

void rig_assert_detached(const rig_link *link, const char *symbol, const char *says)
{
    assert_true(link->detached);
    assert_string_equal(link->symbol, symbol);
    if (!strstr(link->description, says)) {
        fail_msg("\"%s\" does not say \"%s\"", link->description, says);
    }
}

nv_amqp_value rig_in_map(const nv_amqp_value *map, const char *key, nv_amqp_type key_type)
{
    nv_reader at = nv_reader_of(map->bytes);
    nv_amqp_value name;
    nv_amqp_value value;
    while (nv_amqp_map_next(&at, &name, &value)) {
        if (nv_span_eq_str(name.bytes, key)) {
            assert_int_equal(name.type, key_type);
            return value;
        }
    }
    fail_msg("%s is not there", key);
    return (nv_amqp_value){.type = NV_AMQP_NULL};
}

void rig_assert_text(const nv_amqp_value *value, nv_amqp_type type, const char *want)
{
    assert_int_equal(value->type, type);
    if (!nv_span_eq_str(value->bytes, want)) {
        fail_msg("\"%.*s\", wanted \"%s\"", NV_SPAN_ARG(value->bytes), want);
    }
}

/* ---- what happens behind ------------------------------------------------------------------------------------- */

static void on_stored(nv_log_batch *batch, nv_err status, void *arg)
{
    (void)batch;
    assert_int_equal(status, NV_OK);
    *(bool *)arg = true;
}

void rig_add_events(nv_rig_hub *on, uint32_t partition, const char *device, unsigned first, unsigned count)
{
    bool stored = false;
    nv_buf bytes;
    nv_buf_init(&bytes, 1024);
    nv_stamp stamp = {.device_id = nv_span_str(device), .generation_id = nv_span_str("638000000000000000")};
    assert_int_equal(nv_stamp_encode(&bytes, &stamp), NV_OK);
    nv_log_stamp name = {.id = nv_hub_next_stamp_id(on->hub), .bytes = nv_buf_span(&bytes)};
    nv_log_batch *batch = nv_log_batch_new(on->log, &on->queue.exec, on_stored, &stored);
    for (unsigned i = first; i < first + count; i++) {
        char body[64];
        int len = snprintf(body, sizeof(body), "%s-%u", device, i);
        assert_int_equal(nv_log_batch_add(batch, partition, &name, NV_SOURCE_TELEMETRY, NV_BODY_DATA, NV_SPAN_EMPTY,
                                          nv_span_of(body, (size_t)len)),
                         NV_OK);
    }
    assert_int_equal(nv_log_submit(batch), NV_OK);
    nv_rig_hub_run(on, &stored);
    nv_log_batch_free(batch);
    nv_buf_deinit(&bytes);
}

static void on_registered(nv_registry_request *request)
{
    assert_int_equal(request->error, NV_HUB_ERROR_NONE);
    nv_identity_unref(request->identity);
    *(bool *)request->arg = true;
}

void rig_add_device(nv_rig_hub *on, const char *device)
{
    bool registered = false;
    nv_registry_request request = {.verb = NV_REGISTRY_PUT,
                                   .spec = {.device_id = nv_span_str(device), .enabled = true, .auth = NV_AUTH_SAS},
                                   .done = on_registered,
                                   .arg = &registered};
    nv_registry_do(&on->hub->loops[0], &request);
    nv_rig_hub_run(on, &registered);
}
