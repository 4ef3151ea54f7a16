/**
 * Who is this, and may they? One verifier for every protocol (mqtt.md section 3, http-hub.md section 2, README
 * rulings).
 */
#ifndef NV_CORE_AUTH_H
#define NV_CORE_AUTH_H

#include "core/hub.h"
#include "core/identity.h"
#include "core/registry.h"
#include "store/record.h"

/** Rights of a shared access policy (http-hub.md section 2.2). */
enum {
    NV_RIGHT_REGISTRY_READ = 1,
    NV_RIGHT_REGISTRY_WRITE = 2, /* implies read */
    NV_RIGHT_SERVICE_CONNECT = 4,
    NV_RIGHT_DEVICE_CONNECT = 8
};

/** Embedded in the session that asks; it must not go away before done. */
typedef struct nv_auth_request {
    /* in; spans stay valid until done */
    const char *protocol; /* "mqtt", "http", ...: for the log and the doctor; static */
    nv_span device_id;
    nv_span module_id;
    nv_span token;  /* "SharedAccessSignature ..."; empty = none presented */
    bool text_keys; /* as in nv_auth_policy */
    const nv_peer *peer;
    void (*done)(struct nv_auth_request *request); /* on the loop that asked, never from within the call */
    /* out */
    nv_err status;                  /* NV_OK, NV_E_UNAUTHORIZED, or NV_E_IO / NV_E_AGAIN: the store failed, try later */
    nv_refusal refusal;             /* why not */
    char detail[NV_REFUSAL_DETAIL]; /* specific to this case, "" when the cause says all; no secrets */
    nv_identity *identity;          /* on NV_OK: a reference for the caller */
    nv_auth_scope scope;
    nv_auth_type type;
    nv_credential credential;
    int64_t expires_wall_us; /* end of the SAS token; INT64_MAX for certificates */
    /* private */
    nv_hub_loop *_loop;
    nv_task _task;
    nv_registry_find _find;
} nv_auth_request;

/**
 * Authenticate a device or module by SAS (own key, or a policy with DeviceConnect) or by certificate. Looks the
 * identity up without blocking the loop. A refusal is noted and logged here (nv_hub_refuse), not by the caller. Unknown
 * device and bad signature are told apart only in refusal and log, never to the peer.
 */
void nv_auth_device(nv_hub_loop *loop, nv_auth_request *request);

/** A policy token to check. */
typedef struct nv_auth_policy {
    /* in */
    nv_span token;
    nv_span resource; /* "/devices/d1/..." path the token must cover, or empty for the whole hub */
    uint32_t rights;  /* that the policy must have */
    bool text_keys;   /* the UTF-8 bytes of a key's base64 text sign, too: so do clients of Event Hubs (amqp.md 2.3) */
    /* out */
    uint32_t granted;        /* on NV_OK: all rights of the policy */
    int64_t expires_wall_us; /* on NV_OK: as nv_auth_token_expires_us() */
    nv_refusal refusal;
    char detail[NV_REFUSAL_DETAIL];
} nv_auth_policy;

/** Synchronous: policies are in memory. Nothing is noted or logged. @return NV_OK, or NV_E_UNAUTHORIZED with refusal
 * and detail set */
NV_NODISCARD nv_err nv_auth_check_policy(nv_hub *hub, nv_auth_policy *check);

/**
 * A key of a policy by itself, as clients of Event Hubs give it with SASL PLAIN: its base64 text. Synchronous; nothing
 * is noted or logged. @return NV_OK with granted (all rights but DeviceConnect, which asks for a token) and
 * expires_wall_us set, or NV_E_UNAUTHORIZED with refusal and detail
 */
NV_NODISCARD nv_err nv_auth_check_policy_key(nv_hub *hub, nv_span policy, nv_span key, nv_auth_policy *check);

/**
 * The same as nv_auth_check_policy() for a service operation over HTTP.
 * @param resource  "/devices/d1/..." path the token must cover, or empty for the whole hub
 * @return NV_OK, or NV_E_UNAUTHORIZED with *refusal and detail set
 */
NV_NODISCARD nv_err nv_auth_service(nv_hub *hub, nv_span token, nv_span resource, uint32_t rights, nv_refusal *refusal,
                                    char detail[NV_REFUSAL_DETAIL]);

/** When a token ends, on the wall clock, the tolerated skew of clocks included; INT64_MAX: it is none. */
int64_t nv_auth_token_expires_us(const nv_hub *hub, nv_span token);

/** True when the token names a policy (skn present and not empty); false: a device key signs it. */
bool nv_auth_token_is_policy(nv_span token);

#endif
