/**
 * The identity registry: devices and modules, with the rules of http-hub.md sections 5 to 7. Every function is
 * asynchronous: it returns at once and calls back on the asking loop, writes after the commit.
 */
#ifndef NV_CORE_REGISTRY_H
#define NV_CORE_REGISTRY_H

#include "core/hub.h"
#include "core/identity.h"

/** Service error names with their numbers and status (http-hub.md section 4.2); the HTTP session renders them. */
#define NV_HUB_ERROR_TABLE(X)                                                                                          \
    X(NONE, 0, 200, "")                                                                                                \
    X(InvalidProtocolVersion, 400001, 400, "The api-version is missing or not valid: append ?api-version=2021-04-12")  \
    X(InvalidOperation, 400003, 400, "The operation is not valid")                                                     \
    X(ArgumentInvalid, 400004, 400, "An argument is not valid")                                                        \
    X(ArgumentNull, 400005, 400, "An argument is missing")                                                             \
    X(IotHubFormatError, 400006, 400, "The request body is not well-formed")                                           \
    X(DeviceDefinedMultipleTimes, 400011, 400, "A device is named more than once")                                     \
    X(BulkRegistryOperationFailure, 400013, 400, "Some items of the bulk operation failed")                            \
    X(CannotRegisterModuleToModule, 400301, 400, "A module cannot hold modules")                                       \
    X(DeviceAuthenticationTypeIsMissing, 400000, 400, "The authentication type is missing")                            \
    X(StringIsNotThumbprint, 400000, 400, "A thumbprint is 40 or 64 hexadecimal digits")                               \
    X(IotHubUnauthorizedAccess, 401002, 401, "Unauthorized")                                                           \
    X(IotHubQuotaExceeded, 403002, 403, "The quota of messages is used up")                                            \
    X(DeviceMaximumQueueDepthExceeded, 403004, 403, "The queue of the device is full")                                 \
    X(TooManyDevices, 413002, 403, "The hub holds as many devices as its limit allows")                                \
    X(TooManyConsumerGroups, 413004, 403, "There are as many consumer groups as the limit allows")                     \
    X(DeviceNotFound, 404001, 404, "")                                                                                 \
    X(ModuleNotFound, 404010, 404, "")                                                                                 \
    X(DeviceNotOnline, 404103, 404, "The device is not online, or takes no direct methods")                            \
    X(DeviceConnectionClosedRemotely, 404104, 404, "The connection of the device ended before it answered")            \
    X(ResourceNotFound, 404000, 404, "There is nothing at this path")                                                  \
    X(MethodNotAllowed, 405000, 405, "The resource does not have this method")                                         \
    X(RequestTimeout, 408000, 408, "The request did not arrive in time")                                               \
    X(DeviceAlreadyExists, 409001, 409, "")                                                                            \
    X(ModuleAlreadyExistsOnDevice, 409301, 409, "")                                                                    \
    X(PreconditionFailed, 412001, 412, "Precondition failed: Invalid ETag")                                            \
    X(DeviceMessageLockLost, 412002, 412, "The lock of the message is lost or unknown")                                \
    X(MessageTooLarge, 413001, 413, "The request is larger than the limit")                                            \
    X(UpgradeRequired, 426000, 426, "This path speaks WebSocket: send Upgrade: websocket")                             \
    X(RequestHeadTooLarge, 431000, 431, "The request line and headers are larger than the limit")                      \
    X(TooManyModulesOnDevice, 413003, 413, "The device holds as many modules as its limit allows")                     \
    X(ThrottlingException, 429001, 429, "Too many requests")                                                           \
    X(ServerError, 500001, 500, "The hub failed to carry this out; see its log")                                       \
    X(BadDeviceResponse, 502000, 502, "The device answered with something that is no method answer")                   \
    X(ServiceUnavailable, 503001, 503, "The hub cannot store now")                                                     \
    X(GatewayTimeout, 504101, 504, "The device did not answer in time")

typedef enum nv_hub_error {
#define X(id, number, status, text) NV_HUB_ERROR_##id,
    NV_HUB_ERROR_TABLE(X)
#undef X
} nv_hub_error;

typedef struct nv_hub_error_info {
    const char *name;
    uint32_t number;
    uint32_t http_status;
    const char *text; /* default sentence; "" when the detail says it */
} nv_hub_error_info;
/** Static storage. */
const nv_hub_error_info *nv_hub_error_info_of(nv_hub_error error);
/** What a failure of the store is to a client: ServiceUnavailable, ThrottlingException (its queue is full), ... */
nv_hub_error nv_hub_error_of(nv_err err);

#define NV_HUB_REASON 192
/**
 * What keeps the hub from storing, and what helps: the words of the log while it accepts nothing, else what the state
 * store failed with; "" when both are well. Thread: any (a lock).
 */
void nv_hub_storage_reason(const nv_hub *hub, char out[NV_HUB_REASON]);

#define NV_HUB_SENTENCE 256
/**
 * What a client is told of @p error: @p detail where there is one (neither NULL nor ""), else the error's own text;
 * that of ServiceUnavailable goes on with what keeps the hub from storing. Thread: any (a lock).
 * @return detail, static storage, or @p scratch
 */
const char *nv_hub_error_sentence(const nv_hub *hub, nv_hub_error error, const char *detail,
                                  char scratch[NV_HUB_SENTENCE]);

/** If-Match of a request. */
typedef enum nv_precondition { NV_IF_NONE, NV_IF_ANY, NV_IF_ETAG } nv_precondition;

