/*
 * All integers little-endian. The checksum is CRC-32C; "sealed by G" means that it starts over the 16 bytes
 * {generation of the segment, position in the file}, so that no byte of a file's former life, and no block that moved,
 * can pass for a present one.
 *
 * Segment header, one block at position 0
 *    0 u32 magic "NVS1"         4 u32 checksum of bytes 8..4095
 *    8 u16 version             10 u16 partitions, 1..32
 *   12 u32 commit alignment: 4096 or 8
 *   16 u8[16] uuid of the log  32 u64 segment number       40 u64 generation, random
 *   48 u32 flags: 1 = start was durable, 2 = prewritten    52 u32 zero
 *   56 u64 number of the previous segment, 0 = none        64 u64 position in it where the log goes on here
 *   72 u64 index of the first commit here: commits of the previous segment from this index on are void
 *   80 u64 outbox row          88 i64 last enqueued time of the log
 *   96 per partition 32 bytes: u64 next sequence, u64 next offset, u64 last offset, i64 last time
 *
 * Commit, at a multiple of the alignment, sealed by G over bytes 8.. and the payload
 *    0 u32 magic "NVC1"         4 u32 checksum
 *    8 u64 commit index        16 u32 payload bytes        20 u32 bytes on disk: header, payload, padding
 *   24 u32 runs                28 u32 records              32 i64 wall time of the commit
 *   40 u64 outbox row
 *   48 runs
 *
 * Run
 *    0 u32 bytes: header, stamp, records                    4 u16 partition    6 u16 stamp bytes
 *    8 u32 records             12 u64 first sequence       20 u64 first offset
 *   28 i64 enqueued time       36 u32 position of the last record behind the stamp
 *   40 stamp, records
 *
 * Record
 *    0 u32 bytes: header, properties, body                  4 u8 source   5 u8 body kind   6 u16 property bytes
 *    8 properties, body
 *
 * Footer: the index, then one block that ends with the file. The block is sealed by G with its own position
 *    0 u32 magic "NVF1"         4 u32 checksum of bytes 8..4095
 *    8 u64 segment number      16 u64 end position         24 u64 index of the next commit
 *   32 u64 outbox row          40 i64 first time           48 i64 last time
 *   56 u64 commits             64 u64 records              72 u64 padding bytes
 *   80 u32 index entries       84 u32 checksum of the index
 *   88 per partition 32 bytes as in the header, after the last commit
 * Index entry: u64 position, u64 commit index, i64 time, then per partition u64 next sequence in front of it
 */
#include "store/log_format.h"

#include "base/crc32c.h"

static const uint32_t segment_magic = 0x3153564e; /* "NVS1" */
static const uint32_t commit_magic = 0x3143564e;  /* "NVC1" */
static const uint32_t footer_magic = 0x3146564e;  /* "NVF1" */

/* No counter of a real log comes near; from here on, additions cannot overflow. */
static const uint64_t count_max = UINT64_C(1) << 62;

enum { FLAG_START_DURABLE = 1, FLAG_PREWRITTEN = 2, PART_BYTES = 32, HEADER_PARTS = 96, FOOTER_PARTS = 88 };

static uint32_t seal(uint64_t generation, uint64_t position)
{
    uint8_t bytes[16];
    nv_store_u64_le(bytes, generation);
    nv_store_u64_le(bytes + 8, position);
    return nv_crc32c(0, nv_span_of(bytes, sizeof(bytes)));
}

static void put_part(uint8_t *p, const nv_part_point *part)
{
    nv_store_u64_le(p, part->next_sequence);
    nv_store_u64_le(p + 8, part->next_offset);
    nv_store_u64_le(p + 16, part->last_offset);
    nv_store_u64_le(p + 24, (uint64_t)part->last_time_us);
}

static nv_part_point get_part(const uint8_t *p)
{
    return (nv_part_point){nv_load_u64_le(p), nv_load_u64_le(p + 8), nv_load_u64_le(p + 16),
                           (int64_t)nv_load_u64_le(p + 24)};
}

/* ---- segment header --------------------------------------------------------------------------------------- */

