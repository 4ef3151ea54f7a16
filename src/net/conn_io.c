/*
 * The bytes of a connection on their way between session, layers and socket, and when the socket is read. What becomes
 * of the connection is conn.c's.
 */
#include "base/alloc.h"
#include "base/diag.h"
#include "net/conn.h"
#include "net/net_impl.h"
#include "net/tls_impl.h"

#include <assert.h>
#include <stdlib.h>

/* Memory of this size is worth keeping for the next flush; more goes back to the heap. */
#define SPARE_MAX ((size_t)512 * 1024)

struct nv_write {
    uv_write_t req;
    nv_buf bytes;
};

static const nv_net_limits *limits_of(const nv_conn *conn)
{
    return &conn->loop->net->limits;
}

/* ---- input ---- */

static size_t read_size(const nv_conn *conn)
{
    return conn->known ? NV_READ_SIZE : NV_READ_SIZE_NEW;
}

nv_window nv_conn_window(nv_conn *conn, uint8_t *scratch)
{
    size_t have = nv_buf_len(&conn->rest);
    if (have <= NV_REST_COPY_MAX) {
        if (have) {
            memcpy(scratch, nv_buf_span(&conn->rest).ptr, have);
        }
        return (nv_window){scratch + have, read_size(conn), scratch};
    }
    size_t room = conn->rest.max - have;
    room = room < read_size(conn) ? room : read_size(conn);
    uint8_t *at = nv_buf_reserve(&conn->rest, room);
    return (nv_window){at, at ? room : 0, NULL};
}

/* Keep what was not taken: nothing holds no memory. */
static const char *keep_rest(nv_conn *conn, bool in_rest, nv_span bytes, size_t taken)
{
    size_t left = bytes.len - taken;
    if (left == 0) {
        nv_buf_deinit(&conn->rest);
        return NULL;
    }
    nv_buf_set_max(&conn->rest, conn->session->max_pending + NV_SCRATCH_SIZE); /* the session may have raised it */
    if (in_rest) {
        nv_buf_consume(&conn->rest, taken);
        return NULL;
    }
    nv_buf_clear(&conn->rest);
    nv_err err = nv_buf_append(&conn->rest, nv_span_skip(bytes, taken));
    return err == NV_OK ? NULL : "out of memory for its input";
}

static const char *feed(nv_conn *conn, bool in_rest, nv_span bytes)
{
    nv_session *session = conn->session;
    size_t taken = session->closing ? bytes.len : 0; /* too late: drop */
    if (session->reading && !session->closing) {
        taken = session->ops->input(session, bytes, conn->loop->now_us);
        assert(taken <= bytes.len);
    }
    const char *why = keep_rest(conn, in_rest, bytes, taken);
    size_t left = bytes.len - taken;
    conn->held = left > 0 && !session->reading;
    if (!why && left > session->max_pending && session->reading && !session->closing) {
        why = "a unit is longer than this connection may buffer";
        nv_subject subject = nv_conn_subject(conn);
        nv_diag(NV_LEVEL_WARN, "net", &subject, "closed: an incomplete unit is longer than %zu bytes",
                session->max_pending);
    }
    nv_conn_wake(conn);
    return why;
}

const char *nv_conn_feed_rest(nv_conn *conn)
{
    return feed(conn, true, nv_buf_span(&conn->rest));
}

const char *nv_conn_input(nv_conn *conn, const nv_window *window, size_t len)
{
    if (conn->state != NV_CONN_OPEN) {
        return NULL;
    }
    if (!window->start) {
        nv_buf_commit(&conn->rest, len);
        return feed(conn, true, nv_buf_span(&conn->rest));
    }
    return feed(conn, false, nv_span_of(window->start, (size_t)(window->at - window->start) + len));
}

nv_window nv_layer_window(nv_layer *layer, uint8_t *scratch)
{
    return layer->above ? (nv_window){scratch, read_size(layer->conn), scratch} : nv_conn_window(layer->conn, scratch);
}

const char *nv_layer_up(nv_layer *layer, const nv_window *window, size_t len)
{
    if (!layer->above) {
        return nv_conn_input(layer->conn, window, len);
    }
    bool open = layer->conn->state == NV_CONN_OPEN; /* or it is too late: drop */
    return open ? layer->above->ops->input(layer->above, nv_span_of(window->at, len)) : NULL;
}

