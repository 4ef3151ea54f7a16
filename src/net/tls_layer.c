/*
 * TLS as a layer. OpenSSL reads from the span that was just received and writes to the buffer below, through a BIO that
 * copies nothing of its own; what it decrypts goes to the loop's second buffer and from there to the session. Between
 * calls OpenSSL holds no buffers (SSL_free_buffers()) and neither do we.
 *
 * One BIO serves all connections of a loop, since only one of them is inside OpenSSL at a time: begin() says which. A
 * BIO each would cost 200 bytes a connection. OpenSSL pushes a buffering BIO in front of it during a handshake and pops
 * it afterwards; the link back that this leaves in ours is never followed.
 */
#include "base/alloc.h"
#include "base/diag.h"
#include "base/metrics.h"
#include "net/dial.h"
#include "net/net_impl.h"
#include "net/tls_impl.h"

#include <assert.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define RECORD_SIZE ((size_t)16 * 1024)

typedef struct tls_layer {
    nv_layer layer;
    SSL *ssl;
    bool established;
    bool failed;
} tls_layer;

static tls_layer *tls_of(nv_layer *layer)
{
    return nv_container_of(layer, tls_layer, layer);
}

/* ---- the BIO ---- */

static int bio_read(BIO *bio, char *out, size_t len, size_t *taken)
{
    nv_loop *loop = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    nv_span some = nv_span_first(loop->tls_in, len);
    if (some.len == 0) {
        BIO_set_retry_read(bio);
        return 0;
    }
    memcpy(out, some.ptr, some.len);
    loop->tls_in = nv_span_skip(loop->tls_in, some.len);
    *taken = some.len;
    return 1;
}

static int bio_write(BIO *bio, const char *bytes, size_t len, size_t *written)
{
    nv_loop *loop = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (nv_buf_append(nv_layer_below(loop->tls_now), nv_span_of(bytes, len)) != NV_OK) {
        return 0; /* output() keeps within the bound, so this is a peer that makes us talk and does not listen */
    }
    *written = len;
    return 1;
}

static long bio_ctrl(BIO *bio, int command, long number, void *ptr)
{
    (void)bio;
    (void)number;
    (void)ptr;
    return command == BIO_CTRL_FLUSH;
}

static int bio_create(BIO *bio)
{
    BIO_set_init(bio, 1);
    return 1;
}

static BIO_METHOD *bio_method;
static pthread_once_t bio_once = PTHREAD_ONCE_INIT;

static void make_bio_method(void)
{
    bio_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "nv_conn");
    if (!bio_method) {
        abort();
    }
    (void)BIO_meth_set_read_ex(bio_method, bio_read);
    (void)BIO_meth_set_write_ex(bio_method, bio_write);
    (void)BIO_meth_set_ctrl(bio_method, bio_ctrl);
    (void)BIO_meth_set_create(bio_method, bio_create);
}

/* @return the BIO of the loop, one reference more, or NULL */
static BIO *loop_bio(nv_loop *loop)
{
    (void)pthread_once(&bio_once, make_bio_method);
    if (!loop->tls_bio) {
        loop->tls_bio = BIO_new(bio_method);
        if (!loop->tls_bio) {
            return NULL;
        }
        BIO_set_data(loop->tls_bio, loop);
    }
    (void)BIO_up_ref(loop->tls_bio);
    return loop->tls_bio;
}

void nv_tls_loop_deinit(nv_loop *loop)
{
    (void)BIO_free(loop->tls_bio);
}

/* Before every call of OpenSSL that may read or write: who it is, and what was received. */
static void begin(tls_layer *tls, nv_span in)
{
    nv_loop *loop = tls->layer.conn->loop;
    loop->tls_now = &tls->layer;
    loop->tls_in = in;
    ERR_clear_error();
}

/* ---- failure, in words ---- */

static bool is_client(const tls_layer *tls)
{
    return tls->layer.conn->origin->tls_client != NULL;
}

static void say_failed(nv_conn *conn, const char *text)
{
    nv_metric_add(NV_M_TLS_FAILED, 1);
    if (nv_loop_may_say(conn->loop)) {
        nv_subject subject = nv_conn_subject(conn);
        nv_diag(NV_LEVEL_WARN, "tls", &subject, "%s", text);
    }
}

