/**
 * The described lists of AMQP 1.0, read and written from the rows of NV_AMQP_TABLE: a field is its kind and its place
 * in the struct, and one loop over the fields serves every list.
 */
#include "codec/amqp/performative.h"

#include "codec/amqp/wire.h"

typedef enum field_kind { STRING, SYMBOL, BINARY, BOOLEAN, UBYTE, USHORT, UINT, ULONG, TIMESTAMP, ANY } field_kind;

typedef struct field {
    uint8_t kind;
    uint16_t offset;
} field;

typedef struct table_row {
    uint8_t code;
    uint8_t count;
    uint16_t size; /* of the struct */
    uint32_t required;
    const field *fields;
    const char *name;
    nv_span symbol;
} table_row;

#define FIELD(name, member, kind, required)    {(kind), offsetof(nv_amqp_##name, member)},
#define REQUIRED(name, member, kind, required) | (uint32_t)(required) << NV_AMQP_OF_##name##_##member
#define X(NAME, name, code, symbol, fields)                                                                            \
    static const field fields_of_##name[] = {fields(FIELD){0, 0}}; /* the last one: a list may have no field */
NV_AMQP_TABLE(X)
#undef X

#define X(NAME, name, code, symbol, fields) ROW_##NAME,
enum { NV_AMQP_TABLE(X) ROW_COUNT };
#undef X