static bool reads_straight(const nv_conn *conn)
{
    return conn->state == NV_CONN_OPEN && !conn->top;
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    (void)suggested;
    nv_conn *conn = handle->data;
    nv_loop_enter(conn->loop);
    if (reads_straight(conn)) {
        nv_window window = nv_conn_window(conn, conn->loop->read_buf);
        conn->loop->window = window;
        *buf = uv_buf_init((char *)window.at, (unsigned)window.room);
    } else {
        *buf = uv_buf_init((char *)conn->loop->read_buf, (unsigned)read_size(conn));
    }
}

static const char *take_bytes(nv_conn *conn, nv_span bytes)
{
    if (conn->state >= NV_CONN_CLOSING) {
        return NULL; /* too late: drop */
    }
    if (reads_straight(conn)) {
        return nv_conn_input(conn, &conn->loop->window, bytes.len);
    }
    if (!conn->top) {
        const char *why = nv_tls_layer_server(conn, bytes);
        if (why) {
            return why;
        }
    }
    nv_layer *bottom = nv_layer_bottom(conn->top);
    return bottom->ops->input(bottom, bytes);
}

static void on_read(uv_stream_t *stream, ssize_t len, const uv_buf_t *buf)
{
    nv_conn *conn = stream->data;
    if (len == 0) {
        return;
    }
    if (len == UV_EOF) {
        conn->eof = true;
        if (conn->state == NV_CONN_HANDSHAKE || conn->state == NV_CONN_LINGER) {
            nv_conn_end(conn, "the peer closed the connection");
            return;
        }
        nv_conn_update_reading(conn);
        nv_conn_wake(conn);
        return;
    }
    if (len < 0) {
        nv_conn_end(conn, len == UV_ENOBUFS ? "out of memory for its input" : uv_strerror((int)len));
        return;
    }
    conn->loop->in_bytes += len;
    const char *why = take_bytes(conn, nv_span_of(buf->base, (size_t)len));
    if (why) {
        nv_conn_fail(conn, why);
        return;
    }
    nv_conn_update_reading(conn);
}

/* Of the request in flight. */
static size_t writing_bytes(const nv_conn *conn)
{
    return conn->write ? nv_buf_len(&conn->write->bytes) : 0;
}

size_t nv_conn_queued(const nv_conn *conn)
{
    size_t len = writing_bytes(conn) + nv_buf_len(&conn->wire);
    for (const nv_layer *layer = conn->top; layer; layer = layer->below) {
        len += nv_buf_len(&layer->out);
    }
    return len;
}

/* Stopping and starting again costs system calls, so a pause that is short as a rule does not stop: while a session
 * checks who the peer is (one read more goes to the rest, then it does stop), and from closing to the end of the turn.
 */
static bool session_wants_input(const nv_conn *conn)
{
    const nv_session *session = conn->session;
    if (session->closing) {
        return conn->reading;
    }
    return !conn->paused && (session->reading || (!conn->known && !conn->held));
}

static bool wants_input(const nv_conn *conn)
{
    switch (conn->state) {
    case NV_CONN_HANDSHAKE:
    case NV_CONN_LINGER:
        return !conn->eof;
    case NV_CONN_OPEN:
        return !conn->eof && !conn->ended && session_wants_input(conn);
    case NV_CONN_CONNECTING:
    case NV_CONN_CLOSING:
    case NV_CONN_GONE:
        return false;
    }
    return false;
}

void nv_conn_update_reading(nv_conn *conn)
{
    if (conn->state == NV_CONN_GONE) {
        return;
    }
    size_t queued = nv_conn_queued(conn);
    size_t limit = limits_of(conn)->pause_output_bytes;
    conn->paused = queued > (conn->paused ? limit / 2 : limit);
    bool want = wants_input(conn);
    if (want == conn->reading) {
        return;
    }
    conn->reading = want;
    if (want) {
        (void)uv_read_start((uv_stream_t *)&conn->tcp, on_alloc, on_read);
    } else {
        (void)uv_read_stop((uv_stream_t *)&conn->tcp);
    }
}

/* ---- output ---- */

size_t nv_conn_room(const nv_conn *conn)
{
    size_t queued = writing_bytes(conn) + nv_buf_len(&conn->wire);
    size_t limit = limits_of(conn)->pause_output_bytes;
    return queued < limit ? limit - queued : 0;
}