static void explain_client(tls_layer *tls, unsigned long error, const char *cause, char *out, size_t size)
{
    nv_origin *origin = tls->layer.conn->origin;
    long verified = SSL_get_verify_result(tls->ssl);
    const char *ca_file = nv_tls_client_ca_file(origin->tls_client);
    if (verified != X509_V_OK) {
        (void)snprintf(out, size, "the certificate of %s is not accepted: %s (CA file %s)", nv_dial_server_name(origin),
                       X509_verify_cert_error_string(verified), ca_file ? ca_file : "of the system");
        return;
    }
    const char *reason = error ? ERR_reason_error_string(error) : NULL;
    (void)snprintf(out, size, "TLS handshake failed: %s", reason ? reason : cause);
}

static void say_handshake_failed(tls_layer *tls, unsigned long error, const char *cause)
{
    nv_conn *conn = tls->layer.conn;
    char text[NV_NET_WHY_SIZE];
    if (is_client(tls)) {
        explain_client(tls, error, cause, text, sizeof(text));
        nv_dial_explain(conn->origin, text);
        return;
    }
    nv_tls_explain(error, cause, nv_tls_server_ca_file(conn->origin->tls_server), text, sizeof(text));
    say_failed(conn, text);
}

static const char *fail(tls_layer *tls)
{
    unsigned long error = ERR_peek_error();
    bool handshake = !tls->established;
    tls->failed = true;
    nv_buf_deinit(&tls->layer.out);
    if (handshake) {
        say_handshake_failed(tls, error, "TLS handshake failed");
    } else {
        const char *reason = ERR_reason_error_string(error);
        nv_subject subject = nv_conn_subject(tls->layer.conn);
        nv_diag(NV_LEVEL_INFO, "tls", &subject, "the encrypted connection broke: %s",
                reason ? reason : "no reason given");
    }
    ERR_clear_error();
    return handshake ? "TLS handshake failed" : "TLS failed";
}

/* ---- the peer's certificate ---- */

static int64_t time_us(const ASN1_TIME *time)
{
    struct tm tm;
    return ASN1_TIME_to_tm(time, &tm) == 1 ? (int64_t)timegm(&tm) * NV_US_PER_S : 0;
}

/* @return the UTF-8 text of the last common name, to be freed by OPENSSL_free(), or NULL */
static uint8_t *common_name(X509 *certificate, size_t *len)
{
    X509_NAME *subject = X509_get_subject_name(certificate);
    int at = -1;
    for (int next = 0; (next = X509_NAME_get_index_by_NID(subject, NID_commonName, at)) >= 0;) {
        at = next;
    }
    uint8_t *text = NULL;
    int n = at < 0 ? -1 : ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
    *len = n < 0 ? 0 : (size_t)n;
    return n < 0 ? NULL : text;
}

static const char *fill_peer(nv_conn *conn, X509 *certificate)
{
    int der_len = i2d_X509(certificate, NULL);
    if (der_len <= 0) {
        return "the peer's certificate cannot be read";
    }
    size_t cn_len = 0;
    uint8_t *cn = common_name(certificate, &cn_len);
    /* Bounded by the length of the chain we accept. */
    nv_peer_certificate *own = nv_malloc(sizeof(*own) + (size_t)der_len + cn_len);
    uint8_t *memory = (uint8_t *)(own + 1);
    uint8_t *end = memory;
    (void)i2d_X509(certificate, &end);
    if (cn_len) {
        memcpy(memory + der_len, cn, cn_len);
    }
    OPENSSL_free(cn);
    own->der = nv_span_of(memory, (size_t)der_len);
    own->cn = nv_span_of(memory + der_len, cn_len);
    own->not_before_us = time_us(X509_get0_notBefore(certificate));
    own->not_after_us = time_us(X509_get0_notAfter(certificate));
    if (EVP_Digest(memory, (size_t)der_len, own->sha1, NULL, EVP_sha1(), NULL) != 1 ||
        EVP_Digest(memory, (size_t)der_len, own->sha256, NULL, EVP_sha256(), NULL) != 1) {
        free(own);
        return "the peer's certificate cannot be hashed";
    }
    conn->peer.certificate = own; /* freed with the connection */
    return NULL;
}

/* ---- handshake and bytes ---- */

static void forget_key(EVP_PKEY *key)
{
    (void)EVP_PKEY_set_type(key, EVP_PKEY_NONE); /* "unsupported algorithm": there is none any more */
    EVP_PKEY_free(key);
    ERR_clear_error();
}

/*
 * OpenSSL keeps the ephemeral keys of both sides as long as the connection, and nobody needs them after the handshake:
 * 450 bytes a connection, and a secret that forward secrecy wants gone. It lends them, so they are emptied in place.
 */
