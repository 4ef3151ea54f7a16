/**
 * Diagnostics: the program's own log (the telemetry log is store/log.h). One line per event, as text
 * or as JSON, with the connection and the identity it concerns. Never a secret, never a payload.
 * An error is logged where it is handled, once. Thread: any.
 */
#ifndef NV_BASE_DIAG_H
#define NV_BASE_DIAG_H

#include "base/attrs.h"
#include "base/span.h"

typedef enum nv_level { NV_LEVEL_DEBUG, NV_LEVEL_INFO, NV_LEVEL_WARN, NV_LEVEL_ERROR } nv_level;

/** Whom a line concerns. Zeroed members are left out. */
typedef struct nv_subject {
    uint64_t connection; /* id of the connection, 0 = none */
    nv_span device;
    nv_span module;
    nv_span peer; /* "address:port" */
} nv_subject;

/**
 * Process-wide settings; call before threads start, or again on reload. From here on a pipe, terminal or socket that
 * nobody reads makes nobody wait: lines for which there is no room are dropped, and counted in the next that finds
 * some.
 */
void nv_diag_setup(nv_level least, bool json, int fd);

struct nv_clock;

/** What time lines bear; NULL: the system's. Borrowed. Before threads start, or after they ended. */
void nv_diag_set_clock(const struct nv_clock *clock);

/** True when lines of this level are written; to skip costly arguments. */
bool nv_diag_on(nv_level level);

/**
 * Write one line. @p area is a short static name ("mqtt", "log", "http"); @p subject may be NULL.
 * The message is one sentence without a final period; control characters in it are escaped.
 */
void nv_diag(nv_level level, const char *area, const nv_subject *subject, const char *fmt, ...) NV_PRINTF(4, 5);

/** Where tests listen. @p sink NULL restores the file descriptor. */
typedef void (*nv_diag_sink)(void *arg, nv_level level, const char *line, size_t len);
void nv_diag_set_sink(nv_diag_sink sink, void *arg);

#endif
