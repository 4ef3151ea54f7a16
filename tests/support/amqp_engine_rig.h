/** Two ends of the engine in memory, for its tests. */
#ifndef NV_TESTS_SUPPORT_AMQP_ENGINE_RIG_H
#define NV_TESTS_SUPPORT_AMQP_ENGINE_RIG_H

#include "support/amqp_pair.h"

typedef struct engine_pair {
    nv_manual_clock clock;
    amqp_owner server;
    amqp_owner client;
} engine_pair;

/** The one pair of a test program. */
extern engine_pair *const p;

/** NULL: the usual ones. */
void open_pair(const nv_amqp_config *server, const nv_amqp_config *client);
void run(void);
void close_pair(void);
/** Open with one link from the client ("events") and one to it ("devicebound"). */
void open_links(void);
void advance(int64_t us);
/** What stands in the output of an end, as text; it is consumed. */
void expect_said(amqp_owner *owner, const char *expected);
void client_sends(uint32_t count, size_t size);
/** The usual configuration with frames of 512 bytes. */
const nv_amqp_config *small_frames(bool client);

#endif
