/** Values to their full depth, for what is handed on to others as it came. */
#include "codec/amqp/wire.h"

/** An open compound: what is left of it. */
typedef struct level {
    const uint8_t *end;
    uint32_t left;
    uint8_t element; /* constructor that all share; CODE_DESCRIBED: each has its own */
} level;

/** The next thing in @p top. What is described becomes two more things of the same level. */
static bool next(nv_reader *r, level *top, nv_amqp_value *out)
{
    top->left--;
    if (top->element != CODE_DESCRIBED) {
        return nv_amqp_read_body(r, top->element, out);
    }
    if (nv_reader_left(r) == 0 || *r->at != CODE_DESCRIBED) {
        return nv_amqp_read(r, out);
    }
    nv_reader whole = *r;
    if (!nv_amqp_skip(&whole)) {
        return nv_amqp_fail(r, whole.err);
    }
    r->at++;
    top->left += 2;
    *out = (nv_amqp_value){.type = NV_AMQP_NULL};
    return true;
}

/** The constructor of an array of described elements, down to what is not described. */
static bool read_constructor(nv_reader *r, uint8_t *element)
{
    do {
        nv_amqp_value descriptor;
        if (!nv_amqp_read(r, &descriptor) || !nv_reader_has(r, 1)) {
            return false;
        }
        *element = *r->at++;
    } while (*element == CODE_DESCRIBED);
    return true;
}

/** @p value is a compound that ends where @p r is: go back into it. */
static bool enter(nv_reader *r, const nv_amqp_value *value, level *out)
{
    *out = (level){.end = r->at, .left = value->count, .element = CODE_DESCRIBED};
    r->at = value->bytes.ptr;
    r->end = out->end;
    if (value->type != NV_AMQP_ARRAY) {
        return true;
    }
    out->element = value->element;
    return value->element != CODE_DESCRIBED || read_constructor(r, &out->element);
}

/** Elements without bytes were counted when the array was read: there is nothing to see in it. */
static bool has_inside(const nv_reader *r, const nv_amqp_value *value)
{
    return value->type >= NV_AMQP_LIST && value->type <= NV_AMQP_ARRAY && value->bytes.len > 0 &&
           value->bytes.ptr + value->bytes.len == r->at;
}

nv_err nv_amqp_check(nv_span encoded)
{
    level levels[NV_AMQP_MAX_DEPTH + 1];
    size_t depth = 1;
    nv_reader r = nv_reader_of(encoded);
    levels[0] = (level){.end = r.end, .left = 1, .element = CODE_DESCRIBED};
    while (depth > 0) {
        level *top = &levels[depth - 1];
        r.end = top->end;
        if (top->left == 0) {
            if (r.at != r.end) {
                return NV_E_SYNTAX;
            }
            depth--;
            continue;
        }
        nv_amqp_value value;
        if (!next(&r, top, &value)) {
            return r.err;
        }
        if (!has_inside(&r, &value)) {
            continue;
        }
        if (depth > NV_AMQP_MAX_DEPTH) {
            return NV_E_LIMIT;
        }
        if (!enter(&r, &value, &levels[depth++])) {
            return r.err;
        }
    }
    return NV_OK;
}
