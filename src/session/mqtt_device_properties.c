/* The property bag of a topic as properties of a record (mqtt.md section 6). */
#include "session/mqtt_device_internal.h"

#include "base/alloc.h"
#include "codec/bag.h"
#include "codec/utf8.h"
#include "store/record.h"

#include <stdlib.h>

#define MAX_PROPERTIES 256u  /* of one message; decoding is quadratic in it */
#define SCRATCH_BYTES  1024u /* longer bags allocate */

/* What the hub stamps, by its keys of the bag too: a client's own copy is ignored. */
static bool is_stamped(nv_span key)
{
    return nv_property_is_stamped(key) || nv_span_eq_str(key, "$.cdid") || nv_span_eq_str(key, "$.cmid");
}

static nv_value value_of(const nv_bag_property *property)
{
    if (!property->has_value) {
        return (nv_value){.type = NV_VALUE_NULL};
    }
    if (nv_utf8_valid(property->value, true)) {
        return nv_value_string(property->value);
    }
    return (nv_value){.type = NV_VALUE_BINARY, .bytes = property->value}; /* kept as it came, but not called text */
}

static nv_err put(nv_buf *out, const nv_bag_property *property, size_t *counted)
{
    if (is_stamped(property->name)) {
        return NV_OK;
    }
    nv_system_property id = NV_PROP_APPLICATION;
    if (property->name.len > 2 && property->name.ptr[0] == '$' && property->name.ptr[1] == '.') {
        id = nv_system_property_of_mqtt(property->name);
    }
    nv_property encoded = {.id = (uint8_t)id, .name = property->name, .value = value_of(property)};
    *counted += property->value.len + (id == NV_PROP_APPLICATION ? property->name.len : 0);
    return nv_property_put(out, &encoded);
}

nv_err mqtt_encode_bag(nv_span bag, nv_buf *out, size_t *counted)
{
    *counted = 0;
    if (bag.len == 0) {
        return NV_OK;
    }
    uint8_t on_stack[SCRATCH_BYTES];
    uint8_t *scratch = bag.len <= sizeof(on_stack) ? on_stack : nv_malloc(bag.len);
    nv_bag_property properties[MAX_PROPERTIES];
    size_t count = 0;
    nv_err err = nv_bag_decode(bag, scratch, bag.len, properties, MAX_PROPERTIES, &count);
    for (size_t i = 0; i < count && err == NV_OK; i++) {
        err = put(out, &properties[i], counted);
    }
    if (scratch != on_stack) {
        free(scratch);
    }
    return err;
}

nv_err mqtt_put_property(nv_buf *out, const char *name, const char *value)
{
    nv_property property = {
        .id = NV_PROP_APPLICATION, .name = nv_span_str(name), .value = nv_value_string(nv_span_str(value))};
    return nv_property_put(out, &property);
}
