#include "codec/websocket.h"

#include "codec/base64.h"

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
