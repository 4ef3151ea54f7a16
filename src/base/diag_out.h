/**
 * Where lines of diagnostics go: a descriptor that never makes its writers wait. A pipe or terminal that nobody reads
 * takes what it has room for; what comes then is dropped and counted. For base/diag.c alone.
 */
#ifndef NV_BASE_DIAG_OUT_H
#define NV_BASE_DIAG_OUT_H

#include "base/span.h"

/** Lines go to @p fd from now on; the same as before is fine. Borrowed. Thread: one, at the start or on reload. */
void nv_diag_out_open(int fd);
/**
 * Write @p line, whole or not at all; the end of one for which there was no room goes in front of the next. Blocks: on
 * the disk, if it is a file; otherwise never. Thread: any.
 * @return false: it was dropped
 */
bool nv_diag_out_write(nv_span line);

#endif
