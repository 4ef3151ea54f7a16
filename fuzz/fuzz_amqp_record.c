/** Messages of AMQP as records: whatever is taken can be written again, within the bound, and read once more. */
#include "session/amqp/server_internal.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok) {
        abort();
    }
}

static size_t count_applications(nv_span properties)
{
    nv_reader r = nv_reader_of(properties);
    nv_property property;
    size_t count = 0;
    while (nv_property_next(&r, &property)) {
        count += property.id == NV_PROP_APPLICATION;
    }
    check(r.err == NV_OK);
    return count;
}

static void write_again(nv_span properties, nv_body_kind kind, nv_span body, bool strings_only)
{
    size_t room = amqp_record_properties_max(properties.len) + 8 + body.len;
    uint8_t *out = malloc(room);
    nv_amqp_message again;
    check(out != NULL);
    nv_writer w = nv_writer_of(out, room);
    amqp_put_record_properties(&w, properties, strings_only);
    check(w.err == NV_OK && nv_writer_len(&w) <= amqp_record_properties_max(properties.len));
    amqp_put_body_head(&w, kind, body.len);
    nv_write_span(&w, body);
    check(w.err == NV_OK);
    check(nv_amqp_message_read(nv_writer_span(&w), &again) == NV_OK);
    size_t count = 0;
    nv_reader at = nv_reader_of(again.application_properties.bytes);
    nv_amqp_value key;
    nv_amqp_value value;
    while (again.application_properties.type == NV_AMQP_MAP && nv_amqp_map_next(&at, &key, &value)) {
        check(key.type == NV_AMQP_STRING && (!strings_only || value.type == NV_AMQP_STRING));
        count++;
    }
    check(again.application_properties.type != NV_AMQP_MAP || at.err == NV_OK);
    check(count == count_applications(properties));
    if (kind == NV_BODY_DATA) {
        check(again.sections == 1 && nv_span_eq(again.body, body));
    }
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    nv_amqp_message message;
    if (nv_amqp_message_read(nv_span_of(data, size), &message) != NV_OK) {
        return 0;
    }
    nv_buf properties;
    nv_buf scratch;
    nv_buf_init(&properties, 1 << 20);
    nv_buf_init(&scratch, 1 << 20);
    nv_body_kind kind;
    nv_span body;
    size_t counted;
    if (amqp_record_of_message(&message, &properties, &scratch, &kind, &body) == NV_OK) {
        check(nv_record_size(nv_buf_span(&properties), body, &counted) == NV_OK);
        write_again(nv_buf_span(&properties), kind, body, false);
        write_again(nv_buf_span(&properties), kind, body, true);
    }
    nv_buf_deinit(&scratch);
    nv_buf_deinit(&properties);
    return 0;
}
