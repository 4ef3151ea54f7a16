/** A twin as digital twin and JSON Patch documents on it (http-hub.md section 10, semantics.md section 1.8). Pure. */
#ifndef NV_SESSION_HTTP_DIGITAL_TWIN_H
#define NV_SESSION_HTTP_DIGITAL_TWIN_H

#include "codec/json.h"

/**
 * Write the digital twin of @p twin, the tree of a twin as services see it: what was reported as values, what is
 * desired and acknowledged in $metadata; objects marked `"__t":"c"` are components.
 */
void nv_digital_twin_write(nv_json_writer *w, struct json_object *twin);

/**
 * Turn a JSON Patch (RFC 6902: add, replace, remove) of root properties, components and their properties into the
 * merge patch of a twin, so that the targets become exactly what the patch says.
 * @param patch   as parsed; @param twin as above
 * @param detail  the sentence for a failure, naming the operation
 * @return the patch `{"properties":{"desired":...}}`, the caller's, or NULL
 */
struct json_object *nv_digital_twin_patch(struct json_object *patch, struct json_object *twin, char detail[200]);

#endif