size_t nv_layer_room(const nv_layer *layer)
{
    size_t room = nv_conn_room(layer->conn);
    if (!layer->below) {
        return room;
    }
    const nv_buf *below = &layer->below->out;
    size_t free_bytes = below->max - nv_buf_len(below);
    size_t most = room > nv_buf_len(below) ? room - nv_buf_len(below) : 0;
    return most < free_bytes ? most : free_bytes;
}

static void on_written(uv_write_t *req, int status)
{
    nv_write *write = nv_container_of(req, nv_write, req);
    nv_conn *conn = req->handle->data;
    nv_loop_enter(conn->loop);
    if (!conn->top) {
        nv_buf_set_max(&conn->wire, conn->wire.max + writing_bytes(conn));
    }
    conn->loop->out_bytes += (int64_t)writing_bytes(conn);
    conn->write = NULL;
    conn->sent = true;
    nv_buf_deinit(&write->bytes);
    free(write);
    if (status < 0) {
        nv_conn_end(conn, uv_strerror(status));
        return;
    }
    nv_conn_wake(conn);
}

/* The socket took only a part: the rest goes with a request of its own, and what comes after waits for it. */
static const char *write_later(nv_conn *conn)
{
    nv_write *write = nv_malloc(sizeof(*write));
    nv_buf_init(&write->bytes, SIZE_MAX);
    nv_err err = nv_buf_append(&write->bytes, nv_buf_span(&conn->wire));
    if (err != NV_OK) {
        free(write);
        return "out of memory for its output";
    }
    nv_buf_clear(&conn->wire);
    conn->write = write;
    if (!conn->top) {
        nv_buf_set_max(&conn->wire, conn->wire.max - writing_bytes(conn));
    }
    uv_buf_t buf = uv_buf_init((char *)write->bytes.data, (unsigned)writing_bytes(conn));
    int rc = uv_write(&write->req, (uv_stream_t *)&conn->tcp, &buf, 1, on_written);
    if (rc < 0) {
        nv_buf_deinit(&write->bytes);
        free(write);
        conn->write = NULL;
        return uv_strerror(rc);
    }
    return NULL;
}

static const char *write_now(nv_conn *conn)
{
    nv_span bytes = nv_buf_span(&conn->wire);
    uv_buf_t buf = uv_buf_init((char *)(size_t)bytes.ptr, (unsigned)bytes.len);
    int rc = uv_try_write((uv_stream_t *)&conn->tcp, &buf, 1);
    if (rc < 0 && rc != UV_EAGAIN) {
        return uv_strerror(rc);
    }
    if (rc > 0) {
        conn->loop->out_bytes += rc;
        conn->sent = true;
        nv_buf_consume(&conn->wire, (size_t)rc);
    }
    return nv_buf_len(&conn->wire) ? write_later(conn) : NULL;
}

/* Layers encode into one buffer of the loop that goes from connection to connection. */
static void borrow_spare(nv_conn *conn)
{
    nv_buf *spare = &conn->loop->spare_out;
    if (!conn->wire.data && spare->data) {
        conn->wire.data = spare->data;
        conn->wire.capacity = spare->capacity;
        *spare = (nv_buf){.max = 0};
    }
}

static void return_spare(nv_conn *conn)
{
    nv_buf *spare = &conn->loop->spare_out;
    if (nv_buf_len(&conn->wire) > 0 || !conn->wire.data) {
        return;
    }
    if (conn->top && !spare->data && conn->wire.capacity <= SPARE_MAX) {
        *spare = (nv_buf){.data = conn->wire.data, .capacity = conn->wire.capacity};
        conn->wire.data = NULL;
        conn->wire.capacity = 0;
    }
    nv_buf_deinit(&conn->wire);
}

const char *nv_conn_encode(nv_conn *conn)
{
    for (nv_layer *layer = conn->top; layer; layer = layer->below) {
        if (nv_buf_len(&layer->out) > 0) {
            const char *why = layer->ops->output(layer);
            if (why) {
                return why;
            }
            if (nv_buf_len(&layer->out) == 0) {
                nv_buf_deinit(&layer->out);
            }
        }
    }
    return NULL;
}

/* One write as a rule; more only when the layers had to stop for want of room. */
const char *nv_conn_flush(nv_conn *conn)
{
    const char *why = NULL;
    if (conn->top) {
        borrow_spare(conn);
    }
    for (;;) {
        why = nv_conn_encode(conn);
        if (why || conn->write || nv_buf_len(&conn->wire) == 0) {
            break;
        }
        why = write_now(conn);
        if (why) {
            break;
        }
    }
    return_spare(conn);
    return why;
}
