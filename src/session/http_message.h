/**
 * Messages as HTTP headers and JSON (http-hub.md sections 17 and 18): names of properties to ids and back. Pure.
 */
#ifndef NV_SESSION_HTTP_MESSAGE_H
#define NV_SESSION_HTTP_MESSAGE_H

#include "codec/http.h"
#include "core/c2d.h"

/** "application/vnd.microsoft.iothub.json", with or without parameters: the body is a batch. */
bool nv_http_is_batch(const nv_http_request *request);

/**
 * The properties that the headers of a message name, as an encoded section. Names compare in any case; an
 * application's names are kept as they came. @return NV_E_LIMIT too many; NV_E_TOO_BIG @p out is full
 */
NV_NODISCARD nv_err nv_http_read_properties(const nv_http_request *request, nv_buf *out);
/** One property of a batch, named as a header would be. A name without a known prefix is the application's. */
NV_NODISCARD nv_err nv_http_read_property(nv_span name, nv_span value, nv_buf *out);

/**
 * The headers of a message that was taken, each with CRLF. Names in lower case as the C SDK needs them; what cannot
 * stand in a header (control characters, and in names more than letters, digits and `!#$&'*+-.^_|~`) is
 * percent-encoded.
 * @param default_ttl_us  a message that lives as long as that says no expiry: its sender gave none
 */
NV_NODISCARD nv_err nv_http_write_properties(const nv_c2d_message *message, int64_t default_ttl_us, nv_buf *out);

/** "2024-05-01T10:20:30[.fraction][Z]" as wall time. @return false: something else */
bool nv_http_read_time(nv_span text, int64_t *wall_us);

#endif
