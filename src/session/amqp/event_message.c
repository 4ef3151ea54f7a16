#include "session/amqp/event_message.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "session/amqp/server_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* Format codes of the values that are patched (part 1 section 1.6): their encoding must not depend on the value. */
enum { CODE_LONG_8_BYTES = 0x81, CODE_TIMESTAMP_8_BYTES = 0x83, CODE_STRING_1_BYTE = 0xa1 };

/* Everything that does not grow with stamp or properties: keys, numbers, descriptors, delivery annotations. */
#define HEAD_FIXED    2048u
#define BODY_HEAD_MAX 16u

size_t amqp_last_offset(const nv_log_partition_info *info, char out[24])
{
    int len = info->next_sequence == 0 ? snprintf(out, 24, "-1") : snprintf(out, 24, "%" PRIu64, info->last_offset);
    return len > 0 ? (size_t)len : 0;
}

/* ---- delivery annotations ----------------------------------------------------------------------------------- */

void amqp_event_head_set_metrics(amqp_event_head *head, const nv_log_partition_info *info, int64_t now_us)
{
    char offset[24];
    size_t len = amqp_last_offset(info, offset);
    nv_writer w = nv_writer_of(head->metrics, sizeof(head->metrics));
    size_t mark = nv_amqp_begin_map_section(&w, NV_AMQP_DELIVERY_ANNOTATIONS);
    nv_amqp_put_symbol_of(&w, "last_enqueued_sequence_number");
    nv_amqp_put_long(&w, amqp_last_sequence(info));
    nv_amqp_put_symbol_of(&w, "last_enqueued_offset");
    nv_amqp_put_string(&w, nv_span_of(offset, len));
    nv_amqp_put_symbol_of(&w, "last_enqueued_time_utc");
    nv_amqp_put_timestamp(&w, info->last_enqueued_us / NV_US_PER_MS);
    nv_amqp_put_symbol_of(&w, "runtime_info_retrieval_time_utc");
    nv_amqp_put_timestamp(&w, now_us / NV_US_PER_MS);
    nv_amqp_end_map(&w, mark, 8);
    head->metrics_len = w.err == NV_OK ? nv_writer_len(&w) : 0;
    head->valid = false;
}

/* ---- message annotations ------------------------------------------------------------------------------------ */

/** A map that is being written, and what of its size is known at the end. */
typedef struct annotations {
    nv_writer *w;
    uint32_t count; /* keys and values */
} annotations;

static void put_text(annotations *a, const char *key, nv_span text)
{
    if (text.len > 0) {
        nv_amqp_put_symbol_of(a->w, key);
        nv_amqp_put_string(a->w, text);
        a->count += 2;
    }
}

/** A value of 8 bytes to be patched. @return where they are */
static uint8_t *put_place(annotations *a, const char *key, uint8_t code)
{
    nv_amqp_put_symbol_of(a->w, key);
    nv_write_u8(a->w, code);
    uint8_t *at = a->w->at;
    nv_write_u64_be(a->w, 0);
    a->count += 2;
    return at;
}

/** As many digits as @p value has are the place of all offsets from *low to *high. */
static uint32_t digits_of(uint64_t value, uint64_t *low, uint64_t *high)
{
    uint32_t digits = 1;
    uint64_t next = 10;
    *low = 0;
    while (digits < 20 && value >= next) {
        digits++;
        *low = next;
        next = digits < 20 ? next * 10 : UINT64_MAX;
    }
    *high = digits < 20 ? next - 1 : UINT64_MAX;
    return digits;
}

static void put_places(amqp_event_head *head, annotations *a, const nv_record *record)
{
    head->sequence_at = put_place(a, "x-opt-sequence-number", CODE_LONG_8_BYTES);
    head->time_at = put_place(a, "x-opt-enqueued-time", CODE_TIMESTAMP_8_BYTES);
    head->arrived_at = put_place(a, "iothub-enqueuedtime", CODE_TIMESTAMP_8_BYTES);
    head->offset_digits = digits_of(record->offset, &head->offset_low, &head->offset_high);
    nv_amqp_put_symbol_of(a->w, "x-opt-offset");
    nv_write_u8(a->w, CODE_STRING_1_BYTE);
    nv_write_u8(a->w, (uint8_t)head->offset_digits);
    head->offset_at = a->w->at;
    nv_write_span(a->w, nv_span_of("00000000000000000000", head->offset_digits));
    a->count += 2;
}

/** What the hub says of the sender. Events of the hub itself were not authenticated by anybody. */
static void put_stamp(annotations *a, const nv_record *record)
{
    nv_stamp stamp;
    if (nv_stamp_decode(record->stamp, &stamp) != NV_OK) {
        return;
    }
    put_text(a, "iothub-connection-device-id", stamp.device_id);
    put_text(a, "iothub-connection-module-id", stamp.module_id);
    if (record->source == NV_SOURCE_TELEMETRY) {
        put_text(a, "iothub-connection-auth-method", nv_span_str(nv_stamp_auth_method(&stamp)));
        put_text(a, "iothub-connection-auth-generation-id", stamp.generation_id);
        nv_value own;
        if (!nv_property_find(record->properties, NV_PROP_DATA_SCHEMA, &own)) {
            put_text(a, "dt-dataschema", stamp.model_id);
        }
    }
}

