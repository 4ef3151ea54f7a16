#include "session/amqp/engine_impl.h"

#include <assert.h>
#include <stdlib.h>

#define MECHANISMS_MAX 16

static void write_header(nv_amqp_conn *conn, nv_amqp_protocol protocol)
{
    uint8_t *room = engine_reserve(conn, NV_AMQP_HEADER_SIZE);
    if (room) {
        nv_amqp_write_header(room, protocol);
        engine_commit(conn, NV_AMQP_HEADER_SIZE);
    }
    conn->_p->header_sent = true;
}

/* ---- server ------------------------------------------------------------------------------------------------- */

static size_t split(const char *text, nv_span out[MECHANISMS_MAX])
{
    size_t count = 0;
    nv_span left = nv_span_str(text);
    while (left.len > 0 && count < MECHANISMS_MAX) {
        size_t len = nv_span_find(left, ' ');
        if (len > 0) {
            out[count++] = nv_span_first(left, len);
        }
        left = nv_span_skip(left, len + 1);
    }
    return count;
}

static void send_mechanisms(nv_amqp_conn *conn)
{
    nv_span names[MECHANISMS_MAX];
    uint8_t memory[512];
    size_t count = split(conn->config.sasl_mechanisms, names);
    nv_writer w = nv_writer_of(memory, sizeof(memory));
    nv_amqp_put_texts(&w, NV_AMQP_SYMBOL, names, count);
    assert(w.err == NV_OK); /* configuration */
    nv_amqp_performative p = {.code = NV_AMQP_SASL_MECHANISMS};
    p.sasl_mechanisms.mechanisms = nv_writer_span(&w);
    (void)engine_write(conn, NV_AMQP_FRAME_SASL, 0, &p, sizeof(memory));
}

static void send_outcome(nv_amqp_conn *conn, uint8_t code)
{
    nv_amqp_performative p = {.code = NV_AMQP_SASL_OUTCOME};
    NV_AMQP_SET(&p.sasl_outcome, sasl_outcome, code, code);
    (void)engine_write(conn, NV_AMQP_FRAME_SASL, 0, &p, 0);
}

void nv_amqp_sasl_done(nv_amqp_conn *conn, uint8_t code)
{
    if (conn->state != NV_AMQP_CONN_SASL) {
        return;
    }
    engine_enter(conn);
    send_outcome(conn, code);
    engine_go(conn, ENGINE_STOP_SASL);
    if (code == 0) {
        conn->sasl_done = true;
        engine_set_state(conn, NV_AMQP_CONN_HEADER);
    } else {
        nv_amqp_problem problem = engine_problem(NV_AMQP_ERR_UNAUTHORIZED_ACCESS, "SASL: not authenticated");
        engine_finish(conn, &problem);
    }
    engine_leave(conn);
}

static void on_init(nv_amqp_conn *conn, const nv_amqp_sasl_init *init)
{
    nv_span names[MECHANISMS_MAX];
    size_t count = split(conn->config.sasl_mechanisms, names);
    bool offered = false;
    for (size_t i = 0; i < count; i++) {
        offered = offered || nv_span_eq(names[i], init->mechanism);
    }
    if (!offered || !conn->ops->sasl) {
        nv_amqp_sasl_done(conn, 1);
        return;
    }
    engine_stop(conn, ENGINE_STOP_SASL);
    conn->ops->sasl(conn, init->mechanism, init->initial_response, init->hostname);
}

/* ---- client ------------------------------------------------------------------------------------------------- */

void engine_client_start(nv_amqp_conn *conn)
{
    if (conn->config.sasl_mechanisms) {
        write_header(conn, NV_AMQP_PROTOCOL_SASL);
    } else {
        write_header(conn, NV_AMQP_PROTOCOL_AMQP);
        engine_send_open(conn);
    }
}

static void wipe_response(nv_amqp_conn *conn)
{
    nv_amqp_conn_private *p = conn->_p;
    if (p->sasl_response) {
        nv_wipe(p->sasl_response, p->sasl_response_len);
        free(p->sasl_response);
        p->sasl_response = NULL;
        p->sasl_response_len = 0;
    }
}

static bool offers(nv_span mechanisms, nv_span wanted)
{
    nv_reader r = nv_reader_of(mechanisms);
    nv_amqp_value value;
    if (!nv_amqp_read(&r, &value)) {
        return false;
    }
    if (value.type != NV_AMQP_ARRAY) { /* one mechanism may stand alone (part 1 section 1.4: multiple) */
        return value.type == NV_AMQP_SYMBOL && nv_span_eq(value.bytes, wanted);
    }
    nv_amqp_value name;
    nv_reader at = nv_reader_of(value.bytes);
    while (nv_amqp_array_next(&value, &at, &name)) {
        if (nv_amqp_is_text(&name) && nv_span_eq(name.bytes, wanted)) {
            return true;
        }
    }
    return false;
}

