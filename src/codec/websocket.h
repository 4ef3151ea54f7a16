/** The handshake of WebSocket (RFC 6455 section 4), of both sides. Frames are net/'s. Pure. Thread: any. */
#ifndef NV_CODEC_WEBSOCKET_H
#define NV_CODEC_WEBSOCKET_H

#include "base/attrs.h"
#include "base/cursor.h"
#include "base/err.h"
#include "base/rng.h"
#include "base/span.h"

#define NV_WEBSOCKET_ACCEPT_SIZE 29

/**
 * What the server answers to a Sec-WebSocket-Key, NUL-terminated.
 * @return NV_E_SYNTAX  the key is not 16 bytes in base64
 */
NV_NODISCARD nv_err nv_websocket_accept(nv_span key, char out[NV_WEBSOCKET_ACCEPT_SIZE]);

/* ---- of a client ---- */

#define NV_WEBSOCKET_KEY_SIZE 25

/** A key to ask with: 16 bytes of @p rng in base64, NUL-terminated. */
void nv_websocket_make_key(nv_rng *rng, char out[NV_WEBSOCKET_KEY_SIZE]);

typedef struct nv_websocket_offer {
    nv_span host; /* with ":port" unless that is 443 */
    nv_span path; /* may have a query */
    nv_span protocol;
    nv_span key;
} nv_websocket_offer;

/** The whole request. */
void nv_websocket_write_request(nv_writer *out, const nv_websocket_offer *offer);

/**
 * Read the answer: its head, which is at the front of @p bytes.
 * @param taken   length of the head; frames follow
 * @param status  what it says, from the first line on; 0: nothing yet
 * @param why     static text for NV_E_SYNTAX and NV_E_UNSUPPORTED
 * @return NV_OK        the connection is a WebSocket for the protocol that was offered
 *         NV_E_MORE    more bytes are needed, as many as the caller thinks fit
 *         NV_E_UNSUPPORTED a status other than 101
 *         NV_E_SYNTAX  no answer to this offer [RFC 6455 4.1]
 */
NV_NODISCARD nv_err nv_websocket_read_answer(const nv_websocket_offer *offer, nv_span bytes, size_t *taken,
                                             unsigned *status, const char **why);

#endif
