#include "store/log_chunk.h"

#include <stdlib.h>

struct nv_log_chunk {
    _Atomic unsigned refs;
    nv_log_filter want;
    nv_log_slab *slab; /* a reference */
    size_t start;
    size_t end;
    /* the iteration */
    size_t at; /* next commit */
    nv_span runs;
    nv_span records;
    uint32_t records_left;
    nv_record next;   /* what the records of this run share, counted on */
    uint8_t device[]; /* want.device_id */
};

nv_log_chunk *nv_log_chunk_new(const nv_log_filter *want, nv_log_slab *slab, size_t start, size_t end)
{
    nv_log_chunk *chunk = calloc(1, sizeof(*chunk) + want->device_id.len);
    if (!chunk) {
        return NULL;
    }
    atomic_init(&chunk->refs, 1);
    chunk->want = *want;
    if (want->device_id.len) {
        memcpy(chunk->device, want->device_id.ptr, want->device_id.len);
        chunk->want.device_id.ptr = chunk->device;
    }
    chunk->slab = slab;
    chunk->start = start;
    chunk->end = end;
    chunk->at = start;
    return chunk;
}

void nv_log_chunk_ref(nv_log_chunk *chunk)
{
    atomic_fetch_add(&chunk->refs, 1);
}

void nv_log_chunk_release(nv_log_chunk *chunk)
{
    if (chunk && atomic_fetch_sub(&chunk->refs, 1) == 1) {
        nv_log_slab_release(chunk->slab);
        free(chunk);
    }
}

void nv_log_chunk_rewind(nv_log_chunk *chunk)
{
    chunk->at = chunk->start;
    chunk->runs = NV_SPAN_EMPTY;
    chunk->records = NV_SPAN_EMPTY;
    chunk->records_left = 0;
}

static bool wanted(const nv_log_filter *want, const nv_run *run)
{
    if (!(want->partitions >> run->partition & 1) || run->enqueued_us < want->from_us ||
        run->first_sequence + run->records <= want->from_sequence ||
        run->first_offset + run->last_record < want->from_offset) {
        return false;
    }
    nv_stamp stamp;
    return want->device_id.len == 0 ||
           (nv_stamp_decode(run->stamp, &stamp) == NV_OK && nv_span_eq(stamp.device_id, want->device_id));
}

uint64_t nv_log_filter_count(const nv_log_filter *want, const uint8_t *commit)
{
    nv_span runs = nv_span_of(commit + NV_COMMIT_HEADER, nv_load_u32_le(commit + 16));
    uint64_t records = 0;
    nv_run run;
    while (nv_run_next(&runs, &run)) {
        records += wanted(want, &run) ? run.records : 0;
    }
    return records;
}

/** Step to the next run that is wanted. @return false at the end of the chunk */
static bool next_run(nv_log_chunk *chunk)
{
    for (;;) {
        nv_run run;
        while (nv_run_next(&chunk->runs, &run)) {
            if (wanted(&chunk->want, &run)) {
                chunk->records = run.bytes;
                chunk->records_left = run.records;
                chunk->next = (nv_record){.partition = run.partition,
                                          .sequence = run.first_sequence,
                                          .offset = run.first_offset,
                                          .enqueued_us = run.enqueued_us,
                                          .stamp = run.stamp};
                return true;
            }
        }
        if (chunk->at >= chunk->end) {
            return false;
        }
        const uint8_t *commit = chunk->slab->bytes + chunk->at; /* verified when it was read */
        chunk->runs = nv_span_of(commit + NV_COMMIT_HEADER, nv_load_u32_le(commit + 16));
        chunk->at += nv_load_u32_le(commit + 20);
    }
}

bool nv_log_chunk_next(nv_log_chunk *chunk, nv_record *out)
{
    for (;;) {
        while (chunk->records_left == 0) {
            if (!next_run(chunk)) {
                return false;
            }
        }
        const uint8_t *at = chunk->records.ptr;
        size_t left = chunk->records.len;
        uint32_t size = left < NV_RECORD_HEADER ? 0 : nv_load_u32_le(at);
        uint32_t properties = size ? nv_load_u16_le(at + 6) : 0;
        if (NV_UNLIKELY(size < NV_RECORD_HEADER + properties || size > left)) {
            chunk->records_left = 0; /* a right checksum over wrong lengths: nothing in this run can be told apart */
            continue;
        }
        *out = chunk->next;
        out->source = (nv_source)at[4];
        out->body_kind = (nv_body_kind)at[5];
        out->properties = nv_span_of(at + NV_RECORD_HEADER, properties);
        out->body = nv_span_of(at + NV_RECORD_HEADER + properties, size - NV_RECORD_HEADER - properties);
        chunk->records = nv_span_of(at + size, left - size);
        chunk->records_left--;
        chunk->next.sequence++;
        chunk->next.offset += size;
        if (NV_LIKELY(out->sequence >= chunk->want.from_sequence && out->offset >= chunk->want.from_offset)) {
            return true;
        }
    }
}
