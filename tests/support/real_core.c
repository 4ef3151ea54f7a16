#include "support/real_core.h"

#include "base/alloc.h"
#include "core/registry.h"
#include "core/telemetry.h"
#include "support/hub_rest.h"
#include "support/temp_dir.h"

#include <stdio.h>
#include <stdlib.h>

/* Set-up that fails ends the program: nothing can be tested then. */
static void must(bool ok, const char *what, nv_span why)
{
    if (!ok) {
        (void)fprintf(stderr, "%s failed: %.*s\n", what, NV_SPAN_ARG(why));
        abort();
    }
}

static void open_stores(real_core *core, nv_durability durability)
{
    char state_dir[96];
    char log_dir[96];
    (void)snprintf(state_dir, sizeof(state_dir), "%s/state", core->dir);
    (void)snprintf(log_dir, sizeof(log_dir), "%s/log", core->dir);
    nv_buf why;
    nv_buf_init(&why, 512);
    nv_state_config state = {.dir = state_dir, .clock = nv_clock_system(), .rng = nv_rng_system()};
    must(nv_state_open(&core->state, &state, &why) == NV_OK, "nv_state_open", nv_buf_span(&why));
    nv_log_config log = {.dir = log_dir,
                         .partitions = 4,
                         .durability = durability,
                         .segment_bytes = 64u << 20,
                         .disk = nv_disk_posix(),
                         .clock = nv_clock_system(),
                         .rng = nv_rng_system()};
    must(nv_log_open(&core->log, &log, &why) == NV_OK, "nv_log_open", nv_buf_span(&why));
    static const char *const names[] = {"hub.example.net"};
    nv_hub_config hub = {.host_names = names,
                         .host_name_count = 1,
                         .limits = &nv_limits_open,
                         .log = core->log,
                         .state = core->state,
                         .clock = nv_clock_system(),
                         .rng = nv_rng_system(),
                         .loops = core->execs,
                         .loop_count = REAL_LOOPS};
    must(nv_hub_new(&core->hub, &hub, &why) == NV_OK, "nv_hub_new", nv_buf_span(&why));
    nv_buf_deinit(&why);
}

real_core *real_core_new(const char *parent, nv_durability durability)
{
    real_core *core = nv_calloc(1, sizeof(*core));
    temp_dir_make(core->dir, sizeof(core->dir), parent);
    for (size_t i = 0; i < REAL_LOOPS; i++) {
        nv_exec_queue_init(&core->queues[i]);
        core->execs[i] = &core->queues[i].exec;
    }
    open_stores(core, durability);
    return core;
}

static void run_all(real_core *core)
{
    for (size_t i = 0; i < REAL_LOOPS; i++) {
        nv_exec_queue_adopt(&core->queues[i]);
        nv_exec_queue_run(&core->queues[i]);
    }
}

static void close_stores(real_core *core)
{
    hub_rest(core->hub);
    nv_state_close(core->state);
    run_all(core);
    nv_hub_free(core->hub);
    nv_log_close(core->log);
}

void real_core_restart(real_core *core, nv_durability durability)
{
    close_stores(core);
    open_stores(core, durability);
}

void real_core_free(real_core *core)
{
    close_stores(core);
    for (size_t i = 0; i < REAL_LOOPS; i++) {
        nv_exec_queue_deinit(&core->queues[i]);
    }
    temp_dir_remove(core->dir);
    free(core);
}

static void on_registered(nv_registry_request *request)
{
    must(request->error == NV_HUB_ERROR_NONE, "registering a device", nv_span_str(request->detail));
    nv_identity_unref(request->identity);
    *(bool *)request->arg = true;
}

void real_core_add(real_core *core, const char *device)
{
    bool registered = false;
    nv_registry_request request = {.verb = NV_REGISTRY_PUT,
                                   .spec = {.device_id = nv_span_str(device),
                                            .enabled = true,
                                            .auth = NV_AUTH_SAS,
                                            .has_keys = true,
                                            .primary_key = real_device_key,
                                            .secondary_key = real_device_key},
                                   .done = on_registered,
                                   .arg = &registered};
    request.spec.secondary_key.bytes[0] ^= 1;
    nv_exec_queue_adopt(&core->queues[0]);
    nv_registry_do(&core->hub->loops[0], &request);
    while (!registered) {
        (void)nv_exec_queue_run_wait(&core->queues[0]);
    }
}