static const table_row rows[] = {
#define X(NAME, name, code, symbol, fields)                                                                            \
    {code,  NV_AMQP_COUNT_OF_##name, sizeof(nv_amqp_##name), 0u fields(REQUIRED), fields_of_##name,                    \
     #name, NV_SPAN_LIT(symbol)},
    NV_AMQP_TABLE(X)
#undef X
};

/** Row by descriptor, plus one. */
static const uint8_t row_of[256] = {
#define X(NAME, name, code, symbol, fields) [code] = ROW_##NAME + 1,
    NV_AMQP_TABLE(X)
#undef X
};

static const table_row *find_row(uint64_t code)
{
    return code <= UINT8_MAX && row_of[code] ? &rows[row_of[code] - 1] : NULL;
}

static const table_row *find_symbol(nv_span symbol)
{
    for (size_t i = 0; i < ROW_COUNT; i++) {
        if (nv_span_eq(rows[i].symbol, symbol)) {
            return &rows[i];
        }
    }
    return NULL;
}

const char *nv_amqp_name(uint64_t code)
{
    const table_row *row = find_row(code);
    return row ? row->name : NULL;
}

/* ---- reading ------------------------------------------------------------------------------------------------ */

/* A field is @p len bytes at @p at, its code among them: the extent of a value of that code, so that each reads what
 * its code promises. */

/** Bytes of a variable type whose short form is @p code. */
static inline bool read_variable(const uint8_t *at, size_t len, uint8_t code, nv_span *out)
{
    if ((*at | CODE_WIDE) != (code | CODE_WIDE)) {
        return false;
    }
    size_t head = *at == code ? 2 : 5;
    *out = nv_span_of(at + head, len - head);
    return true;
}

/** Clients take symbols and strings for each other (a content-type as string, a container-id as symbol): both are read.
 */
static inline bool read_text(const uint8_t *at, size_t len, nv_span *out)
{
    return read_variable(at, len, CODE_STRING_8, out) || read_variable(at, len, CODE_SYMBOL_8, out);
}

static inline bool read_uint(const uint8_t *at, uint32_t *out)
{
    *out = *at == CODE_UINT_8 ? at[1] : *at == CODE_UINT ? nv_load_u32_be(at + 1) : 0;
    return *at == CODE_UINT_8 || *at == CODE_UINT || *at == CODE_UINT_0;
}

static inline bool read_ulong(const uint8_t *at, uint64_t *out)
{
    *out = *at == CODE_ULONG_8 ? at[1] : *at == CODE_ULONG ? nv_load_u64_be(at + 1) : 0;
    return *at == CODE_ULONG_8 || *at == CODE_ULONG || *at == CODE_ULONG_0;
}

static inline bool read_boolean(const uint8_t *at, bool *out)
{
    *out = *at == CODE_TRUE || (*at == CODE_BOOLEAN && at[1] == 1);
    return *at == CODE_TRUE || *at == CODE_FALSE || (*at == CODE_BOOLEAN && at[1] <= 1);
}

static inline bool read_field(uint8_t kind, const uint8_t *at, size_t len, void *member)
{
    switch ((field_kind)kind) {
    case UINT:
        return read_uint(at, member);
    case BOOLEAN:
        return read_boolean(at, member);
    case ANY:
        *(nv_span *)member = nv_span_of(at, len);
        return true;
    case BINARY:
        return read_variable(at, len, CODE_BINARY_8, member);
    case STRING:
        return read_text(at, len, member) && nv_amqp_utf8_valid(*(nv_span *)member);
    case SYMBOL:
        return read_text(at, len, member) && nv_ascii_valid(*(nv_span *)member);
    case UBYTE:
        *(uint8_t *)member = at[len - 1];
        return *at == CODE_UBYTE;
    case USHORT:
        *(uint16_t *)member = *at == CODE_USHORT ? nv_load_u16_be(at + 1) : 0;
        return *at == CODE_USHORT;
    case ULONG:
        return read_ulong(at, member);
    case TIMESTAMP:
        *(int64_t *)member = *at == CODE_TIMESTAMP ? (int64_t)nv_load_u64_be(at + 1) : 0;
        return *at == CODE_TIMESTAMP;
    }
    return false;
}

/** Length of any value. 0: it is none, or longer than @p left */
static size_t described_extent(const uint8_t *at, size_t left)
{
    nv_reader r = nv_reader_of(nv_span_of(at, left));
    return nv_amqp_read_raw(&r).len;
}

/** The constructor of a list, its size and its count. @p fields: what the size spans behind the count */
static bool read_list_head(nv_reader *r, nv_reader *fields, uint32_t *count)
{
    uint8_t code = nv_read_u8(r);
    *count = 0;
    if (code == CODE_LIST_0) {
        *fields = nv_reader_of(nv_span_of(r->at, 0));
        return true;
    }
    if (code != CODE_LIST_8 && code != CODE_LIST_32) {
        return false;
    }
    size_t size = code == CODE_LIST_8 ? nv_read_u8(r) : nv_read_u32_be(r);
    *fields = nv_reader_of(nv_read_span(r, size));
    *count = code == CODE_LIST_8 ? nv_read_u8(fields) : nv_read_u32_be(fields);
    return r->err == NV_OK && fields->err == NV_OK;
}

static bool read_fields(nv_reader *r, const table_row *row, void *out)
{
    nv_reader fields;
    uint32_t count;
    if (!read_list_head(r, &fields, &count) || count > row->count) {
        return false;
    }
    uint32_t present = 0;
    const uint8_t *at = fields.at;
    for (uint32_t i = 0; i < count; i++) {
        size_t left = (size_t)(fields.end - at);
        if (left == 0) {
            return false;
        }
        if (*at == CODE_NULL) {
            at++;
            continue;
        }
        const field *f = &row->fields[i];
        size_t len = NV_LIKELY(*at != CODE_DESCRIBED) ? nv_amqp_extent(at, left)
                     : f->kind == ANY                 ? described_extent(at, left)
                                                      : 0;
        if (len == 0 || !read_field(f->kind, at, len, (uint8_t *)out + f->offset)) {
            return false;
        }
        at += len;
        present |= UINT32_C(1) << i;
    }
    memcpy(out, &present, sizeof(present)); /* the first member of each of the structs */
    return (present & row->required) == row->required && at == fields.end;
}

static nv_err read_row(nv_reader *r, const table_row *row, void *out)
{
    if (!read_fields(r, row, out)) {
        r->err = NV_E_SYNTAX;
    }
    return r->err;
}

nv_err nv_amqp_read_header_list(nv_reader *r, nv_amqp_header *out)
{
    return read_row(r, &rows[ROW_HEADER], out);
}

nv_err nv_amqp_read_properties_list(nv_reader *r, nv_amqp_properties *out)
{
    return read_row(r, &rows[ROW_PROPERTIES], out);
}

/** A descriptor of another form than 0x53: @p r is behind the code 0. */
static const table_row *read_long_descriptor(nv_reader *r)
{
    nv_reader at = *r;
    nv_amqp_value value;
    if (nv_reader_left(&at) == 0 || *at.at == CODE_DESCRIBED || !nv_amqp_read(&at, &value)) {
        return NULL;
    }
    r->at = at.at;
    return value.type == NV_AMQP_ULONG    ? find_row(value.u)
           : value.type == NV_AMQP_SYMBOL ? find_symbol(value.bytes)
                                          : NULL;
}

nv_err nv_amqp_decode(nv_reader *r, nv_amqp_performative *out)
{
    const uint8_t *start = r->at;
    if (!nv_reader_has(r, 3) || *r->at != CODE_DESCRIBED) {
        r->err = NV_E_SYNTAX;
        return NV_E_SYNTAX;
    }
    const table_row *row;
    if (r->at[1] == CODE_ULONG_8) {
        row = find_row(r->at[2]);
        r->at += 3;
    } else {
        r->at++;
        row = read_long_descriptor(r);
    }
    if (row) {
        out->code = (nv_amqp_code)row->code;
        memset(&out->open, 0, row->size);
        return read_row(r, row, &out->open);
    }
    r->at = start;
    if (!nv_amqp_skip(r)) {
        r->err = NV_E_SYNTAX;
        return NV_E_SYNTAX;
    }
    return NV_E_UNSUPPORTED;
}

nv_err nv_amqp_decode_span(nv_span encoded, nv_amqp_performative *out)
{
    nv_reader r = nv_reader_of(encoded);
    nv_err err = nv_amqp_decode(&r, out);
    return err != NV_E_SYNTAX && nv_reader_left(&r) > 0 ? NV_E_SYNTAX : err;
}

nv_span nv_amqp_text_of(nv_span any)
{
    nv_reader r = nv_reader_of(any);
    nv_amqp_value value;
    return any.len > 0 && nv_amqp_read(&r, &value) && nv_amqp_is_text(&value) ? value.bytes : NV_SPAN_EMPTY;
}

/* ---- writing ------------------------------------------------------------------------------------------------ */

static void put_span(nv_writer *w, nv_span bytes, void (*put)(nv_writer *, nv_span))
{
    if (bytes.ptr) {
        put(w, bytes);
    } else {
        nv_write_u8(w, CODE_NULL);
    }
}

static inline void put_field(nv_writer *w, uint8_t kind, const void *member, bool present)
{
    field_kind type = (field_kind)kind;
    if (!present && type != STRING && type != SYMBOL && type != BINARY && type != ANY) {
        nv_write_u8(w, CODE_NULL);
        return;
    }
    switch (type) {
    case UINT:
        nv_amqp_put_uint(w, *(const uint32_t *)member);
        return;
    case BOOLEAN:
        nv_amqp_put_boolean(w, *(const bool *)member);
        return;
    case ANY:
        nv_amqp_put_raw(w, *(const nv_span *)member);
        return;
    case BINARY:
        put_span(w, *(const nv_span *)member, nv_amqp_put_binary);
        return;
    case STRING:
        put_span(w, *(const nv_span *)member, nv_amqp_put_string);
        return;
    case SYMBOL:
        put_span(w, *(const nv_span *)member, nv_amqp_put_symbol);
        return;
    case UBYTE:
        nv_amqp_put_ubyte(w, *(const uint8_t *)member);
        return;
    case USHORT:
        nv_amqp_put_ushort(w, *(const uint16_t *)member);
        return;
    case ULONG:
        nv_amqp_put_ulong(w, *(const uint64_t *)member);
        return;
    case TIMESTAMP:
        nv_amqp_put_timestamp(w, *(const int64_t *)member);
        return;
    }
}

/** What list32 needs more than list8: three bytes of size, three of count. */
#define WIDER 6u

/** The fields from @p body on are written: their list was begun as a list8, which may be too small for them. */
static void end_fields(nv_writer *w, size_t body, uint8_t count)
{
    if (w->err != NV_OK) {
        return;
    }
    size_t len = nv_writer_len(w) - body;
    uint8_t *at = w->start + body;
    if (len < UINT8_MAX) {
        at[-2] = (uint8_t)(len + 1);
        return;
    }
    if (!nv_writer_has(w, WIDER)) {
        return;
    }
    memmove(at + WIDER, at, len);
    w->at += WIDER;
    at[-3] = CODE_LIST_32;
    nv_store_u32_be(at - 2, (uint32_t)(len + 4));
    nv_store_u32_be(at + 2, count);
}

static void write_row(nv_writer *w, const table_row *row, const void *in)
{
    uint32_t present;
    memcpy(&present, in, sizeof(present));
    nv_amqp_put_descriptor(w, row->code);
    if (row->count == 0) {
        nv_write_u8(w, CODE_LIST_0);
        return;
    }
    const uint8_t head[3] = {CODE_LIST_8, 0, row->count};
    nv_write_span(w, nv_span_of(head, sizeof(head)));
    size_t body = nv_writer_len(w);
    for (uint32_t i = 0; i < row->count; i++) {
        put_field(w, row->fields[i].kind, (const uint8_t *)in + row->fields[i].offset, (present >> i & 1u) != 0);
    }
    end_fields(w, body, row->count);
}

void nv_amqp_encode(nv_writer *w, const nv_amqp_performative *p)
{
    const table_row *row = find_row((uint64_t)p->code);
    if (row) {
        write_row(w, row, &p->open);
    }
}

#define X(NAME, name, code, symbol, fields)                                                                            \
    void nv_amqp_encode_##name(nv_writer *w, const nv_amqp_##name *p)                                                  \
    {                                                                                                                  \
        write_row(w, &rows[ROW_##NAME], p);                                                                            \
    }
NV_AMQP_TABLE(X)
#undef X
