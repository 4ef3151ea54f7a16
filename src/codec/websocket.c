#include "codec/websocket.h"

#include "codec/base64.h"
#include "codec/http.h"

#include <openssl/evp.h>

#define KEY_BYTES  16u
#define SHA1_BYTES 20u

nv_err nv_websocket_accept(nv_span key, char out[NV_WEBSOCKET_ACCEPT_SIZE])
{
    static const nv_span guid = NV_SPAN_LIT("258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    uint8_t bytes[KEY_BYTES];
    size_t len = 0;
    if (nv_base64_decode(key, bytes, sizeof(bytes), &len) != NV_OK || len != KEY_BYTES) {
        return NV_E_SYNTAX;
    }
    uint8_t text[NV_BASE64_LEN(KEY_BYTES) + 36];
    nv_writer joined = nv_writer_of(text, sizeof(text));
    nv_write_span(&joined, key);
    nv_write_span(&joined, guid);
    uint8_t hash[SHA1_BYTES];
    if (EVP_Digest(text, nv_writer_len(&joined), hash, NULL, EVP_sha1(), NULL) != 1) {
        return NV_E_UNSUPPORTED; /* an OpenSSL without SHA-1 */
    }
    nv_writer w = nv_writer_of(out, NV_WEBSOCKET_ACCEPT_SIZE - 1);
    nv_base64_encode(nv_span_of(hash, sizeof(hash)), &w);
    out[nv_writer_len(&w)] = '\0';
    return NV_OK;
}

/* ---- of a client ---- */

void nv_websocket_make_key(nv_rng *rng, char out[NV_WEBSOCKET_KEY_SIZE])
{
    uint8_t bytes[KEY_BYTES];
    nv_rng_fill(rng, bytes, sizeof(bytes));
    nv_writer w = nv_writer_of(out, NV_WEBSOCKET_KEY_SIZE - 1);
    nv_base64_encode(nv_span_of(bytes, sizeof(bytes)), &w);
    out[nv_writer_len(&w)] = '\0';
}

static void put_header(nv_writer *out, const char *name, nv_span value)
{
    nv_write_span(out, nv_span_str(name));
    nv_write_span(out, nv_span_str(": "));
    nv_write_span(out, value);
    nv_write_span(out, nv_span_str("\r\n"));
}

void nv_websocket_write_request(nv_writer *out, const nv_websocket_offer *offer)
{
    nv_write_span(out, nv_span_str("GET "));
    nv_write_span(out, offer->path);
    nv_write_span(out, nv_span_str(" HTTP/1.1\r\n"));
    put_header(out, "Host", offer->host);
    put_header(out, "Upgrade", nv_span_str("websocket"));
    put_header(out, "Connection", nv_span_str("Upgrade"));
    put_header(out, "Sec-WebSocket-Key", offer->key);
    put_header(out, "Sec-WebSocket-Version", nv_span_str("13"));
    put_header(out, "Sec-WebSocket-Protocol", offer->protocol);
    nv_write_span(out, nv_span_str("\r\n"));
}

/* Up to CR LF, which are skipped. */
static nv_err read_line(nv_span bytes, size_t *at, nv_span *line)
{
    nv_span rest = nv_span_skip(bytes, *at);
    size_t end = nv_span_find(rest, '\n');
    if (end == rest.len) {
        return NV_E_MORE;
    }
    if (end == 0 || rest.ptr[end - 1] != '\r') {
        return NV_E_SYNTAX;
    }
    *line = nv_span_first(rest, end - 1);
    *at += end + 1;
    return NV_OK;
}

/* "HTTP/1.1 101 Switching Protocols"; the words may be absent. */
static bool read_status(nv_span line, unsigned *status)
{
    static const nv_span version = NV_SPAN_LIT("HTTP/1.1 ");
    nv_span rest = nv_span_skip(line, version.len);
    uint64_t number = 0;
    if (!nv_span_starts_with(line, version) || !nv_span_to_u64(nv_span_first(rest, 3), &number) || number < 100 ||
        (rest.len > 3 && rest.ptr[3] != ' ')) {
        return false;
    }
    *status = (unsigned)number;
    return true;
}

static bool lists(nv_span list, const char *token)
{
    nv_span element;
    while (nv_http_next_element(&list, &element)) {
        if (nv_span_eq_nocase(element, nv_span_str(token))) {
            return true;
        }
    }
    return false;
}

/* What [RFC 6455 4.1] demands of the headers. */
typedef struct found {
    bool upgrade;
    bool connection;
    bool accept;
    bool protocol;
} found;

/* @return NULL, or what is wrong */
static const char *take_header(const nv_websocket_offer *offer, nv_span line, found *f)
{
    size_t colon = nv_span_find(line, ':');
    nv_span name = nv_span_first(line, colon);
    nv_span value = nv_span_trim(nv_span_skip(line, colon + 1), NV_HTTP_SPACES);
    char accept[NV_WEBSOCKET_ACCEPT_SIZE];
    if (colon == 0 || colon == line.len) {
        return "a line that is no header";
    }
    if (nv_span_eq_nocase(name, nv_span_str("upgrade"))) {
        f->upgrade = nv_span_eq_nocase(value, nv_span_str("websocket"));
    } else if (nv_span_eq_nocase(name, nv_span_str("connection"))) {
        f->connection = f->connection || lists(value, "upgrade");
    } else if (nv_span_eq_nocase(name, nv_span_str("sec-websocket-accept"))) {
        f->accept = nv_websocket_accept(offer->key, accept) == NV_OK && nv_span_eq_str(value, accept);
        return f->accept ? NULL : "it answers another key";
    } else if (nv_span_eq_nocase(name, nv_span_str("sec-websocket-protocol"))) {
        f->protocol = nv_span_eq_nocase(value, offer->protocol);
        return f->protocol ? NULL : "it speaks another protocol";
    } else if (nv_span_eq_nocase(name, nv_span_str("sec-websocket-extensions"))) {
        return "it uses an extension that was not offered";
    }
    return NULL;
}

static nv_err bad_answer(const char **why, const char *text)
{
    *why = text;
    return NV_E_SYNTAX;
}

nv_err nv_websocket_read_answer(const nv_websocket_offer *offer, nv_span bytes, size_t *taken, unsigned *status,
                                const char **why)
{
    nv_span line = NV_SPAN_EMPTY;
    found f = {.upgrade = false};
    *taken = 0;
    *status = 0;
    nv_err err = read_line(bytes, taken, &line);
    if (err == NV_OK && !read_status(line, status)) {
        err = NV_E_SYNTAX;
    }
    if (err != NV_OK) {
        return err == NV_E_MORE ? err : bad_answer(why, "it is not HTTP/1.1");
    }
    if (*status != 101) {
        *why = "it does not change to WebSocket";
        return NV_E_UNSUPPORTED;
    }
    while ((err = read_line(bytes, taken, &line)) == NV_OK && line.len > 0) {
        const char *wrong = take_header(offer, line, &f);
        if (wrong) {
            return bad_answer(why, wrong);
        }
    }
    if (err != NV_OK) {
        return err == NV_E_MORE ? err : bad_answer(why, "a line without an end");
    }
    bool whole = f.upgrade && f.connection && f.accept && f.protocol;
    return whole ? NV_OK : bad_answer(why, "its headers do not agree to the change");
}