static void forget_ephemeral_keys(SSL *ssl)
{
    EVP_PKEY *key = NULL;
    if (SSL_get_tmp_key(ssl, &key) == 1) {
        forget_key(key);
    }
    if (SSL_get_peer_tmp_key(ssl, &key) == 1) {
        forget_key(key);
    }
}

static const char *finish_handshake(tls_layer *tls)
{
    nv_conn *conn = tls->layer.conn;
    tls->established = true;
    forget_ephemeral_keys(tls->ssl);
    nv_loop_trim_later(conn->loop, 1);
    if (!is_client(tls)) {
        nv_metric_add(NV_M_TLS_HANDSHAKES, 1);
        nv_metric_add(NV_M_TLS_RESUMED, SSL_session_reused(tls->ssl) ? 1 : 0);
        X509 *certificate = SSL_get0_peer_certificate(tls->ssl); /* of the session, so on a resumed one too */
        const char *why = certificate ? fill_peer(conn, certificate) : NULL;
        if (why) {
            return why;
        }
        nv_tls_server_forget_session(conn->origin->tls_server, tls->ssl);
    }
    const unsigned char *alpn = NULL;
    unsigned alpn_len = 0;
    SSL_get0_alpn_selected(tls->ssl, &alpn, &alpn_len);
    return nv_conn_ready(conn, nv_span_of(alpn, alpn_len));
}

static const char *handshake(tls_layer *tls)
{
    int rc = SSL_do_handshake(tls->ssl);
    nv_conn_wake(tls->layer.conn);
    if (rc == 1) {
        return finish_handshake(tls);
    }
    return SSL_get_error(tls->ssl, rc) == SSL_ERROR_WANT_READ ? NULL : fail(tls);
}

/* Fill the window as far as what was received allows. @return false when there is no more */
static bool decrypt(tls_layer *tls, const nv_window *window, size_t *len, const char **why)
{
    while (*len < window->room) {
        size_t some = 0;
        if (SSL_read_ex(tls->ssl, window->at + *len, window->room - *len, &some) == 1) {
            *len += some;
            continue;
        }
        int error = SSL_get_error(tls->ssl, 0);
        if (error == SSL_ERROR_ZERO_RETURN) {
            tls->layer.conn->eof = true; /* the peer's close_notify */
            nv_conn_wake(tls->layer.conn);
        } else if (error != SSL_ERROR_WANT_READ) {
            *why = fail(tls);
        }
        return false;
    }
    return true;
}

static const char *take_records(tls_layer *tls)
{
    nv_layer *layer = &tls->layer;
    nv_conn *conn = layer->conn;
    const char *why = tls->established ? NULL : handshake(tls);
    if (why || !tls->established) {
        return why;
    }
    for (bool more = true; more && !why;) {
        nv_window window = nv_layer_window(layer, conn->loop->plain_buf);
        if (window.room == 0) {
            return "out of memory for its input";
        }
        size_t len = 0;
        more = decrypt(tls, &window, &len, &why);
        if (len > 0) {
            const char *refused = nv_layer_up(layer, &window, len);
            why = why ? why : refused;
        }
    }
    if (nv_buf_len(nv_layer_below(layer)) > 0) {
        nv_conn_wake(conn); /* OpenSSL had something to say: a key update, an alert */
    }
    return why;
}

static const char *tls_input(nv_layer *layer, nv_span bytes)
{
    tls_layer *tls = tls_of(layer);
    begin(tls, bytes);
    const char *why = take_records(tls);
    (void)SSL_free_buffers(tls->ssl); /* those that are empty */
    return why;
}

static const char *write_records(tls_layer *tls)
{
    nv_layer *layer = &tls->layer;
    if (tls->failed) {
        nv_buf_clear(&layer->out);
    }
    for (size_t room = nv_conn_room(layer->conn); room > 0 && nv_buf_len(&layer->out) > 0;
         room = nv_conn_room(layer->conn)) {
        /* Whole records, so that the last one does not shrink to the last byte of room. */
        room = (room + RECORD_SIZE - 1) / RECORD_SIZE * RECORD_SIZE;
        nv_span bytes = nv_span_first(nv_buf_span(&layer->out), room);
        size_t taken = 0;
        begin(tls, NV_SPAN_EMPTY);
        if (SSL_write_ex(tls->ssl, bytes.ptr, bytes.len, &taken) != 1) {
            return SSL_get_error(tls->ssl, 0) == SSL_ERROR_WANT_READ ? NULL : fail(tls);
        }
        nv_buf_consume(&layer->out, taken);
    }
    return NULL;
}

