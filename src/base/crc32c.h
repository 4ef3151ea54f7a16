/** CRC-32C (Castagnoli, RFC 3720 appendix B.4), with the processor's instruction where there is one. */
#ifndef NV_BASE_CRC32C_H
#define NV_BASE_CRC32C_H

#include "base/span.h"

/** Continue @p crc (0 to start) over @p bytes. crc(a+b) == crc(crc(a), b). */
uint32_t nv_crc32c(uint32_t crc, nv_span bytes);

#endif
