/**
 * Lengths of time as people and services write them: "90s", "1h30m", "250ms", and ISO 8601 as "PT48H", "P2DT12H". No
 * years and months, whose length depends. Pure. Thread: any.
 */
#ifndef NV_CODEC_DURATION_H
#define NV_CODEC_DURATION_H

#include "base/attrs.h"
#include "base/err.h"
#include "base/span.h"

/**
 * @param us  microseconds, from 0 on
 * @return NV_E_SYNTAX; NV_E_RANGE more than fits
 */
NV_NODISCARD nv_err nv_duration_parse(nv_span text, int64_t *us);

#endif
