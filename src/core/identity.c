#include "core/identity.h"

#include "base/alloc.h"

#include <assert.h>
#include <stdlib.h>

#define SPANS 10

static void list_spans(nv_identity *identity, nv_span *out[SPANS])
{
    nv_span *const spans[SPANS] = {
        &identity->device_id,     &identity->module_id,          &identity->generation_id,
        &identity->status_reason, &identity->primary_thumbprint, &identity->secondary_thumbprint,
        &identity->device_scope,  &identity->parent_scopes,      &identity->managed_by,
        &identity->attributes,
    };
    memcpy(out, spans, sizeof(spans));
}

nv_identity *nv_identity_new(const nv_identity *from)
{
    nv_identity copy = *from;
    nv_span *spans[SPANS];
    list_spans(&copy, spans);
    size_t bytes = sizeof(copy);
    for (size_t i = 0; i < SPANS; i++) {
        bytes += spans[i]->len;
    }
    nv_identity *identity = nv_malloc(bytes);
    uint8_t *at = (uint8_t *)(identity + 1);
    for (size_t i = 0; i < SPANS; i++) {
        if (spans[i]->len) {
            memcpy(at, spans[i]->ptr, spans[i]->len);
        }
        *spans[i] = nv_span_of(at, spans[i]->len);
        at += spans[i]->len;
    }
    *identity = copy;
    identity->_bytes = bytes;
    atomic_init(&identity->_refs, 1);
    atomic_init(&identity->_session, NV_IDENTITY_SESSION_UNKNOWN);
    nv_wipe(&copy, sizeof(copy));
    return identity;
}

const char *nv_auth_kind_name(nv_auth_kind kind)
{
    static const char *const names[] = {[NV_AUTH_SAS] = "sas",
                                        [NV_AUTH_SELF_SIGNED] = "selfSigned",
                                        [NV_AUTH_CA] = "certificateAuthority",
                                        [NV_AUTH_NONE] = "none"};
    return (size_t)kind < NV_COUNT_OF(names) ? names[kind] : "none";
}

nv_identity *nv_identity_ref(nv_identity *identity)
{
    atomic_fetch_add_explicit(&identity->_refs, 1, memory_order_relaxed);
    return identity;
}

void nv_identity_unref(nv_identity *identity)
{
    if (identity && atomic_fetch_sub_explicit(&identity->_refs, 1, memory_order_acq_rel) == 1) {
        nv_wipe(identity, identity->_bytes);
        free(identity);
    }
}

size_t nv_identity_key(nv_span device_id, nv_span module_id, char *out)
{
    assert(device_id.len <= NV_ID_MAX && module_id.len <= NV_ID_MAX);
    size_t len = device_id.len;
    memcpy(out, device_id.ptr ? (const char *)device_id.ptr : "", len);
    if (module_id.len) {
        out[len++] = '/'; /* no id contains one */
        memcpy(out + len, module_id.ptr, module_id.len);
        len += module_id.len;
    }
    out[len] = '\0';
    return len;
}

void nv_identity_time(int64_t wall_us, char out[NV_TIME_TEXT_SIZE])
{
    static const char never[] = "0001-01-01T00:00:00Z";
    if (wall_us == 0) {
        memcpy(out, never, sizeof(never));
    } else {
        nv_time_format(wall_us, out);
    }
}
