/**
 * A device or module as the hub knows it: an immutable, reference-counted snapshot of one version of the registry's
 * row. Sessions hold one; a change makes a new snapshot and tells the session that holds the old one.
 */
#ifndef NV_CORE_IDENTITY_H
#define NV_CORE_IDENTITY_H

#include "base/clock.h"
#include "base/err.h"
#include "base/span.h"

#include <stdatomic.h>

typedef enum nv_auth_kind {
    NV_AUTH_SAS = 0,
    NV_AUTH_SELF_SIGNED = 1,
    NV_AUTH_CA = 2,
    NV_AUTH_NONE = 3 /* system modules only */
} nv_auth_kind;

/** "sas", "selfSigned", "certificateAuthority", "none": as REST has it. Static storage. */
const char *nv_auth_kind_name(nv_auth_kind kind);

/** What of an identity proved the sender: it is evicted when this no longer opens. */
typedef enum nv_credential {
    NV_CREDENTIAL_POLICY = 0, /* a shared access policy of the hub; no key of the identity */
    NV_CREDENTIAL_PRIMARY = 1,
    NV_CREDENTIAL_SECONDARY = 2
} nv_credential;

/** What is known of the stored MQTT session of an identity; kept by core/devices.c. */
typedef enum nv_identity_session {
    NV_IDENTITY_SESSION_UNKNOWN = 0,
    NV_IDENTITY_SESSION_NONE,
    NV_IDENTITY_SESSION_STORED
} nv_identity_session;

#define NV_ID_MAX  128u
#define NV_KEY_MAX 64u

/** Key material, raw (decoded from base64). Wiped when the snapshot goes. */
typedef struct nv_key {
    uint8_t bytes[NV_KEY_MAX];
    uint8_t len; /* 16..64, or 0 = none */
} nv_key;

/** All spans point into the snapshot's own memory. */
typedef struct nv_identity {
    _Atomic uint32_t _refs;
    _Atomic nv_identity_session _session;
    size_t _bytes; /* of the whole snapshot */
    nv_span device_id;
    nv_span module_id;     /* empty for a device */
    nv_span generation_id; /* decimal .NET ticks of creation */
    uint64_t etag;         /* counter; REST shows base64 of its decimal text */
    bool enabled;          /* modules: that of their device */
    nv_span status_reason;
    int64_t status_updated_us; /* wall; 0 = never */
    nv_auth_kind auth;
    nv_key primary_key;
    nv_key secondary_key;
    nv_span primary_thumbprint; /* hex as registered, case kept; empty = none */
    nv_span secondary_thumbprint;
    bool iot_edge;
    nv_span device_scope;
    nv_span parent_scopes; /* JSON array text, empty = none */
    nv_span managed_by;    /* modules */
    nv_span attributes;    /* JSON object text, empty = none */
    /* As last stored; live values come from core/devices.h. The only members that change, for a snapshot that is kept.
     */
    _Atomic int64_t connection_updated_us;
    _Atomic int64_t last_activity_us;
} nv_identity;

/** Copy @p from (with everything its spans point at) into a new snapshot with one reference. */
nv_identity *nv_identity_new(const nv_identity *from);
nv_identity *nv_identity_ref(nv_identity *identity);
/** Thread: any. NULL is fine. */
void nv_identity_unref(nv_identity *identity);

/** "device" or "device/module", the key of maps and stored sessions; @p out has room for 2 * NV_ID_MAX + 2. @return
 * length */
size_t nv_identity_key(nv_span device_id, nv_span module_id, char *out);

/** A time of an identity as services read it; 0 is never: "0001-01-01T00:00:00Z" (http-hub.md section 5.2). */
void nv_identity_time(int64_t wall_us, char out[NV_TIME_TEXT_SIZE]);

#endif
