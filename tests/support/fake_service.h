/**
 * What only services ask for, in memory: readers of the log that get what the test gives, messages that are sent to
 * devices, feedback. With the rest of fake_core.h; one hub at a time, one thread.
 */
#ifndef NV_TESTS_FAKE_SERVICE_H
#define NV_TESTS_FAKE_SERVICE_H

#include "core/c2d.h"
#include "store/log.h"

/** Answer every reader that waits: with one record of this body, or with @p status when that is not NV_OK. @return how
 * many waited */
size_t fake_readers_give(nv_err status, nv_span body);
/** Answer every take of feedback that waits with these records (JSON). @return how many waited */
size_t fake_feedback_give(const char *records);
/** How messages that are sent end from now on; NONE: in the queue of fake_cloud.h. */
void fake_send_set_error(nv_hub_error error);

#endif
