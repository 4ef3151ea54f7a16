#include "support/amqp_device_rig.h"

#include "base/diag.h"
#include "codec/hex.h"
#include "codec/sas.h"
#include "core/devices.h"
#include "session/amqp/engine_impl.h"
#include "session/amqp/server_internal.h"

#include <inttypes.h>

/* ---- nodes of services: not there, so that their part of the core need not be ----------------------------------- */

#define NO_NODE(open)                                                                                                  \
    void open(amqp_server *s, amqp_device *device, nv_amqp_link *link, const amqp_address *address)                    \
    {                                                                                                                  \
        (void)device;                                                                                                  \
        (void)address;                                                                                                 \
        amqp_refuse(s, link, NV_AMQP_ERR_NOT_IMPLEMENTED, "not in this test");                                         \
    }
NO_NODE(amqp_open_service_send)
NO_NODE(amqp_open_feedback)
NO_NODE(amqp_open_file_notifications)
NO_NODE(amqp_open_redirect)
NO_NODE(amqp_open_events)
NO_NODE(amqp_open_events_send)
NO_NODE(amqp_open_management)

/* ---- the client ------------------------------------------------------------------------------------------------- */

static rig_peer *peer_of(nv_amqp_conn *conn)
{
    return (rig_peer *)(void *)conn;
}

static void copy_text(char *to, size_t size, nv_span text)
{
    (void)snprintf(to, size, "%.*s", NV_SPAN_ARG(nv_span_first(text, size - 1)));
}

static void on_opened(nv_amqp_conn *conn, const nv_amqp_open *open)
{
    (void)open;
    peer_of(conn)->opened = true;
}

static void on_ended(nv_amqp_conn *conn, const nv_amqp_problem *problem)
{
    peer_of(conn)->ended = true;
    copy_text(peer_of(conn)->condition, sizeof(peer_of(conn)->condition), problem->symbol);
    nv_amqp_conn_done(conn);
}

static void on_free(nv_amqp_conn *conn)
{
    nv_amqp_conn_deinit(conn);
}

static const nv_amqp_conn_ops conn_ops = {.opened = on_opened, .ended = on_ended, .free = on_free};

static void on_attached(nv_amqp_link *link, const nv_amqp_attach *attach)
{
    rig_link *l = link->owner;
    l->attached = true;
    l->max_message_size = attach->max_message_size;
    l->snd_settle_mode = attach->snd_settle_mode;
    l->rcv_settle_mode = attach->rcv_settle_mode;
    l->has_properties = attach->properties.len > 0;
}

static bool on_delivery(nv_amqp_link *link, const nv_amqp_delivery *delivery)
{
    rig_link *l = link->owner;
    if (l->message_count == RIG_MESSAGES) {
        return true; /* further ones are not kept */
    }
    rig_message *m = &l->messages[l->message_count++];
    *m = (rig_message){.id = delivery->id, .settled = delivery->settled, .tag_len = delivery->tag.len};
    memcpy(m->tag, delivery->tag.ptr, delivery->tag.len);
    m->bytes = malloc(delivery->bytes.len + 1);
    assert_non_null(m->bytes);
    memcpy(m->bytes, delivery->bytes.ptr, delivery->bytes.len);
    m->len = delivery->bytes.len;
    return true;
}

static void on_outcome(nv_amqp_link *link, uint32_t id, uint64_t cookie, const nv_amqp_outcome *outcome)
{
    (void)cookie;
    rig_link *l = link->owner;
    assert_true(outcome->settled);
    if (l->outcome_count == RIG_MESSAGES) {
        return;
    }
    rig_outcome *o = &l->outcomes[l->outcome_count++];
    *o = (rig_outcome){.id = id, .kind = outcome->kind};
    copy_text(o->condition, sizeof(o->condition), outcome->problem.symbol);
    copy_text(o->description, sizeof(o->description), outcome->problem.description);
}

static void on_detached(nv_amqp_link *link, const nv_amqp_problem *problem)
{
    rig_link *l = link->owner;
    l->link = NULL;
    l->detached = true;
    copy_text(l->condition, sizeof(l->condition), problem->symbol);
    copy_text(l->description, sizeof(l->description), problem->description);
}

