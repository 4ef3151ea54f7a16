/** The handshake of WebSocket (RFC 6455 section 4). Frames are net/'s. Pure. Thread: any. */
#ifndef NV_CODEC_WEBSOCKET_H
#define NV_CODEC_WEBSOCKET_H

#include "base/attrs.h"
#include "base/err.h"
#include "base/span.h"

#define NV_WEBSOCKET_ACCEPT_SIZE 29

/**
 * What the server answers to a Sec-WebSocket-Key, NUL-terminated.
 * @return NV_E_SYNTAX  the key is not 16 bytes in base64
 */
NV_NODISCARD nv_err nv_websocket_accept(nv_span key, char out[NV_WEBSOCKET_ACCEPT_SIZE]);

#endif
