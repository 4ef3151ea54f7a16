/**
 * Two links that belong together: the device sends requests or answers on one and receives the other half on the other
 * (amqp.md sections 3.2, 3.6, 3.7). The links of a pair name each other by com.microsoft:channel-correlation-id; the
 * newest link rules. What goes to the device is sent settled, and waits here while it has no credit or does not read.
 */
#ifndef NV_SESSION_AMQP_LINK_PAIR_H
#define NV_SESSION_AMQP_LINK_PAIR_H

#include "session/amqp/device_links.h"

typedef struct amqp_pair amqp_pair;

typedef struct amqp_pair_kind {
    /** amqp_device_link.end of this kind, by which kinds are told apart: each its own, which calls amqp_pair_end(). */
    void (*end)(amqp_device_link *self);
    /** A message of the device, as nv_amqp_link_ops.delivery. */
    bool (*delivery)(amqp_pair *pair, nv_amqp_link *link, const nv_amqp_delivery *delivery);
    /** The link to the device came, went, or has other credit. */
    void (*changed)(amqp_pair *pair);
} amqp_pair_kind;

typedef struct amqp_pair_link {
    amqp_device_link base; /* first member */
    amqp_pair *pair;
    char *correlation; /* "": none was named */
} amqp_pair_link;

/** First member of what a kind keeps for a device. */
struct amqp_pair {
    amqp_device *device;
    const amqp_pair_kind *kind;
    amqp_pair_link *in;  /* the device sends on it; NULL: none */
    amqp_pair_link *out; /* the device receives on it; NULL: none */
    nv_list waiting;     /* messages to the device */
    size_t waiting_count;
    size_t waiting_bytes;
};

/** @param size  bytes of what the kind keeps, zero but for the pair that it begins with */
amqp_pair *amqp_pair_new(size_t size, amqp_device *device, const amqp_pair_kind *kind);
/** Accept a link of the pair. A partner that names another pair is detached. */
void amqp_pair_open(amqp_pair *pair, nv_amqp_link *link);
/** The body of amqp_pair_kind.end: what waited for the link is dropped. */
void amqp_pair_end(amqp_device_link *self);

/**
 * Send @p head and @p body, one behind the other, or keep them until they can be sent. Without a link to the device
 * nobody is there to be told. A device that lets too much wait loses the pair, in a moment.
 */
void amqp_pair_send(amqp_pair *pair, nv_span head, nv_span body);
/**
 * The message and its body as bytes; one that cannot be read is rejected.
 * @param scratch  holds the body where it had to be joined
 * @return false: rejected
 */
bool amqp_pair_read(nv_amqp_link *link, const nv_amqp_delivery *delivery, nv_amqp_message *message, nv_buf *scratch,
                    nv_span *body);
/** The device leaves answers unread: take no more requests from it. */
bool amqp_pair_is_full(const amqp_pair *pair);
/** Detach both of its links. */
void amqp_pair_detach(amqp_pair *pair, nv_amqp_condition condition, const char *description);

#endif
