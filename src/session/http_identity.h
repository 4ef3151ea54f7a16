/** Identities as JSON (http-hub.md sections 5.2 and 6) and their entity tags. Pure. */
#ifndef NV_SESSION_HTTP_IDENTITY_H
#define NV_SESSION_HTTP_IDENTITY_H

#include "codec/json.h"
#include "core/devices.h"
#include "core/registry.h"

#define NV_ETAG_TEXT_SIZE 33

/** Base64 of the decimal counter, without quotes, NUL-terminated. */
void nv_etag_format(uint64_t etag, char out[NV_ETAG_TEXT_SIZE]);
/**
 * What a client calls an entity tag, as a precondition: `*` with or without quotes: ANY; empty: NONE; anything else,
 * with or without quotes: ETAG. @param bare  then what stands between the quotes
 */
nv_precondition nv_if_match_parse(nv_span text, nv_span *bare);
/** The same for identities: the counter is one that no identity has if the tag is none of ours. */
nv_precondition nv_etag_parse(nv_span text, uint64_t *etag);

/**
 * One device or module in the order that clients need: `type` last in authentication (section 5.2).
 * @param presence  of live connections; what they do not know is as stored with the identity
 */
void nv_identity_write_json(nv_json_writer *w, const nv_identity *identity, const nv_presence *presence,
                            uint64_t c2d_count);

/**
 * Read the body of a PUT, or an item of a bulk operation, into @p spec, apart from the ids, whose presence decides
 * between device and module. Names in any case, unknown ones ignored, null and "" are absent.
 * @param spec    spans point into @p tree, which stays as it is while they are used; ids are set by the caller before
 * @param detail  the sentence for a failure
 * @return NONE, ArgumentInvalid, StringIsNotThumbprint. What the registry checks (lengths, thumbprints) is left to it
 */
nv_hub_error nv_identity_read_json(struct json_object *tree, nv_identity_spec *spec, char detail[200]);

#endif
