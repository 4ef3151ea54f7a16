#include "codec/bag.h"

#include "codec/percent.h"

static nv_span without_ampersands(nv_span text)
{
    while (text.len && text.ptr[text.len - 1] == '&') {
        text.len--;
    }
    return text;
}

nv_bag nv_bag_of(nv_span raw)
{
    if (raw.len && raw.ptr[0] == '?') {
        raw = nv_span_skip(raw, 1);
    }
    raw = without_ampersands(raw);
    if (raw.len && raw.ptr[raw.len - 1] == '/') {
        raw = without_ampersands(nv_span_first(raw, raw.len - 1));
    }
    return (nv_bag){raw};
}

bool nv_bag_next(nv_bag *bag, nv_bag_pair *out)
{
    while (bag->_rest.len) {
        nv_span pair = nv_span_first(bag->_rest, nv_span_find(bag->_rest, '&'));
        bag->_rest = nv_span_skip(bag->_rest, pair.len + 1);
        if (pair.len == 0) {
            continue;
        }
        size_t equals = nv_span_find(pair, '=');
        out->name = nv_span_first(pair, equals);
        out->has_value = equals < pair.len;
        out->value = nv_span_skip(pair, equals + 1);
        return true;
    }
    return false;
}

static uint32_t hash_of(nv_span name)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < name.len; i++) {
        h = (h ^ name.ptr[i]) * 16777619u;
    }
    return h;
}

nv_err nv_bag_decode(nv_span raw, uint8_t *scratch, size_t scratch_len, nv_bag_property *properties,
                     size_t max_properties, size_t *count)
{
    nv_writer text = nv_writer_of(scratch, scratch_len);
    nv_bag bag = nv_bag_of(raw);
    nv_bag_pair pair;
    *count = 0;
    while (nv_bag_next(&bag, &pair)) {
        nv_bag_property property = {.name = nv_percent_decode_lenient(pair.name, &text), .has_value = pair.has_value};
        property.value = nv_percent_decode_lenient(pair.value, &text);
        property._hash = hash_of(property.name);
        if (text.err != NV_OK) {
            return text.err;
        }
        size_t at = 0;
        while (at < *count &&
               (properties[at]._hash != property._hash || !nv_span_eq(properties[at].name, property.name))) {
            at++;
        }
        if (at == max_properties) {
            return NV_E_LIMIT;
        }
        *count += at == *count;
        properties[at] = property;
    }
    return NV_OK;
}

static void put_name(nv_bag_writer *bag, nv_span name)
{
    if (bag->_any) {
        nv_write_u8(bag->_out, '&');
    }
    bag->_any = true;
    nv_percent_encode(name, bag->_out);
}

void nv_bag_put(nv_bag_writer *bag, nv_span name, nv_span value)
{
    if (name.len) {
        put_name(bag, name);
        nv_write_u8(bag->_out, '=');
        nv_percent_encode(value, bag->_out);
    }
}

void nv_bag_put_null(nv_bag_writer *bag, nv_span name)
{
    if (name.len) {
        put_name(bag, name);
    }
}
