/**
 * The MQTT user name of a device or module (mqtt.md section 2.2):
 *   host "/" device [ "/" module ] [ "/" [ "?" ] [ "&" ] key=value *( "&" key=value ) ]
 * in every form seen on the wire. Pure: no allocation; thread: any.
 */
#ifndef NV_CODEC_USERNAME_H
#define NV_CODEC_USERNAME_H

#include "base/attrs.h"
#include "base/err.h"
#include "base/span.h"

/**
 * Spans point into the user name or the caller's scratch memory. Values of the query are percent-decoded; an empty
 * span means the key was absent or had no value. Nothing is said about whether the ids are valid or known.
 */
typedef struct nv_username {
    nv_span host;        /* as sent: compare without case against the hub's aliases; may carry ":port" */
    nv_span device;      /* as sent, never decoded */
    nv_span module;      /* as sent, never decoded; empty for a device */
    nv_span api_version; /* "api-version" */
    nv_span client_type; /* "DeviceClientType" */
    nv_span model_id;    /* "model-id" */
    nv_span auth_chain;  /* "auth-chain" */
    bool has_auth_chain; /* the key was there, whatever its value */
} nv_username;

/**
 * Parse @p text. Unknown keys are ignored, of equal keys the first wins, a malformed escape stands for itself.
 * @param client_id  of the same CONNECT: without a `/` in it, a third segment with `=` is a query and not a module
 * @param scratch    takes decoded values; @p scratch_len of text.len bytes always suffices
 * @param why        static text of the refusal; set on failure only
 * @return NV_E_SYNTAX not of this grammar; NV_E_TOO_BIG scratch is too small
 */
NV_NODISCARD nv_err nv_username_parse(nv_span text, nv_span client_id, uint8_t *scratch, size_t scratch_len,
                                      nv_username *out, const char **why);

/** True when @p client_id is `{device}` or `{device}/{module}` byte for byte (mqtt.md section 2.1). */
bool nv_username_matches_client_id(const nv_username *name, nv_span client_id);

#endif
