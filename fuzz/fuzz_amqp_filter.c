/** The filter of an event reader: as text, and as the encoded map that carries it. */
#include "session/amqp/filter.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(nv_err err, const amqp_position *position, const char *why)
{
    bool in_order = err == NV_OK ? position->first <= UINT64_C(1) << 63 && position->time_us >= 0
                                 : why[0] != '\0' && strlen(why) < AMQP_FILTER_WHY;
    if (!in_order) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char why[AMQP_FILTER_WHY] = "";
    amqp_position position;
    nv_span bytes = nv_span_of(data, size);
    nv_err err = amqp_filter_parse(bytes, &position, why);
    check(err, &position, why);
    why[0] = '\0';
    err = amqp_filter_read(bytes, &position, why);
    check(err, &position, why);
    return 0;
}
