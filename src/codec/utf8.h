/** UTF-8 validity as MQTT 3.1.1 section 1.5.3 wants it. C99, no dependency: shared with the device library. */
#ifndef NV_CODEC_UTF8_H
#define NV_CODEC_UTF8_H

#include "base/span.h"

/**
 * True when every byte of @p text belongs to a well-formed code point: no overlong form, no surrogate
 * (U+D800..U+DFFF), nothing above U+10FFFF. U+0000 passes only when @p allow_nul. Pure, thread: any.
 */
bool nv_utf8_valid(nv_span text, bool allow_nul);

#endif
