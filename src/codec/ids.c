#include "codec/ids.h"

static bool made_of(nv_span text, size_t max_len, const char *marks)
{
    if (text.len == 0 || text.len > max_len) {
        return false;
    }
    for (size_t i = 0; i < text.len; i++) {
        uint8_t c = text.ptr[i];
        uint8_t letter = c | 0x20;
        bool alphanumeric = (letter >= 'a' && letter <= 'z') || (c >= '0' && c <= '9');
        if (!alphanumeric && (c == 0 || !strchr(marks, c))) {
            return false;
        }
    }
    return true;
}

bool nv_device_id_valid(nv_span id)
{
    return made_of(id, NV_ID_MAX_BYTES, "-:.+%_#*?!(),=@;$'");
}

bool nv_module_id_valid(nv_span id)
{
    return nv_device_id_valid(id);
}

bool nv_module_id_is_system(nv_span id)
{
    return id.len > 0 && id.ptr[0] == '$';
}

bool nv_policy_name_valid(nv_span name)
{
    return made_of(name, NV_POLICY_NAME_MAX_BYTES, "!._-");
}

bool nv_event_name_valid(nv_span name, size_t max)
{
    return made_of(name, max, "-_.") && made_of(nv_span_first(name, 1), 1, "") &&
           made_of(nv_span_skip(name, name.len - 1), 1, "");
}

bool nv_event_hub_name_valid(nv_span name)
{
    return nv_event_name_valid(name, NV_EVENT_HUB_NAME_MAX) && !nv_span_eq_nocase(name, nv_span_str("devices")) &&
           !nv_span_eq_nocase(name, nv_span_str("messages"));
}
