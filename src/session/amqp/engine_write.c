#include "session/amqp/engine_impl.h"

#include <stdio.h>

#define TRACKING_KEY "com.microsoft:tracking-id"

uint8_t *engine_reserve(nv_amqp_conn *conn, size_t len)
{
    nv_amqp_conn_private *p = conn->_p;
    if (conn->state == NV_AMQP_CONN_CLOSED || p->silent || p->overflow) {
        return NULL;
    }
    uint8_t *room = nv_buf_reserve(conn->session.out, len);
    if (NV_UNLIKELY(!room)) {
        p->overflow = true; /* told at the next verb: callers of settle() and send() are in the middle of something */
        p->pump = true;
        engine_stop(conn, ENGINE_STOP_END);
    }
    return room;
}

void engine_commit(nv_amqp_conn *conn, size_t len)
{
    nv_buf_commit(conn->session.out, len);
    conn->_p->written += len;
}

bool engine_frame_begin(engine_frame *f, nv_amqp_conn *conn, nv_amqp_frame_type type, uint16_t channel, size_t room)
{
    uint8_t *at = engine_reserve(conn, room);
    if (!at) {
        return false;
    }
    f->conn = conn;
    f->w = nv_writer_of(at, room);
    f->mark = nv_amqp_begin_frame(&f->w, type, channel);
    return true;
}

bool engine_frame_end(engine_frame *f)
{
    nv_amqp_end_frame(&f->w, f->mark);
    if (f->w.err != NV_OK || nv_writer_len(&f->w) > f->conn->peer_max_frame) {
        return false;
    }
    engine_commit(f->conn, nv_writer_len(&f->w));
    return true;
}

bool engine_write(nv_amqp_conn *conn, nv_amqp_frame_type type, uint16_t channel, const nv_amqp_performative *p,
                  size_t room)
{
    engine_frame f;
    if (!engine_frame_begin(&f, conn, type, channel, 256 + room)) {
        return false;
    }
    nv_amqp_encode(&f.w, p);
    return engine_frame_end(&f);
}

nv_span engine_put_tracking(nv_amqp_conn *conn, uint8_t out[128])
{
    char id[64];
    const nv_peer *peer = conn->session.carrier->peer;
    (void)snprintf(id, sizeof(id), "C:%llu-%u", peer ? (unsigned long long)peer->connection_id : 0ull,
                   ++conn->_p->tracking);
    nv_writer w = nv_writer_of(out, 128);
    size_t map = nv_amqp_begin_map(&w);
    nv_amqp_put_symbol_of(&w, TRACKING_KEY);
    nv_amqp_put_string_of(&w, id);
    nv_amqp_end_map(&w, map, 2);
    return nv_writer_span(&w);
}

/* Cut at a character. */
static nv_span shortened(nv_span text, size_t most)
{
    if (!text.ptr) {
        return nv_span_str("");
    }
    if (text.len <= most) {
        return text;
    }
    size_t len = most;
    while (len > 0 && (text.ptr[len] & 0xc0) == 0x80) {
        len--;
    }
    return nv_span_first(text, len);
}

/* What a frame has around an error: header, performative, its other fields. */
#define AROUND_ERROR 96u

nv_span engine_put_problem(nv_amqp_conn *conn, const nv_amqp_problem *problem, uint8_t out[ENGINE_ERROR_ROOM])
{
    nv_span symbol = problem->symbol;
    if (problem->condition != NV_AMQP_ERR_NONE) {
        symbol = nv_span_str(nv_amqp_condition_name(problem->condition));
    }
    if (symbol.len == 0) {
        return NV_SPAN_EMPTY;
    }
    uint8_t tracking[128];
    nv_amqp_error error = {
        .condition = symbol, .description = shortened(problem->description, ENGINE_DESCRIPTION), .info = problem->info};
    if (error.info.len == 0) {
        error.info = engine_put_tracking(conn, tracking);
    }
    nv_writer w = nv_writer_of(out, ENGINE_ERROR_ROOM);
    nv_amqp_encode_error(&w, &error);
    if (w.err != NV_OK || nv_writer_len(&w) + AROUND_ERROR > conn->peer_max_frame) {
        error.info = engine_put_tracking(conn, tracking);
        error.description = shortened(error.description, ENGINE_DESCRIPTION / 3);
        w = nv_writer_of(out, ENGINE_ERROR_ROOM);
        nv_amqp_encode_error(&w, &error);
    }
    return w.err == NV_OK ? nv_writer_span(&w) : NV_SPAN_EMPTY;
}

void engine_send_heartbeat(nv_amqp_conn *conn)
{
    uint8_t *room = engine_reserve(conn, NV_AMQP_FRAME_HEADER_SIZE);
    if (room) {
        nv_amqp_write_frame_header(room, NV_AMQP_FRAME_AMQP, 0, NV_AMQP_FRAME_HEADER_SIZE);
        engine_commit(conn, NV_AMQP_FRAME_HEADER_SIZE);
    }
}