/** What a PUT may set; spans stay valid until done. Read-only members of the JSON never reach this. */
typedef struct nv_identity_spec {
    nv_span device_id;
    nv_span module_id; /* empty: a device */
    bool enabled;
    nv_span status_reason;
    nv_auth_kind auth;
    bool has_keys; /* false: generate both */
    nv_key primary_key;
    nv_key secondary_key;
    nv_span primary_thumbprint;
    nv_span secondary_thumbprint;
    bool iot_edge;
    nv_span device_scope;
    nv_span parent_scopes; /* JSON array text */
    nv_span managed_by;
    nv_span attributes; /* JSON object text */
} nv_identity_spec;

typedef enum nv_registry_verb {
    NV_REGISTRY_GET,
    NV_REGISTRY_PUT,    /* without If-Match create only, with it update only */
    NV_REGISTRY_UPSERT, /* bulk createOrUpdate */
    NV_REGISTRY_DELETE,
    NV_REGISTRY_REGENERATE /* new keys */
} nv_registry_verb;

enum { NV_REGENERATE_PRIMARY = 1, NV_REGENERATE_SECONDARY = 2 };

/** One operation on one identity. Owned by the caller, alive until done. */
typedef struct nv_registry_request {
    /* in */
    nv_registry_verb verb;
    nv_identity_spec spec; /* PUT, UPSERT: all; others: the ids */
    nv_precondition precondition;
    uint64_t etag;
    uint32_t regenerate;
    nv_span twin;    /* PUT, UPSERT: tags and desired properties if it is created, JSON (core/twin.h); empty: none */
    bool own_device; /* asked with the device's own credential: it may PUT keys onto its system modules ($edgeHub) */
    void (*done)(struct nv_registry_request *request); /* on the loop that asked, never from within the call */
    void *arg;
    /* out */
    nv_hub_error error;
    char detail[200];      /* the sentence for this case; "" = the error's own text says it all */
    nv_identity *identity; /* GET, PUT, UPSERT, REGENERATE: a reference for the caller */
    /* private */
    nv_hub_loop *_loop;
    nv_task _task;
    void *_op;
} nv_registry_request;

void nv_registry_do(nv_hub_loop *loop, nv_registry_request *request);

/** Devices (device_id empty), or the modules of one device. */
typedef struct nv_registry_list {
    /* in */
    nv_span device_id; /* empty: list devices; else its modules */
    nv_span after;     /* only ids behind this one; empty = from the start. For our own paging */
    uint32_t top;      /* at most this many, 1..1000 */
    void (*done)(struct nv_registry_list *list);
    void *arg;
    /* out */
    nv_hub_error error;
    nv_identity **identities; /* array and references belong to the caller */
    size_t count;
    /* private */
    nv_hub_loop *_loop;
    nv_task _task;
    void *_op;
} nv_registry_list;

void nv_registry_list_get(nv_hub_loop *loop, nv_registry_list *list);

typedef struct nv_registry_counts {
    void (*done)(struct nv_registry_counts *counts);
    void *arg;
    nv_hub_error error;
    uint64_t devices;
    uint64_t enabled;
    nv_hub_loop *_loop;
    nv_task _task;
    void *_op;
} nv_registry_counts;

void nv_registry_count(nv_hub_loop *loop, nv_registry_counts *counts);

/* ---- for the core and the sessions ------------------------------------------------------------------------- */

/** The registry's memory: recently used snapshots. One per hub, nv_hub.registry. */
typedef struct nv_registry nv_registry;

#define NV_REGISTRY_CACHE_BYTES (64u << 20)

/** @param cache_bytes  bound of the snapshots kept in memory; 0 keeps none. Aborts when memory is out. */
nv_registry *nv_registry_new(size_t cache_bytes, uint64_t seed);
/** Nothing is in flight. NULL is fine. */
void nv_registry_free(nv_registry *registry);

/** Embedded in whoever asks; the ids stay valid until the answer. */
typedef struct nv_registry_find {
    /* in */
    nv_span device_id;
    nv_span module_id;
    void (*done)(struct nv_registry_find *find);
    void *arg;
    /* out */
    nv_err status;         /* NV_OK, NV_E_NOT_FOUND, or NV_E_IO, NV_E_CORRUPT: the store failed */
    nv_identity *identity; /* on NV_OK: a reference for the caller */
    /* private */
    nv_hub_loop *_loop;
    void *_op;
} nv_registry_find;

/**
 * The current snapshot of an identity, from memory when it is there: the way of CONNECT. It is never older than the
 * last write that was answered. Thread: the loop's. Blocks: never.
 * @return NV_OK find->identity is set, done never fires; NV_E_MORE the store is asked, done fires later on this loop;
 *         NV_E_AGAIN the store's queue is full, done never fires
 */
NV_NODISCARD nv_err nv_registry_lookup(nv_hub_loop *loop, nv_registry_find *find);

/** When one identity was last seen. */
typedef struct nv_registry_seen {
    nv_identity *identity; /* a reference that the call takes over */
    int64_t connection_updated_us;
    int64_t last_activity_us;
} nv_registry_seen;

/**
 * Store times that live connections collected, many at once, when there is leisure. Best effort: what cannot be stored
 * is dropped (they come again). @p seen is copied. Thread: the loop's. Blocks: never.
 * @param done  may be NULL; on the loop, never from within the call
 */
void nv_registry_save_seen(nv_hub_loop *loop, const nv_registry_seen *seen, size_t count,
                           void (*done)(void *arg, nv_err status), void *arg);

#endif
