/** One change of one twin within a transaction: rules, versions, index, events. Internal to the core's twins. */
#ifndef NV_CORE_TWIN_UPDATE_H
#define NV_CORE_TWIN_UPDATE_H

#include "core/twin.h"
#include "core/twin_merge.h"
#include "store/state_twin.h"

/** What the rules return from within a transaction for a refusal: the store itself never does. */
#define NV_TWIN_REFUSED NV_E_INVALID

typedef struct nv_twin_update {
    /* in */
    nv_hub *hub;
    nv_twin_verb verb; /* not GET */
    nv_span device_id;
    nv_span module_id;
    uint64_t generation; /* 0: any */
    nv_precondition precondition;
    uint64_t etag;
    bool has_version;
    uint64_t version;
    nv_twin_patch *patch; /* of the verb's form */
    bool creates;         /* it is part of the identity's creation: versions stay, no event */
    /* out */
    nv_verdict verdict;
    nv_twin_row row; /* afterwards; spans point into what follows and into the transaction */
    bool desired_changed;
    bool event;          /* something was put into the outbox */
    nv_buf desired_news; /* when it changed, what the device is told (semantics.md section 1.4) */
    /* private */
    nv_twin_section _tags;
    nv_twin_section _desired;
    nv_twin_section _reported;
} nv_twin_update;

/** Everything but what is `in` becomes empty. */
void nv_twin_update_init(nv_twin_update *update);
void nv_twin_update_deinit(nv_twin_update *update);

/**
 * Decide and write. May be run again, with another transaction: it starts over.
 * @return NV_TWIN_REFUSED the verdict says why; else what the store returns
 */
NV_NODISCARD nv_err nv_twin_update_run(nv_twin_update *update, nv_txn *txn);

/** The twin as it is, of the identity and the generation that is asked for. @return as nv_twin_update_run */
NV_NODISCARD nv_err nv_twin_update_find(nv_twin_update *update, nv_txn *txn, nv_twin_row *row);

/** Wall time of an identity's creation, from its generation. */
int64_t nv_twin_created_us(uint64_t generation);

/** Put the event of a change into the outbox when such are wanted. @p before  the row as it was */
NV_NODISCARD nv_err nv_twin_events_put(nv_twin_update *update, const nv_twin_row *before, int64_t now_us, nv_txn *txn);

/**
 * What a change is to a digital twin, as a JSON Patch.
 * @return false: nothing that one would see
 */
bool nv_twin_pnp_write(const nv_twin_row *before, const nv_twin_row *after, struct nv_json_writer *w);

/* ---- documents, core/twin_write.c ---- */

/** `"desired":{...` with $metadata and $version, as services see it. */
void nv_twin_write_section(struct nv_json_writer *w, const char *name, nv_span text, nv_span metadata, bool versions,
                           int64_t created_us, uint64_t version);
/** The twin without its identity: `{"deviceId":...,"etag","version","tags","properties"}`, as events have it. */
void nv_twin_write_row(struct nv_json_writer *w, nv_span device_id, nv_span module_id, const nv_twin_row *row);
/** An object of text without its closing brace: members may be added, then end the object. */
void nv_twin_open_object(struct nv_json_writer *w, nv_span text);

#endif
