/** What devices are told of their twins, the same over MQTT and AMQP (mqtt.md section 8, amqp.md section 3.6). */
#ifndef NV_SESSION_TWIN_ANSWER_H
#define NV_SESSION_TWIN_ANSWER_H

#include "codec/json.h"
#include "core/devices.h"
#include "core/registry.h"

/** The body of an answer that says what went wrong; Node needs one. @p detail  "": the error's own text */
void nv_twin_answer_error(nv_hub *hub, nv_json_writer *w, nv_hub_error error, const char *detail);

#define NV_TWIN_VERSION_SIZE 48
/**
 * A delivery of desired properties as the device sees it, with $version at its end: @p head followed by what is
 * returned. The delivery's body is at least "{}".
 */
nv_span nv_twin_answer_desired(const nv_delivery *delivery, nv_span *head, char version[NV_TWIN_VERSION_SIZE]);

/** A patch beyond this cannot become a section within its limit however it is written: it is not even copied. */
static inline size_t nv_twin_answer_longest_patch(const nv_hub *hub)
{
    return 8 * (size_t)hub->limits.twin_reported_bytes;
}

#endif