static const nv_amqp_link_ops link_ops = {
    .attached = on_attached, .delivery = on_delivery, .outcome = on_outcome, .detached = on_detached};

/* ---- connections ------------------------------------------------------------------------------------------------ */

static size_t put_login(const amqp_rig *rig, const char *who, char *out, size_t size)
{
    char resource[300];
    (void)snprintf(resource, sizeof(resource), "%s/devices/%s", FAKE_HUB_NAME, who);
    out[0] = '\0';
    int len = snprintf(out + 1, size - 1, "%s@sas.hub", who);
    nv_writer w = nv_writer_of(out + 2 + len, size - 2 - (size_t)len);
    nv_sas_write(&w, nv_span_str(resource), nv_wall_us(&rig->core.clock.clock) / NV_US_PER_S + 3600, NV_SPAN_EMPTY,
                 nv_span_of(fake_device_key.bytes, fake_device_key.len));
    assert_int_equal(w.err, NV_OK);
    return 2 + (size_t)len + nv_writer_len(&w);
}

void rig_open(amqp_rig *rig, rig_peer *peer, const char *who)
{
    static uint64_t connections;
    char login[1024];
    amqp_end_init(&peer->hub_end, &rig->core.clock.clock, 4u << 20);
    peer->hub_end.carrier.loop = &rig->core.hub->loops[0];
    peer->hub_end.peer.connection_id = ++connections;
    peer->hub_end.session = nv_amqp_server_new(&peer->hub_end.carrier);
    amqp_end_init(&peer->end, &rig->core.clock.clock, 4u << 20);
    nv_amqp_config config = amqp_client_config;
    config.hostname = FAKE_HUB_NAME;
    config.sasl_mechanisms = "PLAIN";
    config.sasl_response = nv_span_of(login, put_login(rig, who, login, sizeof(login)));
    nv_amqp_client_init(&peer->conn, &peer->end.carrier, &conn_ops, &config);
    peer->end.session = &peer->conn.session;
    peer->used = true;
    rig_run(rig);
    assert_true(peer->opened);
    peer->session = nv_amqp_session_begin(&peer->conn);
    assert_non_null(peer->session);
}

static void peer_run(rig_peer *peer)
{
    if (peer->used) {
        amqp_pair_run(&peer->end, &peer->hub_end);
    }
}

void rig_run(amqp_rig *rig)
{
    for (int i = 0; i < 9; i++) {
        peer_run(&rig->a);
        peer_run(&rig->b);
        for (size_t p = 0; p < rig->more_count; p++) {
            peer_run(&rig->more[p]);
        }
        if (i < 8) {
            fake_core_run(&rig->core);
        }
    }
}

void rig_advance(amqp_rig *rig, int64_t us)
{
    nv_manual_clock_advance(&rig->core.clock, us);
    rig_run(rig);
    nv_hub_loop_tick(&rig->core.hub->loops[0], nv_mono_us(&rig->core.clock.clock));
    rig_run(rig);
}

void rig_cut(amqp_rig *rig, rig_peer *peer)
{
    if (!peer->used) {
        return;
    }
    amqp_end_cut(&peer->hub_end);
    amqp_end_cut(&peer->end);
    rig_run(rig);
    assert_true(peer->hub_end.freed && peer->end.freed);
    amqp_end_deinit(&peer->end);
    amqp_end_deinit(&peer->hub_end);
    for (size_t i = 0; i < peer->link_count; i++) {
        for (size_t m = 0; m < peer->links[i].message_count; m++) {
            free(peer->links[i].messages[m].bytes);
        }
    }
    memset(peer, 0, sizeof(*peer));
}

amqp_rig *rig_new(const nv_limits *limits)
{
    amqp_rig *rig = calloc(1, sizeof(*rig));
    assert_non_null(rig);
    fake_core_init(&rig->core, 1, limits);
    fake_register(&rig->core, "d1", "", NULL);
    fake_register(&rig->core, "d1", "m1", NULL);
    fake_register(&rig->core, "d2", "", NULL);
    fake_core_run(&rig->core);
    nv_diag_setup(NV_LEVEL_ERROR, false, -1);
    return rig;
}

