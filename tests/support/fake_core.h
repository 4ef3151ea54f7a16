/**
 * A hub without disk and threads: the functions of log.h, state.h, registry.h and policies.h that core/ and session/
 * call, in memory, failing on demand. Link nv_fake_core before nv_session, and the real ones are not taken from their
 * archives. Everything completes through the executors, so a test decides the order.
 */
#ifndef NV_TESTS_FAKE_CORE_H
#define NV_TESTS_FAKE_CORE_H

#include "core/auth.h"
#include "core/devices.h"
#include "core/hub.h"
#include "core/policies.h"
#include "core/registry.h"
#include "core/telemetry.h"
#include "store/log.h"
#include "store/state.h"

#define FAKE_HUB_NAME "hub.example.net"
#define FAKE_ALIAS    "localhost"
#define FAKE_NOW_US   (INT64_C(1700000000) * NV_US_PER_S)

/** One stored record, copied. */
typedef struct fake_record {
    uint32_t partition;
    nv_span stamp;
    nv_span properties;
    nv_span body;
    nv_body_kind kind;
} fake_record;

typedef struct fake_core {
    nv_manual_clock clock;
    nv_seeded_rng rng;
    nv_exec_queue loops[2];
    nv_exec *execs[2];
    nv_limits limits;
    nv_hub *hub;
    struct nv_log *log;
    struct nv_state *state;
} fake_core;

/** Hubs made from now on let devices ask for faults. */
extern bool fake_fault_injection;

/** A hub of @p loops loops (1 or 2) named hub.example.net, alias localhost, policies iothubowner, device, service with
 * key FAKE_POLICY_KEY. */
void fake_core_init(fake_core *core, size_t loops, const nv_limits *limits);
/** All sessions are freed. */
void fake_core_deinit(fake_core *core);
/** Run all executors and turn ends until nothing happens any more. */
void fake_core_run(fake_core *core);

static const nv_key fake_policy_key = {"policy-key-policy-key-policy-key", 32};    /* of every policy */
static const nv_key fake_device_key = {"device-key-device-key-device-key", 32};    /* primary of every device */
static const nv_key fake_secondary_key = {"second-key-second-key-second-key", 32}; /* secondary */

/** Register, replacing; announces the change to the devices table. SAS with both fake keys, enabled, unless @p set. */
nv_identity *fake_register(fake_core *core, const char *device, const char *module, void (*set)(nv_identity *identity));
void fake_unregister(fake_core *core, const char *device, const char *module);

/* ---- the log ---- */

typedef enum fake_log_mode {
    FAKE_LOG_AUTO, /* a submitted batch is stored when the loops run next */
    FAKE_LOG_HOLD  /* it waits for fake_log_complete */
} fake_log_mode;

void fake_log_set_mode(fake_core *core, fake_log_mode mode);
/** What nv_log_submit returns from now on, and what batches complete with. */
void fake_log_set_submit_status(fake_core *core, nv_err status);
void fake_log_set_store_status(fake_core *core, nv_err status);
void fake_log_set_health(fake_core *core, nv_log_health health);
/** Records a batch can take before NV_E_AGAIN. */
void fake_log_set_batch_records(fake_core *core, uint32_t records);
/** Count only, keep nothing: for measuring. */
void fake_log_set_discard(fake_core *core, bool discard);
/** Complete the oldest held batch with @p status. @return false when there is none */
bool fake_log_complete(fake_core *core, nv_err status);
size_t fake_log_held(const fake_core *core);
/** Stored records, oldest first. */
size_t fake_log_count(const fake_core *core);
const fake_record *fake_log_at(const fake_core *core, size_t index);

/* ---- registry and state ---- */

/** Lookups answer: NV_OK at once; NV_E_MORE later; NV_E_AGAIN refused; NV_E_IO later, with that status. */
void fake_registry_set_mode(fake_core *core, nv_err mode);
/** How loads and stores of sessions end; NV_E_AGAIN refuses them. */
void fake_state_set_status(fake_core *core, nv_err status);
/** Hold completions of session stores until fake_state_complete. */
void fake_state_set_hold(fake_core *core, bool hold);
bool fake_state_complete(fake_core *core);
size_t fake_state_sessions(const fake_core *core);
/** Sessions asked for so far. */
size_t fake_state_loads(const fake_core *core);
/** Identities whose times were saved so far. */
size_t fake_state_seen(const fake_core *core);

#endif
