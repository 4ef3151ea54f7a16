/**
 * Twins and cloud-to-device messages in memory, in place of the core's own: for tests of sessions, which decide when
 * and how requests end. Everything is asked and answered on one thread; one hub at a time.
 */
#ifndef NV_TESTS_FAKE_CLOUD_H
#define NV_TESTS_FAKE_CLOUD_H

#include "core/c2d.h"
#include "core/twin.h"

/** Answers of twin requests from now on: held until fake_twin_complete(), or given when the loops run next. */
void fake_twin_set_hold(bool hold);
/** Complete the oldest held request. @return false: there is none */
bool fake_twin_complete(void);
/** Requests that are held. */
size_t fake_twin_held(void);
/** How requests end from now on; NONE: well. @param detail  static */
void fake_twin_set_error(nv_hub_error error, const char *detail);
/** What every GET answers, compact JSON; static text. The versions are shared by all twins. */
void fake_twin_set_sections(const char *desired, uint64_t desired_version, const char *reported);
uint64_t fake_twin_reported_version(void);
/** The last patch and the last model that was announced, NUL-terminated. */
const char *fake_twin_last_patch(void);
const char *fake_twin_last_model(void);
/** The last request. Valid until the next. */
const nv_twin_request *fake_twin_last(void);

/** Put a message into the queue of a device. @return its sequence */
uint64_t fake_c2d_send(nv_hub_loop *loop, const char *device, nv_c2d_ack ack, nv_span properties, nv_span body);
/** The same with an expiry of its own, wall. */
uint64_t fake_c2d_send_until(nv_hub_loop *loop, const char *device, int64_t expires_us, nv_span properties,
                             nv_span body);
/** All locks are lost: what was handed out is in the queue again, in its place. */
void fake_c2d_lose_locks(void);
/** Messages that nobody settled, locked or not. */
size_t fake_c2d_count(void);
/** Messages that are locked. */
size_t fake_c2d_locked(void);
size_t fake_c2d_completed(void);
size_t fake_c2d_rejected(void);
/** Settlements for which there was no lock. */
size_t fake_c2d_lock_lost(void);
/** Settlements are held until fake_c2d_settle_one(). */
void fake_c2d_set_hold(bool hold);
bool fake_c2d_settle_one(void);

/** Forget everything; no receiver is attached, no request in flight. */
void fake_cloud_reset(void);

#endif
