/** Topics and filters of a device and of a module. */
#include "codec/topic.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool holds(nv_span outer, nv_span inner)
{
    return inner.len == 0 || (inner.ptr >= outer.ptr && inner.ptr + inner.len <= outer.ptr + outer.len);
}

static void run(nv_span text, const nv_topic_owner *owner)
{
    nv_topic topic;
    nv_filter_kind kind = NV_FILTER_NONE;
    const char *why = NULL;
    nv_err err = nv_topic_parse(text, owner, &topic, &why);
    if ((err == NV_OK) != (why == NULL) || !holds(text, topic.bag) || !holds(text, topic.rid)) {
        abort();
    }
    bool named = topic.kind != NV_TOPIC_NONE;
    if (named != (err == NV_OK || err == NV_E_SYNTAX)) {
        abort();
    }
    why = NULL;
    err = nv_filter_parse(text, owner, &kind, &why);
    if ((err == NV_OK) != (why == NULL) || (err == NV_OK) != (kind != NV_FILTER_NONE)) {
        abort();
    }
    (void)nv_topic_needs_api_version(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const nv_topic_owner device = {NV_SPAN_LIT("d"), NV_SPAN_LIT("")};
    static const nv_topic_owner module = {NV_SPAN_LIT("d"), NV_SPAN_LIT("m")};
    run(nv_span_of(data, size), &device);
    run(nv_span_of(data, size), &module);
    return 0;
}
