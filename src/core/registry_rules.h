/** The registry's rules without the store: pure functions over specs and rows. Internal to core/registry.c. */
#ifndef NV_CORE_REGISTRY_RULES_H
#define NV_CORE_REGISTRY_RULES_H

#include "base/arena.h"
#include "core/registry.h"
#include "store/state.h"

#define NV_GENERATED_KEY_BYTES 32u
#define NV_STATUS_REASON_CHARS 128u
#define NV_ATTRIBUTES_BYTES    8192u
#define NV_MANAGED_BY_BYTES    256u

/** Why a request is refused; error NONE: it is not. */
typedef struct nv_verdict {
    nv_hub_error error;
    char detail[200];
} nv_verdict;

/** @return false, so that a rule can end with it */
bool nv_verdict_refuse(nv_verdict *verdict, nv_hub_error error, const char *fmt, ...) NV_PRINTF(3, 4);

/** What can be said without looking at what is stored. @return false: refused */
bool nv_rules_check(const nv_registry_request *request, nv_verdict *verdict);

/** Existence and If-Match. @param current  NULL: absent. @return false: refused */
bool nv_rules_precondition(const nv_registry_request *request, const nv_identity_row *current, nv_verdict *verdict);

/** What a PUT makes that the spec does not say. */
typedef struct nv_rules_fresh {
    uint64_t generation; /* for a new identity */
    uint64_t etag;       /* for a new identity */
    nv_key primary_key;
    nv_key secondary_key;
    int64_t now_us;
} nv_rules_fresh;

/**
 * The row that a PUT or UPSERT leaves behind (full replace).
 * @param arena  holds what the row's spans point at beyond spec, current and fresh. @return false: refused
 */
bool nv_rules_build(const nv_identity_spec *spec, const nv_identity_row *current, const nv_rules_fresh *fresh,
                    nv_arena *arena, nv_identity_row *row, nv_verdict *verdict);

/** The row of $edgeAgent or $edgeHub as the hub makes it. @p module_id is static text. */
nv_identity_row nv_rules_system_module(nv_span device_id, const char *module_id, uint64_t generation, uint64_t etag);

/** A snapshot of a row; NULL: the row is not one that the registry could have written. */
nv_identity *nv_rules_snapshot(const nv_identity_row *row);

#endif
