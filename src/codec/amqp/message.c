/**
 * Sections of a message: described values in a fixed order, each at most once but for the parts of a body of data or
 * sequences.
 */
#include "codec/amqp/message.h"

#include "codec/amqp/wire.h"

#define FIRST_SECTION 0x70u

/** By descriptor less FIRST_SECTION. The body kinds share a rank. */
static const struct {
    uint8_t rank;
    nv_span symbol;
} sections[] = {
    {1, NV_SPAN_LIT("amqp:header:list")},
    {2, NV_SPAN_LIT("amqp:delivery-annotations:map")},
    {3, NV_SPAN_LIT("amqp:message-annotations:map")},
    {4, NV_SPAN_LIT("amqp:properties:list")},
    {5, NV_SPAN_LIT("amqp:application-properties:map")},
    {6, NV_SPAN_LIT("amqp:data:binary")},
    {6, NV_SPAN_LIT("amqp:amqp-sequence:list")},
    {6, NV_SPAN_LIT("amqp:amqp-value:*")},
    {7, NV_SPAN_LIT("amqp:footer:map")},
};

static uint64_t code_of_symbol(nv_span symbol)
{
    for (size_t i = 0; i < NV_COUNT_OF(sections); i++) {
        if (nv_span_eq(sections[i].symbol, symbol)) {
            return FIRST_SECTION + i;
        }
    }
    return 0;
}

/** The descriptor of the next section. @return false with r->err set; *code 0: one that is not in the list */
static bool read_section(nv_reader *r, uint64_t *code)
{
    if (nv_reader_left(r) >= 3 && r->at[0] == CODE_DESCRIBED && r->at[1] == CODE_ULONG_8) {
        *code = r->at[2];
        r->at += 3;
    } else {
        nv_amqp_value value;
        if (!nv_reader_has(r, 1) || *r->at != CODE_DESCRIBED || !nv_amqp_read(r, &value)) {
            return nv_amqp_fail(r, NV_E_SYNTAX);
        }
        *code = value.code_known ? value.code : code_of_symbol(value.symbol);
        r->at = value.bytes.ptr;
    }
    if (*code < FIRST_SECTION || *code >= FIRST_SECTION + NV_COUNT_OF(sections)) {
        *code = 0;
    }
    return true;
}

static bool read_map(nv_reader *r, nv_amqp_value *out)
{
    return (nv_amqp_read(r, out) && out->type == NV_AMQP_MAP) || nv_amqp_fail(r, NV_E_SYNTAX);
}

/** Bytes of a data section. Binary only, so without the detour of a value. */
static bool read_data(nv_reader *r, nv_span *out)
{
    uint8_t code = nv_read_u8(r);
    if (code != CODE_BINARY_8 && code != CODE_BINARY_32) {
        return nv_amqp_fail(r, NV_E_SYNTAX);
    }
    *out = nv_read_span(r, code == CODE_BINARY_8 ? nv_read_u8(r) : nv_read_u32_be(r));
    return r->err == NV_OK;
}

static nv_amqp_body_kind kind_of(nv_amqp_code section)
{
    return section == NV_AMQP_DATA       ? NV_AMQP_BODY_IS_DATA
           : section == NV_AMQP_SEQUENCE ? NV_AMQP_BODY_IS_SEQUENCE
                                         : NV_AMQP_BODY_IS_VALUE;
}

/** A value or a sequence, in all its depth: readers far away get it as it came. */
static bool read_value(nv_reader *r, nv_amqp_code section, nv_span *out)
{
    *out = nv_amqp_read_raw(r);
    nv_reader at = nv_reader_of(*out);
    nv_amqp_value list;
    if (r->err != NV_OK || nv_amqp_check(*out) != NV_OK) {
        return nv_amqp_fail(r, NV_E_SYNTAX);
    }
    return section == NV_AMQP_BODY_VALUE || (nv_amqp_read(&at, &list) && list.type == NV_AMQP_LIST) ||
           nv_amqp_fail(r, NV_E_SYNTAX);
}

/** One section of the body, which began at @p start. */
static bool read_body_section(nv_reader *r, nv_amqp_code section, const uint8_t *start, nv_amqp_message *out)
{
    nv_amqp_body_kind kind = kind_of(section);
    if (out->sections > 0 && (out->body_kind != kind || kind == NV_AMQP_BODY_IS_VALUE)) {
        return nv_amqp_fail(r, NV_E_SYNTAX);
    }
    nv_span content;
    if (!(section == NV_AMQP_DATA ? read_data(r, &content) : read_value(r, section, &content))) {
        return false;
    }
    if (out->sections == 0 && kind != NV_AMQP_BODY_IS_SEQUENCE) {
        out->body = content;
    } else if (out->sections == 0) {
        out->body = nv_span_of(start, (size_t)(r->at - start));
    }
    out->body_kind = kind;
    out->sections++;
    return true;
}

/** An identifier or address of the properties: any one value, but nothing that has others inside. */
static bool is_scalar(nv_span any)
{
    if (!any.ptr || *any.ptr == CODE_UUID) {
        return true;
    }
    if (*any.ptr == CODE_STRING_8) {
        return nv_amqp_utf8_valid(nv_span_skip(any, 2));
    }
    nv_reader at = nv_reader_of(any);
    nv_amqp_value value;
    return nv_amqp_read(&at, &value) && value.type < NV_AMQP_LIST;
}

static bool read_properties(nv_reader *r, nv_amqp_message *out)
{
    const nv_amqp_properties *p = &out->properties;
    out->has_properties = true;
    bool ok = nv_amqp_read_properties_list(r, &out->properties) == NV_OK && is_scalar(p->message_id) &&
              is_scalar(p->to) && is_scalar(p->reply_to) && is_scalar(p->correlation_id);
    return ok || nv_amqp_fail(r, NV_E_SYNTAX);
}

