/**
 * What the fuzz targets of whole sessions share: a hub in memory that fails when told, two connections, and the steps
 * of the input that no protocol changes. Nothing may remain when everybody has left.
 */
#ifndef NV_FUZZ_SESSION_WORLD_H
#define NV_FUZZ_SESSION_WORLD_H

#include "core/method.h"
#include "support/fake_core.h"
#include "support/mqtt_pair.h"

#define FUZZ_CALLS 4u

typedef struct fuzz_world {
    fake_core core;
    mqtt_pair pair;
    mqtt_pair other; /* of the same device, when it takes over */
    nv_method_call calls[FUZZ_CALLS];
    bool calling[FUZZ_CALLS];
    const uint8_t *at; /* what is left of the input */
    const uint8_t *end;
} fuzz_world;

/** The hub, devices d with module m and d2, and both connections. The first byte of @p data, which there is, chooses
 * limits (32) and fault injection (64). The world must not move. */
void fuzz_init(fuzz_world *f, const uint8_t *data, size_t size, nv_session *(*make)(nv_carrier *carrier));
/** Let hub and connections do what they have to. */
void fuzz_run(fuzz_world *f);
/** The next bytes of the input, at most @p most. */
nv_span fuzz_take(fuzz_world *f, size_t most);
/** The client says this, unless the session takes nothing in. */
void fuzz_say(mqtt_pair *pair, nv_span bytes);
/** Step 0x80 to 0xBF: calls, desired properties, messages and settlements from the cloud. */
void fuzz_cloud(fuzz_world *f, uint8_t what);
/** Step 0xC0 to 0xFF: time, failing stores, identities that change, connections that end. 0xEC to 0xEF, the take-over,
 * is the target's. */
void fuzz_event(fuzz_world *f, uint8_t what);
#define FUZZ_IS_TAKE_OVER(what) ((what) >> 2 == 0x3B)
/** The world is well again and everybody leaves: aborts when anything remains. */
void fuzz_finish(fuzz_world *f);

#endif
