/**
 * Records of the log as the events that a reader of the Event Hubs-compatible endpoint gets (amqp.md section 5.7).
 *
 *   head: [delivery annotations] message annotations, properties, application properties, head of the body section
 *   body: the record's, where it stands in the chunk
 *
 * A head is made once for records of the same sender with the same properties and then only patched: sequence, offset
 * and times have fixed places in it.
 */
#ifndef NV_SESSION_AMQP_EVENT_MESSAGE_H
#define NV_SESSION_AMQP_EVENT_MESSAGE_H

#include "base/span.h"
#include "store/log.h"

/** Zeroed is valid, also for deinit. Members are private. */
typedef struct amqp_event_head {
    uint8_t *bytes; /* owned */
    size_t capacity;
    size_t len; /* up to the body section */
    uint8_t *sequence_at;
    uint8_t *time_at;
    uint8_t *arrived_at;
    uint8_t *offset_at;
    uint64_t offset_low; /* offsets with as many digits as there is room for */
    uint64_t offset_high;
    uint32_t offset_digits;
    bool valid;
    nv_source source;
    uint8_t *made_of; /* stamp and properties that it was made of; owned */
    size_t made_of_capacity;
    size_t stamp_len;
    size_t properties_len;
    uint8_t metrics[280]; /* the section of delivery annotations */
    size_t metrics_len;
} amqp_event_head;

void amqp_event_head_deinit(amqp_event_head *head);

/** What a partition's last event is goes with every event from here on, for readers that asked (amqp.md section 5.6).
 * @param now_us  wall */
void amqp_event_head_set_metrics(amqp_event_head *head, const nv_log_partition_info *info, int64_t now_us);

/** Everything of the event in front of its body. Valid until the next call. */
nv_span amqp_event_head_of(amqp_event_head *head, const nv_record *record);

/** Sequence number of the last event as readers see it: -1 when there never was one. */
static inline int64_t amqp_last_sequence(const nv_log_partition_info *info)
{
    return (int64_t)info->next_sequence - 1;
}
/** Offset of the last event as text, "-1" when there never was one. @return its length */
size_t amqp_last_offset(const nv_log_partition_info *info, char out[24]);

#endif