amqp_rig *rig_new_faulty(void)
{
    fake_fault_injection = true;
    amqp_rig *rig = rig_new(&nv_limits_open);
    fake_fault_injection = false;
    return rig;
}

void rig_release(amqp_rig *rig)
{
    fake_log_set_mode(&rig->core, FAKE_LOG_AUTO);
    while (fake_log_complete(&rig->core, NV_OK)) {
        fake_core_run(&rig->core);
    }
    fake_twin_set_hold(false);
    while (fake_twin_complete()) {
        fake_core_run(&rig->core);
    }
    fake_c2d_set_hold(false);
    while (fake_c2d_settle_one()) {
        fake_core_run(&rig->core);
    }
}

void rig_free(amqp_rig *rig)
{
    rig_release(rig);
    rig_cut(rig, &rig->a);
    rig_cut(rig, &rig->b);
    fake_core_run(&rig->core);
    assert_int_equal(nv_devices_connected(rig->core.hub), 0);
    fake_core_deinit(&rig->core);
    free(rig);
}

/* ---- links ------------------------------------------------------------------------------------------------------ */

static nv_span put_properties(const rig_attach *o, uint8_t *out, size_t size)
{
    nv_writer w = nv_writer_of(out, size);
    uint32_t count = 1;
    size_t mark = nv_amqp_begin_map(&w);
    nv_amqp_put_symbol_of(&w, "com.microsoft:client-version");
    nv_amqp_put_string_of(&w, "test/1.0");
    if (o->correlation) {
        nv_amqp_put_symbol_of(&w, "com.microsoft:channel-correlation-id");
        nv_amqp_put_string_of(&w, o->correlation);
        count++;
    }
    if (o->model) {
        nv_amqp_put_symbol_of(&w, "com.microsoft:model-id");
        nv_amqp_put_string_of(&w, o->model);
        count++;
    }
    nv_amqp_end_map(&w, mark, 2 * count);
    return nv_writer_span(&w);
}

rig_link *rig_attach_link(amqp_rig *rig, rig_peer *peer, const rig_attach *o)
{
    uint8_t properties[512];
    char name[64];
    assert_true(peer->link_count < RIG_LINKS);
    rig_link *l = &peer->links[peer->link_count++];
    (void)snprintf(name, sizeof(name), "link-%zu", peer->link_count);
    l->peer = peer;
    nv_amqp_attach_options options = {.name = o->name ? o->name : name,
                                      .sender = o->sends,
                                      .address = o->address,
                                      .snd_settle_mode = o->snd_settle_mode,
                                      .rcv_settle_mode = o->rcv_settle_mode,
                                      .properties = put_properties(o, properties, sizeof(properties)),
                                      .ops = &link_ops,
                                      .owner = l,
                                      .credit = o->credit};
    l->link = nv_amqp_link_attach(peer->session, &options);
    assert_non_null(l->link);
    rig_run(rig);
    return l;
}

rig_link *rig_sender(amqp_rig *rig, rig_peer *peer, const char *address)
{
    rig_link *l = rig_attach_link(rig, peer, &(rig_attach){.address = address, .sends = true});
    assert_true(l->attached && l->link);
    assert_true(l->link->credit > 0);
    return l;
}

rig_link *rig_receiver(amqp_rig *rig, rig_peer *peer, const char *address, uint32_t credit)
{
    rig_link *l = rig_attach_link(rig, peer, &(rig_attach){.address = address, .credit = credit});
    assert_true(l->attached && l->link);
    return l;
}

uint32_t rig_send(rig_link *l, nv_span bytes, uint32_t format, bool settled)
{
    uint32_t id = 0;
    nv_amqp_send send = {.format = format, .settled = settled, .track = true, .body = bytes};
    assert_int_equal(nv_amqp_link_send(l->link, &send, &id), NV_OK);
    return id;
}

nv_span rig_data(const char *body)
{
    static uint8_t bytes[2048];
    nv_writer w = nv_writer_of(bytes, sizeof(bytes));
    nv_amqp_put_data_head(&w, strlen(body));
    nv_write_span(&w, nv_span_str(body));
    assert_int_equal(w.err, NV_OK);
    return nv_writer_span(&w);
}

