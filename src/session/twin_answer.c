#include "session/twin_answer.h"

#include "base/guid.h"

#include <inttypes.h>
#include <stdio.h>

void nv_twin_answer_error(nv_hub *hub, nv_json_writer *w, nv_hub_error error, const char *detail)
{
    const nv_hub_error_info *info = nv_hub_error_info_of(error);
    char now[NV_TIME_TEXT_SIZE];
    char id[NV_GUID_TEXT_SIZE];
    char sentence[NV_HUB_SENTENCE];
    nv_time_format(nv_wall_us(hub->clock), now);
    nv_guid_make(hub->rng, id);
    nv_json_begin_object(w);
    nv_json_key(w, "errorCode");
    nv_json_uint(w, info->number);
    nv_json_key(w, "message");
    nv_json_str(w, nv_hub_error_sentence(hub, error, detail, sentence));
    nv_json_key(w, "trackingId");
    nv_json_str(w, id);
    nv_json_key(w, "timestampUtc");
    nv_json_str(w, now);
    nv_json_end_object(w);
}

nv_span nv_twin_answer_desired(const nv_delivery *delivery, nv_span *head, char version[NV_TWIN_VERSION_SIZE])
{
    nv_span body = delivery->body;
    int len = snprintf(version, NV_TWIN_VERSION_SIZE, "%s\"$version\":%" PRIu64 "}", body.len > 2 ? "," : "",
                       delivery->version);
    *head = nv_span_first(body, body.len - 1); /* without its last brace */
    return nv_span_of(version, (size_t)len);
}
