/** Random identifiers in the form every client expects (RFC 4122, version 4). */
#ifndef NV_BASE_GUID_H
#define NV_BASE_GUID_H

#include "base/rng.h"

#include <stdbool.h>

#define NV_GUID_TEXT_SIZE 37

/** "0f8fad5b-d9cb-469f-a165-70867728950e", NUL-terminated. */
void nv_guid_make(nv_rng *rng, char out[NV_GUID_TEXT_SIZE]);

/** The text above as the 16 bytes of a .NET Guid: the first three groups are little-endian. @return false: no GUID */
bool nv_guid_to_net_bytes(const char *text, uint8_t out[16]);

#endif