const rig_outcome *rig_outcome_of(const rig_link *l, uint32_t id)
{
    static const rig_outcome none;
    const rig_outcome *found = &none;
    for (size_t i = 0; i < l->outcome_count; i++) {
        if (l->outcomes[i].id == id) {
            assert_ptr_equal(found, &none); /* said once */
            found = &l->outcomes[i];
        }
    }
    return found;
}

void rig_expect_accepted(amqp_rig *rig, const rig_link *l, uint32_t id)
{
    rig_run(rig);
    const rig_outcome *o = rig_outcome_of(l, id);
    if (o->kind != NV_AMQP_OUT_ACCEPTED) {
        fail_msg("not accepted but %d: %s %s", (int)o->kind, o->condition, o->description);
    }
}

void rig_expect_rejected(amqp_rig *rig, const rig_link *l, uint32_t id, const char *condition)
{
    rig_run(rig);
    const rig_outcome *o = rig_outcome_of(l, id);
    assert_int_equal(o->kind, NV_AMQP_OUT_REJECTED);
    assert_string_equal(o->condition, condition);
    assert_true(o->description[0] != '\0');
}

void rig_settle(rig_link *l, size_t message, nv_amqp_outcome_kind kind)
{
    assert_true(message < l->message_count);
    nv_amqp_link_settle(l->link, l->messages[message].id, &(nv_amqp_outcome){.kind = kind});
}

/* The engine's client always settles; this is written by hand. */
void rig_dispose(amqp_rig *rig, rig_link *l, size_t message, uint8_t state_code)
{
    uint8_t frame[128];
    uint8_t state[] = {0x00, 0x53, state_code, 0x45};
    nv_writer w = nv_writer_of(frame, sizeof(frame));
    size_t mark = nv_amqp_begin_frame(&w, NV_AMQP_FRAME_AMQP, l->peer->session->channel);
    nv_amqp_disposition d = {.state = nv_span_of(state, sizeof(state))};
    NV_AMQP_SET(&d, disposition, role, true);
    NV_AMQP_SET(&d, disposition, first, l->messages[message].id);
    NV_AMQP_SET(&d, disposition, settled, false);
    nv_amqp_encode_disposition(&w, &d);
    nv_amqp_end_frame(&w, mark);
    rig_run(rig);
    amqp_end_give(&l->peer->hub_end, nv_writer_span(&w));
}

size_t rig_unsettled(const rig_link *l)
{
    return engine_link_of(l->link)->ring.live;
}

nv_amqp_link *rig_hub_link(rig_peer *peer, bool hub_sends)
{
    nv_amqp_conn *conn = (nv_amqp_conn *)(void *)peer->hub_end.session;
    for (nv_list *at = conn->sessions.next; at != &conn->sessions; at = at->next) {
        nv_amqp_session *session = nv_container_of(at, nv_amqp_session, _node);
        for (nv_list *node = session->links.next; node != &session->links; node = node->next) {
            nv_amqp_link *link = nv_container_of(node, nv_amqp_link, _node);
            if (link->sender == hub_sends) {
                return link;
            }
        }
    }
    fail_msg("no such link");
    return NULL;
}

/* ---- messages as text ------------------------------------------------------------------------------------------- */

static const char *type_name(nv_amqp_type type)
{
    static const char *const names[] = {"null",   "boolean", "ubyte",     "ushort",   "uint",   "ulong",  "byte",
                                        "short",  "int",     "long",      "float",    "double", "dec32",  "dec64",
                                        "dec128", "char",    "timestamp", "uuid",     "binary", "string", "symbol",
                                        "list",   "map",     "array",     "described"};
    return names[type];
}