static void on_mechanisms(nv_amqp_conn *conn, const nv_amqp_sasl_mechanisms *mechanisms)
{
    nv_amqp_conn_private *p = conn->_p;
    nv_span wanted = nv_span_str(conn->config.sasl_mechanisms);
    if (!offers(mechanisms->mechanisms, wanted)) {
        nv_amqp_problem problem =
            engine_problem(NV_AMQP_ERR_UNAUTHORIZED_ACCESS, "SASL: the peer does not offer the mechanism");
        engine_finish(conn, &problem);
        return;
    }
    nv_amqp_performative init = {.code = NV_AMQP_SASL_INIT};
    init.sasl_init.mechanism = wanted;
    init.sasl_init.initial_response =
        p->sasl_response ? nv_span_of(p->sasl_response, p->sasl_response_len) : nv_span_str("");
    init.sasl_init.hostname = nv_span_str(conn->config.hostname);
    (void)engine_write(conn, NV_AMQP_FRAME_SASL, 0, &init,
                       wanted.len + p->sasl_response_len + init.sasl_init.hostname.len);
    wipe_response(conn);
}

static void on_outcome(nv_amqp_conn *conn, const nv_amqp_sasl_outcome *outcome)
{
    if (outcome->code != 0) {
        nv_amqp_problem problem = engine_problem(NV_AMQP_ERR_UNAUTHORIZED_ACCESS, "SASL: the peer refused");
        engine_finish(conn, &problem);
        return;
    }
    conn->sasl_done = true;
    engine_set_state(conn, NV_AMQP_CONN_HEADER);
    write_header(conn, NV_AMQP_PROTOCOL_AMQP);
    engine_send_open(conn);
}

/* ---- both --------------------------------------------------------------------------------------------------- */

void engine_on_sasl(nv_amqp_conn *conn, nv_span body)
{
    nv_reader r = nv_reader_of(body);
    nv_amqp_performative p;
    if (nv_amqp_decode(&r, &p) != NV_OK || nv_reader_left(&r) > 0) {
        engine_fail(conn, NV_AMQP_ERR_DECODE_ERROR, "malformed SASL frame");
    } else if (conn->server && p.code == NV_AMQP_SASL_INIT) {
        on_init(conn, &p.sasl_init);
    } else if (!conn->server && p.code == NV_AMQP_SASL_MECHANISMS) {
        on_mechanisms(conn, &p.sasl_mechanisms);
    } else if (!conn->server && p.code == NV_AMQP_SASL_OUTCOME) {
        on_outcome(conn, &p.sasl_outcome);
    } else {
        engine_fail(conn, NV_AMQP_ERR_NOT_ALLOWED, "unexpected SASL frame");
    }
}

/* What this end speaks where the peer's header stands now. */
static bool is_welcome(const nv_amqp_conn *conn, nv_amqp_protocol protocol)
{
    bool sasl = conn->config.sasl_mechanisms && !conn->sasl_done;
    if (protocol == NV_AMQP_PROTOCOL_SASL) {
        return sasl;
    }
    return protocol == NV_AMQP_PROTOCOL_AMQP && (conn->server || !sasl);
}

static void refuse_header(nv_amqp_conn *conn)
{
    bool sasl = conn->config.sasl_mechanisms && !conn->sasl_done;
    if (!conn->_p->header_sent || (conn->server && conn->sasl_done)) {
        write_header(conn, sasl ? NV_AMQP_PROTOCOL_SASL : NV_AMQP_PROTOCOL_AMQP);
    }
    nv_amqp_problem problem = engine_problem(NV_AMQP_ERR_NOT_IMPLEMENTED, "another protocol header was expected");
    engine_finish(conn, &problem);
}

size_t engine_on_header(nv_amqp_conn *conn, nv_span bytes)
{
    nv_amqp_protocol protocol = NV_AMQP_PROTOCOL_AMQP;
    nv_err err = nv_amqp_read_header(bytes, &protocol);
    if (err == NV_E_MORE) {
        return 0;
    }
    if (err != NV_OK || !is_welcome(conn, protocol)) {
        refuse_header(conn);
        return bytes.len;
    }
    if (protocol == NV_AMQP_PROTOCOL_SASL) {
        engine_set_state(conn, NV_AMQP_CONN_SASL);
        if (conn->server) {
            write_header(conn, protocol);
            send_mechanisms(conn);
        }
    } else {
        engine_set_state(conn, NV_AMQP_CONN_OPENING);
        if (conn->server) {
            write_header(conn, protocol);
        }
    }
    return NV_AMQP_HEADER_SIZE;
}
