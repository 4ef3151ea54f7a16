/**
 * Twins of devices and modules: semantics.md section 1, http-hub.md section 8, mqtt.md section 8.
 *
 * A change is decided inside the transaction that stores it, so that the changes of one twin are totally ordered and
 * the second builds on the first; its answer, its notification to the device and its event appear after the commit.
 *
 *   any loop: nv_twin_do -> state writer: check, merge, write, outbox row -> commit -> the device's shard: notify ->
 * any loop: done
 *
 * A twin exists as long as its identity; one that nobody wrote takes no room.
 */
#ifndef NV_CORE_TWIN_H
#define NV_CORE_TWIN_H

#include "core/devices.h"
#include "core/hub.h"
#include "core/registry.h"
#include "store/state.h"

struct nv_json_writer;
struct nv_twin_row;

/** One version of a twin with its identity; immutable, reference-counted. Spans point into its own memory. */
typedef struct nv_twin {
    _Atomic uint32_t _refs;
    nv_identity *identity;
    nv_presence presence;     /* live where a connection is known, else as stored with the identity */
    uint64_t c2d_count;       /* messages waiting or locked; devices */
    nv_span model_id;         /* of the last connection that announced one; empty = none */
    uint64_t etag;            /* counter, from 1 */
    uint64_t version;         /* from 2 */
    uint64_t desired_version; /* from 1 */
    uint64_t reported_version;
    /* Compact JSON objects without $metadata and $version, numbers as written; "{}" when empty */
    nv_span tags;
    nv_span desired;
    nv_span reported;
    /* $metadata, encoded by core/twin_metadata.h */
    nv_span desired_metadata;
    nv_span reported_metadata;
} nv_twin;

void nv_twin_ref(nv_twin *twin);
/** Thread: any. NULL is fine. */
void nv_twin_unref(nv_twin *twin);

/**
 * The twin of two rows as a transaction gives them, copied; presence and C2D count are zero.
 * @return NULL: the identity's row is not one that the registry wrote
 */
nv_twin *nv_twin_new(const nv_identity_row *identity, const struct nv_twin_row *row);

/** The whole document as services see it (http-hub.md section 8.2). */
void nv_twin_write_service(const nv_twin *twin, struct nv_json_writer *w);
/** What the device sees: desired and reported with $version, nothing else (mqtt.md section 8.1). */
void nv_twin_write_device(const nv_twin *twin, struct nv_json_writer *w);
/** "AAAAAAAAAAE=": base64 of the counter as 8 bytes, big-endian. */
#define NV_TWIN_ETAG_SIZE 13
void nv_twin_etag_text(uint64_t etag, char out[NV_TWIN_ETAG_SIZE]);
/** @return false: no such text */
bool nv_twin_etag_parse(nv_span text, uint64_t *etag);

typedef enum nv_twin_verb {
    NV_TWIN_GET,
    NV_TWIN_PATCH,   /* service: merge tags and properties.desired */
    NV_TWIN_REPLACE, /* service: tags and properties.desired become what is given; what is left out is cleared */
    NV_TWIN_REPORTED /* device: merge reported */
} nv_twin_verb;

/** One operation on one twin. Owned by the caller, alive until done. */
typedef struct nv_twin_request {
    /* in; spans stay valid until done */
    nv_twin_verb verb;
    nv_span device_id;
    nv_span module_id;
    uint64_t generation; /* of the identity that asks, decimal .NET ticks; 0: whichever is there */
    nv_span body;        /* JSON text as received, checked here; PATCH, REPLACE: a twin; REPORTED: the patch */
    nv_precondition precondition;
    uint64_t etag;    /* of NV_IF_ETAG */
    bool has_version; /* REPORTED: only when reported.$version is @p version */
    uint64_t version;
    /**
     * Of the connection that asks (GET, REPORTED), NULL: nobody keeps count. No GET is answered with a section that is
     * older than what this connection was told meanwhile, however long its read took. Alive until done; on its loop.
     */
    nv_twin_told *told;
    void (*done)(struct nv_twin_request *request); /* on the loop that asked, never from within the call */
    void *arg;
    /* out */
    nv_hub_error error; /* DeviceNotFound, ArgumentInvalid, PreconditionFailed, IotHubFormatError, ... */
    char detail[200];   /* the sentence for this case, naming path and limit; "" = the error's own text says it all */
    nv_twin *twin;      /* on success: a reference for the caller; REPORTED: NULL, only the version is told */
    uint64_t reported_version; /* REPORTED */
    /* private */
    nv_hub_loop *_loop;
    nv_task _task;
    void *_op;
} nv_twin_request;

/** Thread: the loop's. Blocks: never. */
void nv_twin_do(nv_hub_loop *loop, nv_twin_request *request);

/**
 * The device announced a model when it connected (mqtt.md section 2.2); stored when it differs. Best effort.
 * Thread: the loop's.
 */
void nv_twin_announce_model(nv_hub_loop *loop, nv_identity *identity, nv_span model_id);

/* ---- within transactions of others ---------------------------------------------------------------------------- */

/**
 * Give an identity that was created in this transaction its first tags and desired properties: @p body is a twin as in
 * NV_TWIN_PATCH. The twin counts as created so: its versions and its etag are those of a new one.
 * @return NV_E_INVALID refused: @p error and @p detail say why; else what the store returns
 */
NV_NODISCARD nv_err nv_twin_create(nv_hub *hub, nv_txn *txn, nv_span device_id, nv_span module_id, nv_span body,
                                   nv_hub_error *error, char detail[200]);

/**
 * Body of a lifecycle event (semantics.md section 4.1): the twin as it is in this transaction; before a deletion, after
 * a creation.
 */
NV_NODISCARD nv_err nv_twin_lifecycle_body(nv_txn *txn, nv_span device_id, nv_span module_id, nv_buf *out);

#endif
