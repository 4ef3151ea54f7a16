/** What a hub sends to `nave monitor`: whatever it is, a line of JSON or nothing. */
#include "nave/amqp_event.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    nv_span message = nv_span_of(data, size);
    nv_buf out;
    nv_buf scratch;
    nv_buf_init(&out, 1u << 20);
    nv_buf_init(&scratch, 1u << 20);
    nv_json_writer w = nv_json_writer_of(&out);
    if (nv_amqp_event_json(&w, 1, message, &scratch)) {
        nv_span line = nv_buf_span(&out);
        if (nv_json_check(line, NV_JSON_MAX_DEPTH, UINT32_MAX) != NV_OK || nv_span_find(line, '\n') != line.len) {
            abort();
        }
    }
    (void)nv_amqp_event_is_of(message, "d1");
    nv_buf_deinit(&out);
    nv_buf_deinit(&scratch);
    return 0;
}