static void put_value(nv_buf *out, const nv_amqp_value *v)
{
    nv_ignore(nv_buf_printf(out, "%s", type_name(v->type)));
    if (v->type == NV_AMQP_BOOLEAN) {
        nv_ignore(nv_buf_printf(out, ":%s", v->boolean ? "true" : "false"));
    } else if ((v->type >= NV_AMQP_UBYTE && v->type <= NV_AMQP_ULONG) || v->type == NV_AMQP_CHAR) {
        nv_ignore(nv_buf_printf(out, ":%" PRIu64, v->u));
    } else if ((v->type >= NV_AMQP_BYTE && v->type <= NV_AMQP_LONG) || v->type == NV_AMQP_TIMESTAMP) {
        nv_ignore(nv_buf_printf(out, ":%" PRId64, v->i));
    } else if (v->type == NV_AMQP_UUID) {
        uint8_t hex[32];
        nv_writer w = nv_writer_of(hex, sizeof(hex));
        nv_hex_encode(v->bytes, &w);
        nv_ignore(nv_buf_printf(out, ":%.32s", (const char *)hex));
    } else if (v->type != NV_AMQP_NULL) {
        nv_ignore(nv_buf_printf(out, ":%.*s", NV_SPAN_ARG(v->bytes)));
    }
}

static void put_map(nv_buf *out, const char *name, const nv_amqp_value *map, nv_amqp_type key_type)
{
    nv_reader at = nv_reader_of(map->bytes);
    nv_amqp_value key;
    nv_amqp_value value;
    bool first = true;
    if (map->type != NV_AMQP_MAP) {
        return;
    }
    nv_ignore(nv_buf_printf(out, "%s{", name));
    while (nv_amqp_map_next(&at, &key, &value)) {
        assert_int_equal(key.type, key_type);
        nv_ignore(nv_buf_printf(out, "%s%.*s=", first ? "" : ";", NV_SPAN_ARG(key.bytes)));
        put_value(out, &value);
        first = false;
    }
    assert_int_equal(at.err, NV_OK);
    nv_ignore(nv_buf_printf(out, "} "));
}

static void put_any(nv_buf *out, const char *name, nv_span encoded)
{
    nv_reader r = nv_reader_of(encoded);
    nv_amqp_value value;
    if (encoded.ptr && nv_amqp_read(&r, &value)) {
        nv_ignore(nv_buf_printf(out, "%s=", name));
        put_value(out, &value);
        nv_ignore(nv_buf_printf(out, ";"));
    }
}

static void put_span(nv_buf *out, const char *name, nv_span text)
{
    if (text.ptr) {
        nv_ignore(nv_buf_printf(out, "%s=%.*s;", name, NV_SPAN_ARG(text)));
    }
}

static void put_properties_section(nv_buf *out, const nv_amqp_properties *p)
{
    nv_ignore(nv_buf_printf(out, "properties{"));
    put_any(out, "message-id", p->message_id);
    put_span(out, "user-id", p->user_id);
    put_any(out, "to", p->to);
    put_any(out, "correlation-id", p->correlation_id);
    put_span(out, "content-type", p->content_type);
    put_span(out, "content-encoding", p->content_encoding);
    if (NV_AMQP_HAS(p, properties, absolute_expiry_time)) {
        nv_ignore(nv_buf_printf(out, "absolute-expiry-time=%" PRId64 ";", p->absolute_expiry_time));
    }
    nv_ignore(nv_buf_printf(out, "} "));
}

const char *rig_text(const rig_message *message)
{
    static char text[1 << 17];
    nv_amqp_message m;
    nv_buf out;
    nv_buf_init(&out, sizeof(text) - 1);
    assert_int_equal(nv_amqp_message_read(nv_span_of(message->bytes, message->len), &m), NV_OK);
    put_map(&out, "annotations", &m.message_annotations, NV_AMQP_SYMBOL);
    if (m.has_properties) {
        put_properties_section(&out, &m.properties);
    }
    put_map(&out, "application", &m.application_properties, NV_AMQP_STRING);
    if (m.body_kind == NV_AMQP_BODY_IS_DATA && m.sections == 1) {
        nv_ignore(nv_buf_printf(&out, "data:%.*s", NV_SPAN_ARG(m.body)));
    } else {
        nv_ignore(nv_buf_printf(&out, "body of kind %d", (int)m.body_kind));
    }
    (void)snprintf(text, sizeof(text), "%.*s", NV_SPAN_ARG(nv_buf_span(&out)));
    nv_buf_deinit(&out);
    return text;
}

const char *rig_last_text(const rig_link *l)
{
    assert_true(l->message_count > 0);
    return rig_text(&l->messages[l->message_count - 1]);
}
