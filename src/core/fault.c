#include "core/fault.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "core/identity.h"
#include "store/record.h"

#include <pthread.h>
#include <stdlib.h>

#define FAULTS_MAX  1024u
#define LONGEST_US  (3600 * NV_US_PER_S)
#define FRACTION_US 100000 /* of the first digit behind the point */

const char *nv_fault_name(nv_fault_kind kind)
{
    static const char *const names[] = {
#define X(id, name, what) name,
        NV_FAULT_TABLE(X)
#undef X
    };
    return names[kind];
}

bool nv_fault_is_amqp(nv_fault_kind kind)
{
    return kind >= NV_FAULT_SHUT_DOWN_AMQP && kind <= NV_FAULT_AMQP_METHOD_RESPONSE;
}

/* ---- what a message asks for ----------------------------------------------------------------------------------- */

static nv_fault_kind kind_of(nv_span name)
{
    for (nv_fault_kind kind = NV_FAULT_KILL_TCP; kind <= NV_FAULT_AUTH; kind++) {
        if (nv_span_eq_str(name, nv_fault_name(kind))) {
            return kind;
        }
    }
    return NV_FAULT_NONE;
}

/* "5", "0.25": decimal seconds. */
static int64_t seconds_of(nv_span text)
{
    uint64_t whole = 0;
    nv_span left = nv_span_first(text, nv_span_find(text, '.'));
    nv_span fraction = nv_span_skip(text, left.len + 1);
    if (left.len > 0 && !nv_span_to_u64(left, &whole)) {
        return 0;
    }
    int64_t us = whole < (uint64_t)(LONGEST_US / NV_US_PER_S) ? (int64_t)whole * NV_US_PER_S : LONGEST_US;
    for (int64_t unit = FRACTION_US, i = 0; unit > 0 && (size_t)i < fraction.len; i++, unit /= 10) {
        uint8_t digit = fraction.ptr[i];
        us += digit >= '0' && digit <= '9' ? (digit - '0') * unit : 0;
    }
    return us < LONGEST_US ? us : LONGEST_US;
}

static void keep_reason(nv_fault_order *out, nv_span text)
{
    size_t len = text.len < sizeof(out->reason) - 1 ? text.len : sizeof(out->reason) - 1;
    memcpy(out->reason, text.ptr, len);
    out->reason[len] = '\0';
}

bool nv_fault_read(nv_span properties, nv_fault_order *out)
{
    static const char prefix[] = "AzIoTHub_FaultOperation";
    nv_reader r = nv_reader_of(properties);
    nv_property p;
    *out = (nv_fault_order){.kind = NV_FAULT_NONE};
    while (nv_property_next(&r, &p)) {
        if (p.id != NV_PROP_APPLICATION || !nv_span_starts_with(p.name, nv_span_str(prefix))) {
            continue;
        }
        char scratch[NV_VALUE_TEXT_SIZE];
        nv_span text = nv_value_text(&p.value, scratch);
        if (text.len == 0) {
            continue;
        }
        nv_span what = nv_span_skip(p.name, sizeof(prefix) - 1);
        if (nv_span_eq_str(what, "Type")) {
            out->kind = kind_of(text);
        } else if (nv_span_eq_str(what, "CloseReason")) {
            keep_reason(out, text);
        } else if (nv_span_eq_str(what, "DelayInSecs")) {
            out->delay_us = seconds_of(text);
        } else if (nv_span_eq_str(what, "DurationInSecs")) {
            out->duration_us = seconds_of(text);
        }
    }
    return out->kind != NV_FAULT_NONE;
}

/* ---- faults that last ------------------------------------------------------------------------------------------ */

typedef struct fault_row {
    nv_fault_kind kind;
    int64_t from_us;
    int64_t until_us;
    size_t key_len;
    char key[2 * NV_ID_MAX + 2];
} fault_row;

struct nv_faults {
    pthread_mutex_t lock;
    fault_row *rows;
    size_t count;
    size_t next; /* the oldest, once all are used */
};

nv_faults *nv_faults_new(void)
{
    nv_faults *faults = nv_calloc(1, sizeof(*faults));
    pthread_mutex_init(&faults->lock, NULL);
    return faults;
}

void nv_faults_free(nv_faults *faults)
{
    if (faults) {
        pthread_mutex_destroy(&faults->lock);
        free(faults->rows);
        free(faults);
    }
}

static fault_row *find_locked(nv_faults *faults, nv_span key)
{
    for (size_t i = 0; i < faults->count; i++) {
        if (nv_span_eq(nv_span_of(faults->rows[i].key, faults->rows[i].key_len), key)) {
            return &faults->rows[i];
        }
    }
    return NULL;
}

static fault_row *room_locked(nv_faults *faults)
{
    if (!faults->rows) {
        faults->rows = nv_calloc(FAULTS_MAX, sizeof(*faults->rows));
    }
    if (faults->count < FAULTS_MAX) {
        return &faults->rows[faults->count++];
    }
    fault_row *oldest = &faults->rows[faults->next];
    faults->next = (faults->next + 1) % FAULTS_MAX;
    return oldest;
}

void nv_faults_set(nv_faults *faults, nv_span device_id, nv_span module_id, nv_fault_kind kind, int64_t until_us)
{
    nv_faults_plan(faults, device_id, module_id, kind, INT64_MIN, until_us);
}

void nv_faults_plan(nv_faults *faults, nv_span device_id, nv_span module_id, nv_fault_kind kind, int64_t from_us,
                    int64_t until_us)
{
    char key[2 * NV_ID_MAX + 2];
    nv_span k = nv_span_of(key, nv_identity_key(device_id, module_id, key));
    pthread_mutex_lock(&faults->lock);
    fault_row *row = find_locked(faults, k);
    row = row ? row : room_locked(faults);
    row->kind = kind;
    row->from_us = from_us;
    row->until_us = until_us;
    row->key_len = k.len;
    memcpy(row->key, k.ptr, k.len);
    pthread_mutex_unlock(&faults->lock);
}

nv_fault_kind nv_faults_get(nv_faults *faults, nv_span device_id, nv_span module_id, int64_t now_us, int64_t *until_us)
{
    char key[2 * NV_ID_MAX + 2];
    nv_span k = nv_span_of(key, nv_identity_key(device_id, module_id, key));
    nv_fault_kind kind = NV_FAULT_NONE;
    pthread_mutex_lock(&faults->lock);
    const fault_row *row = find_locked(faults, k);
    if (row && row->from_us <= now_us && row->until_us > now_us) {
        kind = row->kind;
        *until_us = row->until_us;
    }
    pthread_mutex_unlock(&faults->lock);
    return kind;
}
