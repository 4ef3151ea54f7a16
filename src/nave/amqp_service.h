/** What services do by AMQP: messages to devices, and feedback about them (amqp.md sections 4.1 and 4.2). */
#ifndef NV_NAVE_AMQP_SERVICE_H
#define NV_NAVE_AMQP_SERVICE_H

#include "nave/client.h"

typedef struct nv_amqp_message_to {
    const char *device;
    nv_span body;
    const nv_args *args; /* -p, --correlation-id and so on; checked */
    const char *id;      /* or NULL */
    const char *ack;     /* or NULL */
    uint64_t ttl_s;      /* 0: the hub's */
} nv_amqp_message_to;

/** Send one, and say on stderr, or as JSON, what became of it. @return an exit code */
int nv_amqp_send_to(nv_client *client, const nv_amqp_message_to *message);

/** Show feedback as it comes, and take it from the queue once it is shown. @param count  records, UINT64_MAX: no end
 * @return an exit code */
int nv_amqp_feedback(nv_client *client, const nv_args *args, uint64_t count);

#endif
