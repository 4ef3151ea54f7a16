/* Link addresses and CBS audiences: any text. What is taken from it lies in the result, and ids can be ids. */
#include "codec/ids.h"
#include "session/amqp/server_internal.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok)
{
    if (!ok) {
        abort();
    }
}

static void inside(const amqp_address *a, nv_span span)
{
    const uint8_t *text = (const uint8_t *)a->_text;
    must(span.len == 0 || (span.ptr >= text && span.ptr + span.len <= text + sizeof(a->_text)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    nv_span text = nv_span_of(data, size);
    for (int role = 0; role < 2; role++) {
        amqp_address a;
        nv_err err = amqp_address_parse(text, role == 0, &a);
        must((err == NV_OK) == (a.node != AMQP_NODE_UNKNOWN));
        inside(&a, a.device_id);
        inside(&a, a.module_id);
        inside(&a, a.entity);
        inside(&a, a.group);
        inside(&a, a.partition);
        inside(&a, a.rest);
        if (err == NV_OK && a.device_id.len > 0) {
            must(nv_device_id_valid(a.device_id));
            must(a.module_id.len == 0 || nv_module_id_valid(a.module_id));
        }
    }
    char audience[1024];
    char again[1024];
    size_t len = amqp_audience(text, audience);
    must(len <= sizeof(audience));
    must(len == 0 || audience[len - 1] != '/');
    (void)amqp_audience(nv_span_of(audience, len), again);
    must(amqp_address_path(text).len <= size);
    return 0;
}
