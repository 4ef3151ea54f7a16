/** The hub's shared access policies: name, rights, two keys. Made with random keys at the first start, kept in the
 * state store. */
#ifndef NV_CORE_POLICIES_H
#define NV_CORE_POLICIES_H

#include "core/auth.h"

typedef struct nv_policy {
    char name[65];
    uint32_t rights; /* NV_RIGHT_* */
    nv_key primary_key;
    nv_key secondary_key;
} nv_policy;

typedef struct nv_policies nv_policies;

/** The policy, or NULL. Immutable while the hub runs. Thread: any. */
const nv_policy *nv_policies_find(const nv_policies *policies, nv_span name);
/** Iterate: NULL at the end. */
const nv_policy *nv_policies_at(const nv_policies *policies, size_t index);

/**
 * Load, creating the five defaults (iothubowner, service, device, registryRead, registryReadWrite) on an empty store.
 * @param known_keys  true: fixed, well-known keys instead of random ones (`--dev-known-keys`)
 * Blocks. The caller frees with nv_policies_free.
 */
NV_NODISCARD nv_err nv_policies_load(nv_policies **out, struct nv_state *state, nv_rng *rng, bool known_keys);
void nv_policies_free(nv_policies *policies);

#endif
