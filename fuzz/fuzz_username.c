/** MQTT user names: first line the client id, the rest the user name. */
#include "codec/username.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool holds(nv_span outer, nv_span inner)
{
    return inner.len == 0 || (inner.ptr >= outer.ptr && inner.ptr + inner.len <= outer.ptr + outer.len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    nv_span in = nv_span_of(data, size);
    nv_span client_id = nv_span_first(in, nv_span_find(in, '\n'));
    nv_span text = nv_span_skip(in, client_id.len + 1);
    uint8_t *scratch = malloc(text.len ? text.len : 1);
    nv_username name;
    const char *why = NULL;
    if (!scratch) {
        abort();
    }
    nv_err err = nv_username_parse(text, client_id, scratch, text.len, &name, &why);
    if (err == NV_OK) {
        nv_span decoded[] = {name.api_version, name.client_type, name.model_id, name.auth_chain};
        bool ok = name.host.len && name.device.len && holds(text, name.host) && holds(text, name.device) &&
                  holds(text, name.module);
        for (size_t i = 0; i < NV_COUNT_OF(decoded); i++) {
            ok = ok && (holds(text, decoded[i]) || holds(nv_span_of(scratch, text.len), decoded[i]));
        }
        if (!ok || nv_span_find(name.device, '/') < name.device.len) {
            abort();
        }
        (void)nv_username_matches_client_id(&name, client_id);
    } else if (err != NV_E_SYNTAX || !why) {
        abort(); /* the promised size of the scratch memory always suffices */
    }
    free(scratch);
    return 0;
}