void nv_segment_header_encode(const nv_segment_header *h, uint8_t out[NV_LOG_BLOCK])
{
    memset(out, 0, NV_LOG_BLOCK);
    nv_store_u32_le(out, segment_magic);
    nv_store_u16_le(out + 8, NV_LOG_VERSION);
    nv_store_u16_le(out + 10, (uint16_t)h->partitions);
    nv_store_u32_le(out + 12, h->align);
    memcpy(out + 16, h->uuid, sizeof(h->uuid));
    nv_store_u64_le(out + 32, h->number);
    nv_store_u64_le(out + 40, h->generation);
    nv_store_u32_le(out + 48,
                    (h->start_was_durable ? FLAG_START_DURABLE : 0u) | (h->prewritten ? FLAG_PREWRITTEN : 0u));
    nv_store_u64_le(out + 56, h->start.segment);
    nv_store_u64_le(out + 64, h->start.position);
    nv_store_u64_le(out + 72, h->start.next_commit);
    nv_store_u64_le(out + 80, h->start.outbox_row);
    nv_store_u64_le(out + 88, (uint64_t)h->start.last_time_us);
    for (uint32_t i = 0; i < h->partitions; i++) {
        put_part(out + HEADER_PARTS + (size_t)i * PART_BYTES, &h->start.parts[i]);
    }
    nv_store_u32_le(out + 4, nv_crc32c(0, nv_span_of(out + 8, NV_LOG_BLOCK - 8)));
}

nv_err nv_segment_header_decode(const uint8_t in[NV_LOG_BLOCK], nv_segment_header *h)
{
    if (nv_load_u32_le(in) != segment_magic) {
        return NV_E_NOT_FOUND;
    }
    if (nv_load_u32_le(in + 4) != nv_crc32c(0, nv_span_of(in + 8, NV_LOG_BLOCK - 8))) {
        return NV_E_CORRUPT;
    }
    if (nv_load_u16_le(in + 8) != NV_LOG_VERSION) {
        return NV_E_UNSUPPORTED;
    }
    uint32_t flags = nv_load_u32_le(in + 48);
    *h = (nv_segment_header){.number = nv_load_u64_le(in + 32),
                             .generation = nv_load_u64_le(in + 40),
                             .partitions = nv_load_u16_le(in + 10),
                             .align = nv_load_u32_le(in + 12),
                             .start_was_durable = flags & FLAG_START_DURABLE,
                             .prewritten = flags & FLAG_PREWRITTEN,
                             .start = {.segment = nv_load_u64_le(in + 56),
                                       .position = nv_load_u64_le(in + 64),
                                       .next_commit = nv_load_u64_le(in + 72),
                                       .outbox_row = nv_load_u64_le(in + 80),
                                       .last_time_us = (int64_t)nv_load_u64_le(in + 88)}};
    memcpy(h->uuid, in + 16, sizeof(h->uuid));
    if (h->partitions < 1 || h->partitions > NV_LOG_MAX_PARTITIONS ||
        (h->align != NV_LOG_BLOCK && h->align != NV_LOG_DENSE_ALIGN) || h->number == 0 ||
        h->start.segment >= h->number) {
        return NV_E_CORRUPT;
    }
    bool sane = h->start.next_commit < count_max && h->number < count_max && h->start.last_time_us < (int64_t)count_max;
    for (uint32_t i = 0; i < h->partitions; i++) {
        h->start.parts[i] = get_part(in + HEADER_PARTS + (size_t)i * PART_BYTES);
        sane = sane && h->start.parts[i].next_sequence < count_max && h->start.parts[i].next_offset < count_max;
    }
    return sane ? NV_OK : NV_E_CORRUPT;
}

/* ---- commits ---------------------------------------------------------------------------------------------- */

static uint32_t commit_checksum(const uint8_t *at, uint32_t payload_bytes, uint64_t generation, uint64_t position)
{
    return nv_crc32c(seal(generation, position), nv_span_of(at + 8, NV_COMMIT_HEADER - 8 + (size_t)payload_bytes));
}

void nv_commit_encode(uint8_t *at, const nv_commit *c, uint64_t generation, uint64_t position)
{
    nv_store_u32_le(at, commit_magic);
    nv_store_u64_le(at + 8, c->index);
    nv_store_u32_le(at + 16, c->payload_bytes);
    nv_store_u32_le(at + 20, c->disk_bytes);
    nv_store_u32_le(at + 24, c->runs);
    nv_store_u32_le(at + 28, c->records);
    nv_store_u64_le(at + 32, (uint64_t)c->wall_us);
    nv_store_u64_le(at + 40, c->outbox_row);
    nv_store_u32_le(at + 4, commit_checksum(at, c->payload_bytes, generation, position));
}

