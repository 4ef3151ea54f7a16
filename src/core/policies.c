#include "core/policies.h"

#include "base/alloc.h"
#include "base/attrs.h"
#include "store/state.h"

#include <stdio.h>
#include <stdlib.h>

/* More than any management interface allows (16); what a damaged store holds beyond is refused. */
#define POLICIES_MAX 64u
#define KEY_BYTES    32u

struct nv_policies {
    size_t count;
    nv_policy items[POLICIES_MAX];
};

static const struct {
    const char *name;
    uint32_t rights;
} defaults[] = {
    {"iothubowner",
     NV_RIGHT_REGISTRY_READ | NV_RIGHT_REGISTRY_WRITE | NV_RIGHT_SERVICE_CONNECT | NV_RIGHT_DEVICE_CONNECT},
    {"service", NV_RIGHT_SERVICE_CONNECT},
    {"device", NV_RIGHT_DEVICE_CONNECT},
    {"registryRead", NV_RIGHT_REGISTRY_READ},
    {"registryReadWrite", NV_RIGHT_REGISTRY_READ | NV_RIGHT_REGISTRY_WRITE},
};

const nv_policy *nv_policies_find(const nv_policies *policies, nv_span name)
{
    for (size_t i = 0; i < policies->count; i++) {
        if (nv_span_eq_str(name, policies->items[i].name)) {
            return &policies->items[i];
        }
    }
    return NULL;
}

const nv_policy *nv_policies_at(const nv_policies *policies, size_t index)
{
    return index < policies->count ? &policies->items[index] : NULL;
}

void nv_policies_free(nv_policies *policies)
{
    if (policies) {
        nv_wipe(policies, sizeof(*policies));
        free(policies);
    }
}

/* ---- load ---- */

typedef struct loading {
    nv_state_op op;
    nv_exec_queue queue;
    nv_policies *policies;
    uint8_t fresh[NV_COUNT_OF(defaults)][2][KEY_BYTES];
} loading;

static nv_err read_policy(void *arg, const nv_policy_row *row)
{
    nv_policies *policies = arg;
    nv_policy *item = &policies->items[policies->count];
    if (policies->count == POLICIES_MAX || row->name.len >= sizeof(item->name) || row->primary_key.len > NV_KEY_MAX ||
        row->secondary_key.len > NV_KEY_MAX) {
        return NV_E_CORRUPT;
    }
    *item = (nv_policy){.rights = row->rights};
    memcpy(item->name, row->name.ptr, row->name.len);
    item->primary_key.len = (uint8_t)row->primary_key.len;
    memcpy(item->primary_key.bytes, row->primary_key.ptr, row->primary_key.len);
    item->secondary_key.len = (uint8_t)row->secondary_key.len;
    memcpy(item->secondary_key.bytes, row->secondary_key.ptr, row->secondary_key.len);
    policies->count++;
    return NV_OK;
}

static nv_err put_defaults(loading *load, nv_txn *txn)
{
    nv_err err = NV_OK;
    for (size_t i = 0; err == NV_OK && i < NV_COUNT_OF(defaults); i++) {
        nv_policy_row row = {
            .name = nv_span_str(defaults[i].name),
            .rights = defaults[i].rights,
            .primary_key = nv_span_of(load->fresh[i][0], KEY_BYTES),
            .secondary_key = nv_span_of(load->fresh[i][1], KEY_BYTES),
        };
        err = nv_txn_policy_put(txn, &row);
    }
    return err;
}

static nv_err run_load(nv_state_op *op, nv_txn *txn)
{
    loading *load = nv_container_of(op, loading, op);
    load->policies->count = 0;
    nv_err err = nv_txn_policies(txn, read_policy, load->policies);
    if (err == NV_OK && load->policies->count == 0) {
        err = put_defaults(load, txn);
        err = err == NV_OK ? nv_txn_policies(txn, read_policy, load->policies) : err;
    }
    return err;
}

static void loaded(nv_state_op *op)
{
    nv_exec_queue_stop(&nv_container_of(op, loading, op)->queue);
}

/* The well-known keys of --dev-known-keys: the same on every machine, so that a test can write them down. */
static void known_key(const char *policy, const char *which, uint8_t out[KEY_BYTES])
{
    char text[128];
    int len = snprintf(text, sizeof(text), "%s %s known to all, never for production ", policy, which);
    for (size_t i = 0; i < KEY_BYTES; i++) {
        out[i] = (uint8_t)text[i % (size_t)len];
    }
}

static void make_keys(loading *load, nv_rng *rng, bool known_keys)
{
    for (size_t i = 0; i < NV_COUNT_OF(defaults); i++) {
        if (known_keys) {
            known_key(defaults[i].name, "primary", load->fresh[i][0]);
            known_key(defaults[i].name, "secondary", load->fresh[i][1]);
        } else {
            nv_rng_fill(rng, load->fresh[i], sizeof(load->fresh[i]));
        }
    }
}

nv_err nv_policies_load(nv_policies **out, struct nv_state *state, nv_rng *rng, bool known_keys)
{
    loading load = {.op = {.run = run_load, .done = loaded}, .policies = nv_calloc(1, sizeof(nv_policies))};
    nv_exec_queue_init(&load.queue);
    load.op.exec = &load.queue.exec;
    make_keys(&load, rng, known_keys);
    nv_err err = nv_state_write(state, &load.op);
    if (err == NV_OK) {
        while (nv_exec_queue_run_wait(&load.queue)) {
        }
        err = load.op.status;
    }
    nv_exec_queue_deinit(&load.queue);
    nv_wipe(load.fresh, sizeof(load.fresh));
    *out = err == NV_OK ? load.policies : NULL;
    if (err != NV_OK) {
        nv_policies_free(load.policies);
    }
    return err;
}
