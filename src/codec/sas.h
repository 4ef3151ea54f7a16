/**
 * Shared access signatures, the one verifier of every protocol (mqtt.md section 3.1, http-hub.md section 2.1):
 *   "SharedAccessSignature" SP field *( "&" field ), fields sr, sig, se, skn in any order
 *   sig = base64( HMAC-SHA256( key, sr-as-sent LF se-as-sent ) )
 *
 * Parsing, resource, expiry and signature are separate steps, because the key is found between the first and the
 * last. Every refusal has its own reason, for the log and `nave doctor`; the peer learns none of them.
 * Pure: no allocation, no clock; thread: any.
 */
#ifndef NV_CODEC_SAS_H
#define NV_CODEC_SAS_H

#include "base/attrs.h"
#include "base/cursor.h"

#define NV_SAS_SIGNATURE_BYTES 32
#define NV_SAS_TEXT_MAX_BYTES  1024 /* decoded sr and skn together */
#define NV_SAS_KEY_MIN_BYTES   16   /* decoded key, http-hub.md section 2.2 */
#define NV_SAS_KEY_MAX_BYTES   64

/** Reasons, with the text for people. Append only: names appear in logs and metrics. */
#define NV_SAS_FAULT_TABLE(X)                                                                                          \
    X(NONE, "none", "the token is good")                                                                               \
    X(NOT_A_TOKEN, "not_a_token", "the credential does not start with `SharedAccessSignature ` and one space")         \
    X(SR_MISSING, "sr_missing", "the token has no sr field (the resource it opens)")                                   \
    X(SR_MALFORMED, "sr_malformed", "the sr field is not percent-encoded text")                                        \
    X(SIG_MISSING, "sig_missing", "the token has no sig field (the signature)")                                        \
    X(SIG_MALFORMED, "sig_malformed", "the sig field is not the percent-encoded base64 of 32 bytes")                   \
    X(SE_MISSING, "se_missing", "the token has no se field (the expiry)")                                              \
    X(SE_MALFORMED, "se_malformed", "the se field is not a decimal number of seconds since 1970")                      \
    X(SKN_MALFORMED, "skn_malformed", "the skn field is not percent-encoded text")                                     \
    X(FIELD_TWICE, "field_twice", "a field of the token appears twice")                                                \
    X(TOO_LONG, "too_long", "the token is longer than any host, device and policy name can make it")                   \
    X(EXPIRED, "expired", "the token has expired")                                                                     \
    X(OTHER_HUB, "other_hub", "sr names another hub")                                                                  \
    X(OTHER_DEVICE, "other_device", "sr names another device")                                                         \
    X(OTHER_MODULE, "other_module", "sr names another module, or a module where the device itself connects")           \
    X(OTHER_RESOURCE, "other_resource", "sr does not cover what was asked for")                                        \
    X(TOO_WIDE, "too_wide", "sr names a device where its module connects: only a policy (skn) may open more than one") \
    X(SIGNATURE, "signature", "the signature does not fit: wrong key, or sr and se changed after signing")

typedef enum nv_sas_fault {
#define X(id, name, text) NV_SAS_##id,
    NV_SAS_FAULT_TABLE(X)
#undef X
} nv_sas_fault;

/** "other_device", for logs and metrics. Static storage, never NULL. */
const char *nv_sas_fault_name(nv_sas_fault fault);
/** One sentence without a period. Static storage, never NULL. */
const char *nv_sas_fault_text(nv_sas_fault fault);

/** A parsed token. Not copyable: spans point into the token and into the structure. nv_wipe() it after use. */
typedef struct nv_sas {
    nv_span sr_raw;         /* in the token, exactly as sent: the text that was signed */
    nv_span se_raw;         /* in the token */
    nv_span resource;       /* sr percent-decoded once, a scheme such as `sb://` dropped */
    nv_span policy;         /* skn decoded; empty = the key of the device or module */
    int64_t expires_unix_s; /* se; a number beyond int64 counts as its maximum */
    uint8_t signature[NV_SAS_SIGNATURE_BYTES];
    uint8_t _text[NV_SAS_TEXT_MAX_BYTES];
} nv_sas;

/**
 * Parse @p token. Field names and scheme compare without case; unknown fields are ignored; sig may be encoded in
 * either case or not at all, `+` stays `+`.
 * @return NV_SAS_NONE or what is malformed; @p out then holds what was understood, for nv_sas_explain()
 */
NV_NODISCARD nv_sas_fault nv_sas_parse(nv_span token, nv_sas *out);

/** EXPIRED when se <= now - skew. @param skew_s 0 unless configured */
NV_NODISCARD nv_sas_fault nv_sas_check_expiry(const nv_sas *sas, int64_t now_unix_s, int64_t skew_s);

/** The names by which the hub is known; all spans the caller's. */
typedef struct nv_sas_hosts {
    const nv_span *names;
    size_t count;
} nv_sas_hosts;

/**
 * Does the resource open the device, or the module when @p module is not empty? The host compares without case to any
 * alias, with or without `:port`. Without a policy, sr names the entity (text behind it is forgiven, mqtt.md 3.1), ids
 * without case and percent-encoded or not since the entity's own key is the proof, or none at all (`{host}`,
 * `{host}/devices`: http-hub.md 2.1; Go's iothub signs its device tokens so); with a policy, any whole-segment prefix
 * will do, ids byte for byte.
 */
NV_NODISCARD nv_sas_fault nv_sas_check_entity(const nv_sas *sas, nv_sas_hosts hosts, nv_span device, nv_span module);

/**
 * Does the resource cover @p path, a percent-encoded request path such as `/devices/d%231`? Whole segments; host and
 * fixed segments without case, ids (the second segment, and what follows `modules`) byte for byte. An empty path is the
 * whole hub. For service requests, whose tokens are signed by a policy.
 */
NV_NODISCARD nv_sas_fault nv_sas_check_path(const nv_sas *sas, nv_sas_hosts hosts, nv_span path);

/** Compare the signature, in constant time, with the one that @p key (decoded bytes) makes. SIGNATURE or NONE. */
NV_NODISCARD nv_sas_fault nv_sas_verify(const nv_sas *sas, nv_span key);

/**
 * Write for people what is wrong and how to cure it, e.g. "the token expired 540 s ago (se=1700000000): ...", without
 * signature or key; at most @p size bytes, NUL-terminated. @return length without the NUL
 */
size_t nv_sas_explain(const nv_sas *sas, nv_sas_fault fault, int64_t now_unix_s, char *out, size_t size);

/**
 * Append a whole token: `SharedAccessSignature sr=..&sig=..&se=..[&skn=..]`.
 * @param resource        not encoded, e.g. `host/devices/d`
 * @param policy          empty for the key of a device or module
 * @param key             decoded bytes
 * @param expires_unix_s  not negative
 */
void nv_sas_write(nv_writer *out, nv_span resource, int64_t expires_unix_s, nv_span policy, nv_span key);

/** HMAC-SHA256 over the concatenation of @p parts. Any key length. About 0.3 us for a token; nothing is allocated. */
void nv_hmac_sha256(nv_span key, const nv_span *parts, size_t count, uint8_t out[NV_SAS_SIGNATURE_BYTES]);

#endif