nv_err nv_commit_decode(nv_span bytes, uint64_t generation, uint64_t position, nv_commit *out)
{
    *out = (nv_commit){.index = 0};
    if (bytes.len < NV_COMMIT_HEADER) {
        return NV_E_MORE;
    }
    const uint8_t *p = bytes.ptr;
    if (nv_load_u32_le(p) != commit_magic) {
        return NV_E_CORRUPT;
    }
    *out = (nv_commit){.index = nv_load_u64_le(p + 8),
                       .payload_bytes = nv_load_u32_le(p + 16),
                       .disk_bytes = nv_load_u32_le(p + 20),
                       .runs = nv_load_u32_le(p + 24),
                       .records = nv_load_u32_le(p + 28),
                       .wall_us = (int64_t)nv_load_u64_le(p + 32),
                       .outbox_row = nv_load_u64_le(p + 40),
                       .payload = p + NV_COMMIT_HEADER};
    uint64_t used = NV_COMMIT_HEADER + (uint64_t)out->payload_bytes;
    if (out->disk_bytes > NV_COMMIT_MAX || used > out->disk_bytes || out->disk_bytes - used >= NV_LOG_BLOCK) {
        return NV_E_CORRUPT;
    }
    if (bytes.len < out->disk_bytes) {
        return NV_E_MORE;
    }
    return commit_checksum(p, out->payload_bytes, generation, position) == nv_load_u32_le(p + 4) ? NV_OK : NV_E_CORRUPT;
}

bool nv_run_next(nv_span *payload, nv_run *out)
{
    if (payload->len == 0) {
        return false;
    }
    const uint8_t *p = payload->ptr;
    uint32_t bytes = payload->len < NV_RUN_HEADER ? 0 : nv_load_u32_le(p);
    uint32_t stamp = bytes ? nv_load_u16_le(p + 6) : 0;
    if (bytes < NV_RUN_HEADER + stamp || bytes > payload->len) {
        *payload = NV_SPAN_EMPTY;
        return false;
    }
    *out = (nv_run){.partition = nv_load_u16_le(p + 4),
                    .records = nv_load_u32_le(p + 8),
                    .first_sequence = nv_load_u64_le(p + 12),
                    .first_offset = nv_load_u64_le(p + 20),
                    .enqueued_us = (int64_t)nv_load_u64_le(p + 28),
                    .last_record = nv_load_u32_le(p + 36),
                    .stamp = nv_span_of(p + NV_RUN_HEADER, stamp),
                    .bytes = nv_span_of(p + NV_RUN_HEADER + stamp, bytes - NV_RUN_HEADER - stamp)};
    *payload = nv_span_of(p + bytes, payload->len - bytes);
    return true;
}

void nv_run_patch(uint8_t *run, uint64_t first_sequence, uint64_t first_offset, int64_t enqueued_us)
{
    nv_store_u64_le(run + 12, first_sequence);
    nv_store_u64_le(run + 20, first_offset);
    nv_store_u64_le(run + 28, (uint64_t)enqueued_us);
}

nv_err nv_log_point_advance(nv_log_point *point, const nv_commit *commit, uint32_t partitions)
{
    nv_span payload = nv_span_of(commit->payload, commit->payload_bytes);
    nv_run run;
    uint64_t runs = 0;
    uint64_t records = 0;
    while (nv_run_next(&payload, &run)) {
        nv_part_point *part = run.partition < partitions ? &point->parts[run.partition] : NULL;
        if (!part || run.records == 0 || run.first_sequence != part->next_sequence ||
            run.first_offset != part->next_offset || run.last_record >= run.bytes.len) {
            return NV_E_CORRUPT;
        }
        part->next_sequence += run.records;
        part->next_offset += run.bytes.len;
        part->last_offset = run.first_offset + run.last_record;
        part->last_time_us = run.enqueued_us;
        runs++;
        records += run.records;
    }
    if (!payload.ptr || runs != commit->runs || records != commit->records || commit->index != point->next_commit) {
        return NV_E_CORRUPT;
    }
    point->next_commit++;
    point->outbox_row = commit->outbox_row;
    point->last_time_us = commit->wall_us;
    return NV_OK;
}

/* ---- footer ----------------------------------------------------------------------------------------------- */

size_t nv_index_entry_bytes(uint32_t partitions)
{
    return 24 + 8 * (size_t)partitions;
}

