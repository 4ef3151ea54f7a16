/**
 * Why the hub said no. Each refusal has a stable name, a cause and a cure; the log, `nave doctor` and, where the
 * protocol has room, the peer get them. The last ones of each identity are kept in memory, bounded.
 */
#ifndef NV_CORE_REFUSAL_H
#define NV_CORE_REFUSAL_H

#include "base/clock.h"
#include "base/span.h"
#include "core/peer.h"

/* id, name, cause, cure */
#define NV_REFUSAL_TABLE(X)                                                                                            \
    X(NONE, "none", "", "")                                                                                            \
    X(USER_NAME, "user-name-malformed", "the MQTT user name is not {hub}/{device}[/{module}]/?api-version=...",        \
      "send the user name that the SDK or the documentation gives, beginning with the hub's host name")                \
    X(CLIENT_ID, "client-id-mismatch", "the MQTT client id does not equal the identity in the user name",              \
      "use the device id, or {device}/{module}, as client id")                                                         \
    X(HOST, "wrong-host", "the credential names another hub",                                                          \
      "use a host name of this hub, or start it with --hostname NAME")                                                 \
    X(PROTOCOL, "protocol-version", "the protocol version is not supported", "connect with MQTT 3.1.1")                \
    X(UNKNOWN_DEVICE, "unknown-identity", "no such device or module is registered", "nave device add ID")              \
    X(DISABLED, "identity-disabled", "the device is disabled", "nave device set ID --status enabled")                  \
    X(NO_CREDENTIAL, "no-credential", "neither a password nor a client certificate was presented",                     \
      "send a SAS token as password, or a client certificate")                                                         \
    X(TOKEN_MALFORMED, "token-malformed", "the SAS token cannot be parsed", "make a token with: nave sas --device ID") \
    X(TOKEN_EXPIRED, "token-expired", "the SAS token has expired", "make a new token; check both clocks")              \
    X(TOKEN_AUDIENCE, "token-audience", "the token's resource (sr) is not this identity",                              \
      "sign sr={hub}/devices/{device}[/modules/{module}]")                                                             \
    X(TOKEN_SIGNATURE, "token-signature", "the signature matches neither the primary nor the secondary key",           \
      "use the current key of the device, or of the policy that skn names, base64-decoded, and sign the sr text "      \
      "exactly "                                                                                                       \
      "as it stands in the token")                                                                                     \
    X(POLICY_UNKNOWN, "policy-unknown", "the token names a policy (skn) that does not exist",                          \
      "use a policy that `nave hub show` lists, or leave skn out for a device key")                                    \
    X(POLICY_RIGHT, "policy-right", "the policy lacks the right for this operation",                                   \
      "use a policy with that right, for example iothubowner")                                                         \
    X(AUTH_TYPE, "authentication-type", "the identity uses another kind of authentication",                            \
      "present the kind of credential that `nave device show ID` names")                                               \
    X(CERTIFICATE, "certificate-mismatch", "the client certificate is not the one registered",                         \
      "register its thumbprint: nave device set ID --thumbprint SHA256")                                               \
    X(CERTIFICATE_TIME, "certificate-time", "the client certificate is not valid now",                                 \
      "renew the certificate; check both clocks")                                                                      \
    X(STORAGE, "storage-unavailable", "the hub cannot store now", "see /healthz and the hub's log")                    \
    X(LIMIT, "limit", "a limit of the hub is reached", "see the limits table in docs/operations.md")                   \
    X(BUSY, "busy", "the hub is starting or stopping", "try again")                                                    \
    X(TAKEN_OVER, "taken-over", "another connection with the same identity took over",                                 \
      "give each device its own id; stop the second client")                                                           \
    X(REVOKED, "credential-revoked", "the identity was disabled, deleted or re-keyed while connected",                 \
      "connect again with the current credential")                                                                     \
    X(KEEP_ALIVE, "keep-alive", "nothing was received for one and a half keep-alive periods",                          \
      "send PINGREQ in time; check the network")                                                                       \
    X(SESSION_EXPIRED, "token-expired-while-connected", "the SAS token of the connection expired",                     \
      "connect again with a new token, as the SDKs do by themselves")                                                  \
    X(MALFORMED, "malformed-packet", "the peer broke the protocol",                                                    \
      "correct the client: it breaks the rule that the cause names")                                                   \
    X(QOS2, "qos2", "QoS 2 is not supported", "publish with QoS 0 or 1")                                               \
    X(TOO_BIG, "message-too-large", "the message is larger than the limit", "send at most 256 KiB")                    \
    X(TOPIC, "topic", "the topic is not one of the hub's",                                                             \
      "messages go to devices/{device}/messages/events/, twin requests to $iothub/twin/GET/?$rid=1 or "                \
      "$iothub/twin/PATCH/properties/reported/?$rid=1, answers of methods to $iothub/methods/res/200/?$rid={rid}")     \
    X(FOREIGN_TOPIC, "foreign-topic", "the topic belongs to another identity", "use the topics of the own device id")  \
    X(API_VERSION, "api-version-absent", "the feature needs an api-version in the user name",                          \
      "append /?api-version=2021-04-12 to the user name")                                                              \
    X(DEADLINE, "deadline", "the client did not say who it is in time",                                                \
      "after connecting send CONNECT (MQTT), or OPEN and a credential (AMQP), at once")                                \
    X(FAULT, "fault-injected", "a message of the device asked for this fault (AzIoTHub_FaultOperationType)",           \
      "wait until its duration is over, or turn testing.fault_injection off")                                          \
    X(SLOW_READER, "slow-reader", "the peer does not read what it asked for", "read faster, or ask for less")          \
    X(SASL, "sasl-user-malformed",                                                                                     \
      "the SASL user name is none of {device}@sas.{hub}, {device}/modules/{module}@sas.{hub}, "                        \
      "{policy}@sas.root.{hub}",                                                                                       \
      "send that user name, its ids percent-encoded, and a SAS token as password")                                     \
    X(NOT_COVERED, "not-covered", "no token or certificate of the connection opens this",                              \
      "put a token for it on $cbs first, or log in as who it belongs to")

typedef enum nv_refusal {
#define X(id, name, cause, cure) NV_REFUSAL_##id,
    NV_REFUSAL_TABLE(X)
#undef X
        NV_REFUSAL_COUNT
} nv_refusal;

typedef struct nv_refusal_info {
    const char *name;
    const char *cause;
    const char *cure;
} nv_refusal_info;

/** Static storage. */
const nv_refusal_info *nv_refusal_info_of(nv_refusal refusal);

#define NV_REFUSAL_DETAIL 160
/** One refusal as `nave doctor` shows it. */
typedef struct nv_refusal_entry {
    int64_t wall_us;
    nv_refusal refusal;
    uint32_t count; /* how often in a row */
    char protocol[8];
    char address[64];
    char detail[NV_REFUSAL_DETAIL]; /* specific: "expired 9 min 12 s ago" */
} nv_refusal_entry;

typedef struct nv_refusals nv_refusals;

nv_refusals *nv_refusals_new(int64_t identities, int64_t per_identity, uint64_t seed);
void nv_refusals_free(nv_refusals *refusals);
/** Keep one. Unknown device ids are kept too (that is what the doctor is for), within the bound. Thread: any (a lock).
 */
void nv_refusals_note(nv_refusals *refusals, nv_span device_id, nv_span module_id, const nv_refusal_entry *entry);
/** Copy the newest @p max entries of an identity, newest first. @return how many. Thread: any. */
size_t nv_refusals_list(nv_refusals *refusals, nv_span device_id, nv_span module_id, nv_refusal_entry *out, size_t max);

#endif
