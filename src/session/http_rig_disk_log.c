/* For tests that want the telemetry log itself instead of its double. */
#include "session/http_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

nv_log *nv_rig_log_new(nv_rig_hub *hub)
{
    char dir[100];
    (void)snprintf(dir, sizeof(dir), "%s/log", hub->dir);
    nv_log_config config = {.dir = dir,
                            .partitions = 4,
                            .durability = NV_DURABILITY_COMMIT,
                            .segment_bytes = 16u << 20,
                            .disk = nv_disk_posix(),
                            .clock = &hub->clock.clock,
                            .rng = nv_rng_system()};
    nv_buf why;
    nv_buf_init(&why, 500);
    nv_log *log = NULL;
    if (nv_log_open(&log, &config, &why) != NV_OK) {
        fail_msg("%.*s", NV_SPAN_ARG(nv_buf_span(&why)));
    }
    nv_buf_deinit(&why);
    return log;
}

void nv_rig_log_free(nv_log *log)
{
    nv_log_close(log);
}