size_t nv_footer_bytes(uint32_t partitions, size_t count)
{
    return (size_t)nv_align_up(count * nv_index_entry_bytes(partitions), NV_LOG_BLOCK) + NV_LOG_BLOCK;
}

static void put_index_entry(uint32_t partitions, const nv_index_entry *entry, uint8_t *p)
{
    nv_store_u64_le(p, entry->position);
    nv_store_u64_le(p + 8, entry->commit);
    nv_store_u64_le(p + 16, (uint64_t)entry->time_us);
    for (uint32_t i = 0; i < partitions; i++) {
        nv_store_u64_le(p + 24 + 8 * (size_t)i, entry->next_sequence[i]);
    }
}

void nv_footer_encode(const nv_segment_header *h, const nv_segment_footer *f, const nv_index_entry *index, uint8_t *out)
{
    size_t total = nv_footer_bytes(h->partitions, f->index_count);
    size_t entry = nv_index_entry_bytes(h->partitions);
    memset(out, 0, total);
    for (size_t i = 0; i < f->index_count; i++) {
        put_index_entry(h->partitions, &index[i], out + i * entry);
    }
    uint8_t *p = out + total - NV_LOG_BLOCK;
    nv_store_u32_le(p, footer_magic);
    nv_store_u64_le(p + 8, h->number);
    nv_store_u64_le(p + 16, f->end.position);
    nv_store_u64_le(p + 24, f->end.next_commit);
    nv_store_u64_le(p + 32, f->end.outbox_row);
    nv_store_u64_le(p + 40, (uint64_t)f->first_time_us);
    nv_store_u64_le(p + 48, (uint64_t)f->end.last_time_us);
    nv_store_u64_le(p + 56, f->commits);
    nv_store_u64_le(p + 64, f->records);
    nv_store_u64_le(p + 72, f->padding);
    nv_store_u32_le(p + 80, f->index_count);
    nv_store_u32_le(p + 84, nv_crc32c(0, nv_span_of(out, f->index_count * entry)));
    for (uint32_t i = 0; i < h->partitions; i++) {
        put_part(p + FOOTER_PARTS + (size_t)i * PART_BYTES, &f->end.parts[i]);
    }
    nv_store_u32_le(p + 4, nv_crc32c(seal(h->generation, h->number), nv_span_of(p + 8, NV_LOG_BLOCK - 8)));
}

nv_err nv_footer_decode(const nv_segment_header *h, const uint8_t p[NV_LOG_BLOCK], nv_segment_footer *f)
{
    if (nv_load_u32_le(p) != footer_magic || nv_load_u64_le(p + 8) != h->number ||
        nv_load_u32_le(p + 4) != nv_crc32c(seal(h->generation, h->number), nv_span_of(p + 8, NV_LOG_BLOCK - 8))) {
        return NV_E_CORRUPT;
    }
    *f = (nv_segment_footer){.end = {.segment = h->number,
                                     .position = nv_load_u64_le(p + 16),
                                     .next_commit = nv_load_u64_le(p + 24),
                                     .outbox_row = nv_load_u64_le(p + 32),
                                     .last_time_us = (int64_t)nv_load_u64_le(p + 48)},
                             .first_time_us = (int64_t)nv_load_u64_le(p + 40),
                             .commits = nv_load_u64_le(p + 56),
                             .records = nv_load_u64_le(p + 64),
                             .padding = nv_load_u64_le(p + 72),
                             .index_count = nv_load_u32_le(p + 80)};
    for (uint32_t i = 0; i < h->partitions; i++) {
        f->end.parts[i] = get_part(p + FOOTER_PARTS + (size_t)i * PART_BYTES);
    }
    return NV_OK;
}

bool nv_index_valid(const nv_segment_header *h, const uint8_t tail[NV_LOG_BLOCK], nv_span index)
{
    return index.len == nv_load_u32_le(tail + 80) * nv_index_entry_bytes(h->partitions) &&
           nv_crc32c(0, index) == nv_load_u32_le(tail + 84);
}

void nv_index_decode(uint32_t partitions, const uint8_t *bytes, size_t i, nv_index_entry *out)
{
    const uint8_t *p = bytes + i * nv_index_entry_bytes(partitions);
    *out = (nv_index_entry){nv_load_u64_le(p), nv_load_u64_le(p + 8), (int64_t)nv_load_u64_le(p + 16), {0}};
    for (uint32_t k = 0; k < partitions; k++) {
        out->next_sequence[k] = nv_load_u64_le(p + 24 + 8 * (size_t)k);
    }
}