static const char *tls_output(nv_layer *layer)
{
    tls_layer *tls = tls_of(layer);
    const char *why = write_records(tls);
    (void)SSL_free_buffers(tls->ssl);
    return why;
}

static void tls_goodbye(nv_layer *layer)
{
    tls_layer *tls = tls_of(layer);
    /* To a peer that left without a goodbye of its own we need not send ours. */
    bool gone = layer->conn->eof && (SSL_get_shutdown(tls->ssl) & SSL_RECEIVED_SHUTDOWN) == 0;
    if (tls->established && !tls->failed && !gone) {
        begin(tls, NV_SPAN_EMPTY);
        (void)SSL_shutdown(tls->ssl);
        (void)SSL_free_buffers(tls->ssl);
        ERR_clear_error();
    }
}

static void tls_abandoned(nv_layer *layer, const char *why)
{
    tls_layer *tls = tls_of(layer);
    if (!tls->established && !tls->failed) {
        tls->failed = true;
        say_handshake_failed(tls, 0, why);
    }
}

static void tls_free(nv_layer *layer)
{
    tls_layer *tls = tls_of(layer);
    if (tls->established && !tls->failed) {
        /* A connection that ended without a goodbye is no reason to forget the session. */
        SSL_set_shutdown(tls->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    }
    SSL_free(tls->ssl);
    free(tls);
}

static const nv_layer_ops tls_ops = {tls_input, tls_output, tls_goodbye, tls_abandoned, tls_free};

static const char *push(nv_conn *conn, SSL *ssl)
{
    BIO *bio = ssl ? loop_bio(conn->loop) : NULL;
    if (!bio) {
        SSL_free(ssl);
        return "out of memory for TLS";
    }
    tls_layer *tls = nv_calloc(1, sizeof(*tls));
    tls->layer.ops = &tls_ops;
    tls->ssl = ssl;
    SSL_set_bio(ssl, bio, bio);
    nv_conn_push_layer(conn, &tls->layer);
    return NULL;
}

nv_span nv_tls_layer_choose_alpn(nv_span offered)
{
    nv_origin *origin = nv_loop_current()->tls_now->conn->origin;
    return origin->choose_alpn(origin, offered);
}

/* What an accepted connection begins with, when it is not a handshake. NULL: it may be one */
static const char *plain_text_kind(nv_span bytes)
{
    uint8_t first = bytes.ptr[0];
    if (first == 0x16 || (first & 0x80)) { /* a handshake record, or a ClientHello in SSL 2 clothes */
        return NULL;
    }
    if (first == 0x10) {
        return "MQTT";
    }
    if (nv_span_starts_with(bytes, nv_span_str("AMQP"))) {
        return "AMQP";
    }
    return first >= 'A' && first <= 'Z' ? "HTTP" : "bytes";
}

/* A person with a browser or curl sees why; the others have no word for it. */
static void answer_plain(nv_conn *conn, const char *kind)
{
    static const char answer[] = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n"
                                 "Content-Length: 56\r\n\r\nThis port speaks TLS: write https:// instead of http://\n";
    if (strcmp(kind, "HTTP") == 0 && nv_buf_append_str(&conn->wire, answer) != NV_OK) {
        nv_buf_clear(&conn->wire); /* then without a word */
    }
}

const char *nv_tls_layer_server(nv_conn *conn, nv_span first_bytes)
{
    const char *kind = plain_text_kind(first_bytes);
    if (kind) {
        char text[NV_NET_WHY_SIZE];
        (void)snprintf(text, sizeof(text), "plain %s on a TLS port: the client must use TLS", kind);
        say_failed(conn, text);
        answer_plain(conn, kind);
        return "no TLS on a TLS port";
    }
    SSL *ssl = nv_tls_server_ssl(conn->origin->tls_server);
    if (ssl) {
        SSL_set_accept_state(ssl);
    }
    return push(conn, ssl);
}

const char *nv_tls_layer_client(nv_conn *conn)
{
    nv_origin *origin = conn->origin;
    SSL *ssl = nv_tls_client_ssl(origin->tls_client, nv_dial_server_name(origin), nv_dial_alpn(origin));
    if (ssl) {
        SSL_set_connect_state(ssl);
    }
    const char *why = push(conn, ssl);
    if (why) {
        return why;
    }
    begin(tls_of(conn->top), NV_SPAN_EMPTY); /* the first layer, and the only one */
    return handshake(tls_of(conn->top));
}
