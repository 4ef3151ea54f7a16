/* The configuration file: any bytes give a snapshot or one sentence. */
#include "nave/config.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    nv_config_source none = {0};
    nv_config *config = NULL;
    nv_buf why;
    nv_buf_init(&why, 65536);
    if (nv_config_load(&config, &none, &why) != NV_OK) {
        abort();
    }
    if (nv_config_apply_yaml(config, nv_span_of(data, size), "fuzz.yaml", &why) != NV_OK && nv_buf_len(&why) == 0) {
        abort(); /* refused without a word */
    }
    nv_config_free(config);
    nv_buf_deinit(&why);
    return 0;
}
