/** What the user gives a command to send: a word, a file, or what comes on stdin. */
#ifndef NV_NAVE_INPUT_H
#define NV_NAVE_INPUT_H

#include "base/buf.h"

#define NV_INPUT_MAX (8u << 20)

/**
 * "@file": the file; "-": stdin to its end; else the word itself. Blocks.
 * @param out  initialised here; the caller's also on failure
 * @return NV_EXIT_OK; NV_EXIT_REFUSED it cannot be read, said on stderr
 */
int nv_input_read(const char *word, nv_buf *out);

/** The same for JSON: checked, made compact and NUL-terminated. @return also NV_EXIT_USAGE: it is not JSON */
int nv_input_read_json(const char *word, nv_buf *out);

/** Text of a buffer that ends in NUL. */
static inline const char *nv_input_text(const nv_buf *input)
{
    return (const char *)nv_buf_span(input).ptr;
}

#endif