/** System properties that have no field in the properties section. */
static bool is_annotation(uint8_t id)
{
    switch (id) {
    case NV_PROP_OUTPUT_NAME:
    case NV_PROP_SUBJECT:
    case NV_PROP_INTERFACE_ID:
    case NV_PROP_SCHEMA:
    case NV_PROP_CREATION_TIME:
    case NV_PROP_DIAGNOSTIC_ID:
    case NV_PROP_DIAGNOSTIC_CONTEXT:
    case NV_PROP_DATA_SCHEMA:
    case NV_PROP_OPERATION:
        return true;
    default:
        return false;
    }
}

static void put_property_annotations(annotations *a, nv_span properties)
{
    uint32_t seen = 0;
    nv_reader r = nv_reader_of(properties);
    nv_property property;
    while (nv_property_next(&r, &property)) {
        if (is_annotation(property.id) && !(seen >> property.id & 1)) {
            seen |= UINT32_C(1) << property.id;
            nv_amqp_put_symbol_of(a->w, nv_system_property_name(property.id));
            amqp_put_record_value(a->w, &property.value);
            a->count += 2;
        }
    }
}

/* ---- the head ----------------------------------------------------------------------------------------------- */

static void remember(amqp_event_head *head, const nv_record *record)
{
    size_t need = record->stamp.len + record->properties.len;
    if (head->made_of_capacity < need) {
        head->made_of_capacity = 2 * need;
        head->made_of = nv_realloc(head->made_of, head->made_of_capacity);
    }
    if (record->stamp.len > 0) {
        memcpy(head->made_of, record->stamp.ptr, record->stamp.len);
    }
    if (record->properties.len > 0) {
        memcpy(head->made_of + record->stamp.len, record->properties.ptr, record->properties.len);
    }
    head->stamp_len = record->stamp.len;
    head->properties_len = record->properties.len;
    head->source = record->source;
}

static void make(amqp_event_head *head, const nv_record *record)
{
    size_t need = HEAD_FIXED + record->stamp.len + record->properties.len +
                  amqp_record_properties_max(record->properties.len) + BODY_HEAD_MAX;
    if (head->capacity < need) {
        head->capacity = need;
        head->bytes = nv_realloc(head->bytes, need);
    }
    nv_writer w = nv_writer_of(head->bytes, head->capacity);
    nv_write_span(&w, nv_span_of(head->metrics, head->metrics_len));
    size_t mark = nv_amqp_begin_map_section(&w, NV_AMQP_MESSAGE_ANNOTATIONS);
    annotations a = {.w = &w};
    put_places(head, &a, record);
    put_stamp(&a, record);
    const char *source = nv_source_name((uint8_t)record->source);
    put_text(&a, "iothub-message-source", nv_span_str(source ? source : ""));
    put_property_annotations(&a, record->properties);
    nv_amqp_end_map(&w, mark, a.count);
    amqp_put_record_properties(&w, record->properties, false);
    head->len = nv_writer_len(&w);
    head->valid = w.err == NV_OK;
    remember(head, record);
}

static bool fits(const amqp_event_head *head, const nv_record *record)
{
    return head->valid && head->source == record->source && record->offset >= head->offset_low &&
           record->offset <= head->offset_high &&
           nv_span_eq(nv_span_of(head->made_of, head->stamp_len), record->stamp) &&
           nv_span_eq(nv_span_of(head->made_of + head->stamp_len, head->properties_len), record->properties);
}

static void patch(amqp_event_head *head, const nv_record *record)
{
    nv_store_u64_be(head->sequence_at, record->sequence);
    nv_store_u64_be(head->time_at, (uint64_t)(record->enqueued_us / NV_US_PER_MS));
    memcpy(head->arrived_at, head->time_at, 8);
    uint64_t offset = record->offset;
    for (uint32_t i = head->offset_digits; i > 0; i--) {
        head->offset_at[i - 1] = (uint8_t)('0' + offset % 10);
        offset /= 10;
    }
}

nv_span amqp_event_head_of(amqp_event_head *head, const nv_record *record)
{
    if (NV_UNLIKELY(!fits(head, record))) {
        make(head, record);
    }
    patch(head, record);
    nv_writer w = nv_writer_of(head->bytes + head->len, head->capacity - head->len);
    amqp_put_body_head(&w, record->body_kind, record->body.len);
    return nv_span_of(head->bytes, head->len + nv_writer_len(&w));
}

void amqp_event_head_deinit(amqp_event_head *head)
{
    free(head->bytes);
    free(head->made_of);
    *head = (amqp_event_head){0};
}
