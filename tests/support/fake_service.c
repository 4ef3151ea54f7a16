#include "support/fake_service.h"

#include "base/alloc.h"
#include "base/list.h"
#include "support/fake_cloud.h"

#include <stdlib.h>

static nv_list *used(nv_list *list)
{
    if (!list->next) {
        nv_list_init(list);
    }
    return list;
}

/* ---- readers ------------------------------------------------------------------------------------------------ */

struct nv_log_reader {
    nv_list link;
    nv_exec *exec;
    nv_log_read_done done;
    void *arg;
    nv_task task;
    nv_log_chunk *chunk;
    nv_err status;
    uint64_t sequence;
    bool posted;
    bool closed;
};

struct nv_log_chunk {
    uint32_t refs;
    bool taken;
    nv_record record;
    uint8_t body[64];
    uint8_t stamp[64];
};

static nv_list readers;

nv_err nv_log_reader_open(nv_log_reader **out, nv_log *log, const nv_log_read_options *options, nv_exec *exec)
{
    (void)log;
    (void)options;
    nv_log_reader *r = nv_calloc(1, sizeof(*r));
    r->exec = exec;
    nv_list_push_back(used(&readers), &r->link);
    *out = r;
    return NV_OK;
}

static void answer(nv_task *task)
{
    nv_log_reader *r = nv_container_of(task, nv_log_reader, task);
    nv_log_read_done done = r->done;
    r->posted = false;
    r->done = NULL;
    if (r->closed) {
        nv_log_chunk_release(r->chunk);
        free(r);
        return;
    }
    nv_log_chunk *chunk = r->chunk;
    r->chunk = NULL;
    done(r->arg, r->status, chunk);
}

void nv_log_reader_next(nv_log_reader *reader, nv_log_read_done done, void *arg)
{
    reader->done = done;
    reader->arg = arg;
}

void nv_log_reader_close(nv_log_reader *reader)
{
    if (!reader) {
        return;
    }
    nv_list_remove(&reader->link);
    if (reader->posted) {
        reader->closed = true; /* answer() frees it */
    } else {
        free(reader);
    }
}

static nv_log_chunk *chunk_new(uint64_t sequence, nv_span body)
{
    nv_log_chunk *chunk = nv_calloc(1, sizeof(*chunk));
    nv_buf stamp;
    nv_buf_init(&stamp, sizeof(chunk->stamp));
    nv_stamp who = {.device_id = nv_span_str("d"), .generation_id = nv_span_str("1")};
    if (nv_stamp_encode(&stamp, &who) != NV_OK) {
        abort();
    }
    memcpy(chunk->stamp, nv_buf_span(&stamp).ptr, nv_buf_len(&stamp));
    body = nv_span_first(body, sizeof(chunk->body));
    if (body.len > 0) {
        memcpy(chunk->body, body.ptr, body.len);
    }
    chunk->refs = 1;
    chunk->record = (nv_record){.sequence = sequence,
                                .offset = sequence * 100,
                                .enqueued_us = 1,
                                .stamp = nv_span_of(chunk->stamp, nv_buf_len(&stamp)),
                                .body = nv_span_of(chunk->body, body.len)};
    nv_buf_deinit(&stamp);
    return chunk;
}

size_t fake_readers_give(nv_err status, nv_span body)
{
    size_t count = 0;
    for (nv_list *node = used(&readers)->next; node != &readers; node = node->next) {
        nv_log_reader *r = nv_container_of(node, nv_log_reader, link);
        if (!r->done || r->posted) {
            continue;
        }
        r->status = status;
        r->chunk = status == NV_OK ? chunk_new(r->sequence++, body) : NULL;
        r->posted = true;
        r->task.run = answer;
        nv_post(r->exec, &r->task);
        count++;
    }
    return count;
}

bool nv_log_chunk_next(nv_log_chunk *chunk, nv_record *out)
{
    bool there = !chunk->taken;
    chunk->taken = true;
    *out = chunk->record;
    return there;
}

