/** What may be called what: ids of devices and modules, names of policies (http-hub.md 2.2, 5.2, 6). Pure. */
#ifndef NV_CODEC_IDS_H
#define NV_CODEC_IDS_H

#include "base/span.h"

#define NV_ID_MAX_BYTES          128
#define NV_POLICY_NAME_MAX_BYTES 64

/** 1 to 128 of `A-Za-z0-9` and `-:.+%_#*?!(),=@;$'`; case-sensitive (http-hub.md 5.2). */
bool nv_device_id_valid(nv_span id);

/** The same alphabet and length as a device id, system modules (`$edgeHub`) included (http-hub.md 6). */
bool nv_module_id_valid(nv_span id);

/** True for a `$` name, which only the hub itself may create (http-hub.md 6). */
bool nv_module_id_is_system(nv_span id);

/** 1 to 64 of `A-Za-z0-9` and `!._-` (http-hub.md 2.2). */
bool nv_policy_name_valid(nv_span name);

/** The name of an event hub or consumer group: 1 to @p max letters, digits, '-', '_' and '.', the first and the last a
 * letter or digit. */
bool nv_event_name_valid(nv_span name, size_t max);

#define NV_EVENT_HUB_NAME_MAX 256u

/** Of an event hub: such a name, but none that begins the hub's own addresses (`devices`, `messages`, in any case). */
bool nv_event_hub_name_valid(nv_span name);

#endif