static bool read_content(nv_reader *r, nv_amqp_code section, nv_amqp_message *out)
{
    switch ((unsigned)section) {
    case NV_AMQP_HEADER:
        out->has_header = true;
        return nv_amqp_read_header_list(r, &out->header) == NV_OK;
    case NV_AMQP_DELIVERY_ANNOTATIONS:
        return read_map(r, &out->delivery_annotations);
    case NV_AMQP_MESSAGE_ANNOTATIONS:
        return read_map(r, &out->message_annotations);
    case NV_AMQP_PROPERTIES:
        return read_properties(r, out);
    case NV_AMQP_APPLICATION_PROPERTIES:
        return read_map(r, &out->application_properties);
    default: /* the footer */
        return nv_amqp_skip(r);
    }
}

nv_err nv_amqp_message_read(nv_span bytes, nv_amqp_message *out)
{
    nv_reader r = nv_reader_of(bytes);
    size_t size = sizeof(*out);
    __asm__("" : "+r"(size)); /* memset() of the library: of a size that it knows, gcc makes a slow "rep stos" */
    memset(out, 0, size);
    unsigned rank = 0;
    const uint8_t *body = NULL; /* start and end of its sections */
    const uint8_t *body_end = NULL;
    while (nv_reader_left(&r) > 0) {
        const uint8_t *start = r.at;
        uint64_t code;
        if (!read_section(&r, &code)) {
            return NV_E_SYNTAX;
        }
        if (code == 0) {
            if (!nv_amqp_skip(&r)) {
                return NV_E_SYNTAX;
            }
            continue;
        }
        unsigned found = sections[code - FIRST_SECTION].rank;
        bool is_body = found == sections[NV_AMQP_DATA - FIRST_SECTION].rank;
        if (found < rank || (found == rank && !is_body)) {
            return NV_E_SYNTAX;
        }
        rank = found;
        if (!(is_body ? read_body_section(&r, (nv_amqp_code)code, start, out)
                      : read_content(&r, (nv_amqp_code)code, out))) {
            return NV_E_SYNTAX;
        }
        if (is_body) {
            body = body ? body : start;
            body_end = r.at;
        }
    }
    if (out->sections > 1) {
        out->body = nv_span_of(body, (size_t)(body_end - body));
    }
    return NV_OK;
}

bool nv_amqp_data_next(nv_reader *at, nv_span *data)
{
    while (at->err == NV_OK && nv_reader_left(at) > 0) {
        uint64_t code;
        if (!read_section(at, &code)) {
            return false;
        }
        if (code == NV_AMQP_DATA) {
            return read_data(at, data);
        }
        if (!nv_amqp_skip(at)) {
            return false;
        }
    }
    return false;
}

static nv_err join(nv_span sections_of_body, nv_buf *scratch, nv_span *out)
{
    size_t before = nv_buf_len(scratch);
    nv_reader at = nv_reader_of(sections_of_body);
    nv_span data;
    while (nv_amqp_data_next(&at, &data)) {
        nv_err err = nv_buf_append(scratch, data);
        if (err != NV_OK) {
            return err;
        }
    }
    *out = nv_span_skip(nv_buf_span(scratch), before);
    return at.err;
}

nv_err nv_amqp_message_bytes(const nv_amqp_message *message, nv_buf *scratch, nv_span *out)
{
    *out = NV_SPAN_EMPTY;
    switch (message->body_kind) {
    case NV_AMQP_BODY_NONE:
        return NV_OK;
    case NV_AMQP_BODY_IS_DATA:
        if (message->sections > 1) {
            return join(message->body, scratch, out);
        }
        *out = message->body;
        return NV_OK;
    case NV_AMQP_BODY_IS_VALUE: {
        nv_reader at = nv_reader_of(message->body);
        nv_amqp_value value;
        if (!nv_amqp_read(&at, &value)) {
            return at.err;
        }
        if (nv_amqp_is_text(&value)) {
            *out = value.bytes;
        }
        return nv_amqp_is_text(&value) || value.type == NV_AMQP_NULL ? NV_OK : NV_E_UNSUPPORTED;
    }
    case NV_AMQP_BODY_IS_SEQUENCE:
        return NV_E_UNSUPPORTED;
    }
    return NV_E_UNSUPPORTED;
}

/* ---- writing ------------------------------------------------------------------------------------------------ */

void nv_amqp_put_header_section(nv_writer *w, const nv_amqp_header *header)
{
    nv_amqp_encode_header(w, header);
}

size_t nv_amqp_begin_map_section(nv_writer *w, nv_amqp_code section)
{
    nv_amqp_put_descriptor(w, (uint64_t)section);
    return nv_amqp_begin_map(w);
}

void nv_amqp_put_properties_section(nv_writer *w, const nv_amqp_properties *properties)
{
    nv_amqp_encode_properties(w, properties);
}

void nv_amqp_put_data_head(nv_writer *w, size_t len)
{
    nv_amqp_put_descriptor(w, NV_AMQP_DATA);
    if (len <= UINT8_MAX) {
        nv_write_u8(w, CODE_BINARY_8);
        nv_write_u8(w, (uint8_t)len);
    } else if (len <= UINT32_MAX) {
        nv_write_u8(w, CODE_BINARY_32);
        nv_write_u32_be(w, (uint32_t)len);
    } else {
        (void)nv_writer_has(w, SIZE_MAX);
    }
}

void nv_amqp_put_value_head(nv_writer *w)
{
    nv_amqp_put_descriptor(w, NV_AMQP_BODY_VALUE);
}