void nv_log_chunk_rewind(nv_log_chunk *chunk)
{
    chunk->taken = false;
}

void nv_log_chunk_ref(nv_log_chunk *chunk)
{
    chunk->refs++;
}

void nv_log_chunk_release(nv_log_chunk *chunk)
{
    if (chunk && --chunk->refs == 0) {
        free(chunk);
    }
}

nv_err nv_log_get_partition(nv_log *log, uint32_t partition, nv_log_partition_info *out)
{
    (void)log;
    *out = (nv_log_partition_info){.next_sequence = 1};
    return partition < 4 ? NV_OK : NV_E_NOT_FOUND;
}

/* ---- sending ------------------------------------------------------------------------------------------------ */

static nv_hub_error send_error;

void fake_send_set_error(nv_hub_error error)
{
    send_error = error;
}

bool nv_c2d_ack_parse(nv_span text, nv_c2d_ack *ack)
{
    for (int i = 0; i < 4; i++) {
        if (nv_span_eq_nocase(text, nv_span_str(nv_c2d_ack_name((nv_c2d_ack)i)))) {
            *ack = (nv_c2d_ack)i;
            return true;
        }
    }
    return false;
}

static void sent(nv_task *task)
{
    nv_c2d_send *send = nv_container_of(task, nv_c2d_send, _task);
    send->error = send_error;
    send->detail[0] = '\0';
    if (!nv_span_eq_str(send->device_id, "d")) {
        send->error = NV_HUB_ERROR_DeviceNotFound;
    } else if (send->error == NV_HUB_ERROR_NONE && fake_c2d_count() < 64) {
        send->sequence = fake_c2d_send(send->_loop, "d", send->ack, send->properties, send->body);
    }
    send->done(send);
}

void nv_c2d_send_do(nv_hub_loop *loop, nv_c2d_send *send)
{
    send->_loop = loop;
    send->_task.run = sent;
    nv_post(loop->exec, &send->_task);
}

/* ---- feedback ----------------------------------------------------------------------------------------------- */

static nv_list takes;

static void taken(nv_task *task)
{
    nv_feedback_take *take = nv_container_of(task, nv_feedback_take, _task);
    take->done(take);
}

static void answer_take(nv_feedback_take *take, const char *records)
{
    nv_list_remove(&take->_link);
    if (nv_buf_append_str(&take->records, records) != NV_OK) {
        abort();
    }
    memcpy(take->lock_token, "0f8fad5b-d9cb-469f-a165-70867728950e", sizeof(take->lock_token));
    take->_task.run = taken;
    nv_post(take->_loop->exec, &take->_task);
}

void nv_feedback_take_do(nv_hub_loop *loop, nv_feedback_take *take)
{
    take->_loop = loop;
    take->error = NV_HUB_ERROR_NONE;
    nv_buf_init(&take->records, 65536);
    nv_list_init(&take->_link);
    nv_list_push_back(used(&takes), &take->_link);
    if (!take->wait) {
        answer_take(take, "");
    }
}

void nv_feedback_take_cancel(nv_feedback_take *take)
{
    if (nv_list_linked(&take->_link)) {
        answer_take(take, "");
    }
}

size_t fake_feedback_give(const char *records)
{
    size_t count = 0;
    while (!nv_list_empty(used(&takes))) {
        answer_take(nv_container_of(takes.next, nv_feedback_take, _link), records);
        count++;
    }
    return count;
}

static void settled(nv_task *task)
{
    nv_feedback_settle *settle = nv_container_of(task, nv_feedback_settle, _task);
    settle->done(settle);
}

void nv_feedback_settle_do(nv_hub_loop *loop, nv_feedback_settle *settle)
{
    settle->_loop = loop;
    settle->error = NV_HUB_ERROR_NONE;
    settle->_task.run = settled;
    nv_post(loop->exec, &settle->_task);
}
