#include "core/twin_metadata.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/cursor.h"
#include "codec/json.h"
#include "core/twin_json.h"

nv_err nv_twin_entry_put(nv_buf *out, const nv_twin_stamp *stamp)
{
    uint8_t bytes[16];
    nv_store_u64_le(bytes, (uint64_t)stamp->us);
    nv_store_u64_le(bytes + 8, stamp->version);
    return nv_buf_append(out, nv_span_of(bytes, nv_twin_entry_size(stamp->versions)));
}

typedef struct renderer {
    nv_json_writer *w;
    nv_twin_cursor text;
    nv_span entries;
    nv_twin_stamp stamp;          /* of the entry read last */
    char time[NV_TIME_TEXT_SIZE]; /* its time as text: neighbours often share it */
    int64_t time_us;
} renderer;

static void write_stamp(renderer *r)
{
    if (r->time_us != r->stamp.us || !r->time[0]) {
        nv_time_format(r->stamp.us, r->time);
        r->time_us = r->stamp.us;
    }
    nv_json_begin_object(r->w);
    nv_json_key(r->w, "$lastUpdated");
    nv_json_str(r->w, r->time);
    if (r->stamp.versions && r->stamp.version) {
        nv_json_key(r->w, "$lastUpdatedVersion");
        nv_json_uint(r->w, r->stamp.version);
    }
}

void nv_twin_stamp_begin(nv_json_writer *w, const nv_twin_stamp *stamp)
{
    renderer r = {.w = w, .stamp = *stamp};
    write_stamp(&r);
}

void nv_twin_name_write(nv_json_writer *w, nv_span quoted)
{
    nv_json_raw(w, quoted);
    w->comma = false;
    nv_json_raw(w, nv_span_str(":"));
    w->comma = false;
}

/* Where entries are missing the last one stands: never so in what we wrote. */
static void next_entry(renderer *r)
{
    size_t size = nv_twin_entry_size(r->stamp.versions);
    if (r->entries.len >= size) {
        r->stamp.us = (int64_t)nv_load_u64_le(r->entries.ptr);
        r->stamp.version = r->stamp.versions ? nv_load_u64_le(r->entries.ptr + 8) : 0;
        r->entries = nv_span_skip(r->entries, size);
    }
}

static void write_node(renderer *r, uint32_t depth)
{
    next_entry(r);
    write_stamp(r);
    if (nv_twin_peek(&r->text) == '{' && depth <= NV_TWIN_DEPTH_MAX) {
        nv_span key;
        r->text.at++;
        while (nv_twin_next_member(&r->text, &key)) {
            nv_twin_name_write(r->w, key);
            write_node(r, depth + 1);
        }
    } else {
        (void)nv_twin_take_value(&r->text, NULL);
    }
    nv_json_end_object(r->w);
}

void nv_twin_metadata_write(nv_json_writer *w, nv_span text, nv_span metadata, bool versions, int64_t created_us)
{
    renderer r = {.w = w,
                  .text = nv_twin_cursor_of(text),
                  .entries = metadata,
                  .stamp = {.us = created_us, .versions = versions}};
    write_node(&r, 0);
}
