/**
 * Azure connection strings: `Name=value;Name=value`, for devices, modules, services and event readers.
 * Pure: no allocation; thread: any.
 */
#ifndef NV_CODEC_CONNSTR_H
#define NV_CODEC_CONNSTR_H

#include "base/attrs.h"
#include "base/cursor.h"

/** member, name on the wire, in the order in which they are written */
#define NV_CONNSTR_TABLE(X)                                                                                            \
    X(endpoint, "Endpoint")                                                                                            \
    X(host_name, "HostName")                                                                                           \
    X(device_id, "DeviceId")                                                                                           \
    X(module_id, "ModuleId")                                                                                           \
    X(shared_access_key_name, "SharedAccessKeyName")                                                                   \
    X(shared_access_key, "SharedAccessKey")                                                                            \
    X(shared_access_signature, "SharedAccessSignature")                                                                \
    X(entity_path, "EntityPath")                                                                                       \
    X(gateway_host_name, "GatewayHostName")                                                                            \
    X(x509, "x509")

/** The parts, as written in the string (keys stay base64, the endpoint keeps its `sb://`). Empty = absent. */
typedef struct nv_connstr {
#define X(member, name) nv_span member;
    NV_CONNSTR_TABLE(X)
#undef X
} nv_connstr;

/** Whose credentials a connection string holds. */
typedef enum nv_connstr_kind {
    NV_CONNSTR_DEVICE,  /* HostName, DeviceId */
    NV_CONNSTR_MODULE,  /* HostName, DeviceId, ModuleId */
    NV_CONNSTR_SERVICE, /* HostName, SharedAccessKeyName */
    NV_CONNSTR_EVENTS   /* Endpoint, SharedAccessKeyName */
} nv_connstr_kind;

/**
 * Parse and check that the parts make sense together. Names are compared without case, white space around names and
 * values is dropped, unknown names are skipped, a value may hold `=`. Spans point into @p text.
 * @param why  static text naming what is missing or wrong; set on failure only
 * @return NV_E_SYNTAX not of this form, a name twice, a mandatory part missing, a key that is not base64
 */
NV_NODISCARD nv_err nv_connstr_parse(nv_span text, nv_connstr *out, nv_connstr_kind *kind, const char **why);

/** Append the parts that are there. @p out->err is NV_E_INVALID when a value holds `;`, NV_E_TOO_BIG when full. */
void nv_connstr_write(const nv_connstr *parts, nv_writer *out);

/** True when x509 is "true" in any case: the client shows a certificate and has no key. */
bool nv_connstr_is_x509(const nv_connstr *parts);

/** The host of the endpoint `sb://host[:port]/`, or of HostName when there is no endpoint; port included. */
nv_span nv_connstr_host(const nv_connstr *parts);

#endif
