/**
 * For tests: a service or an event reader on the hub's AMQP server, both in memory, over a real hub with a real state
 * store and a real log under a manual clock.
 */
#ifndef NV_TESTS_SUPPORT_AMQP_READER_RIG_H
#define NV_TESTS_SUPPORT_AMQP_READER_RIG_H

#include "session/amqp/engine.h"
#include "session/http_rig.h"
#include "support/amqp_pair.h"

#define RIG_DELIVERIES 4096u
#define RIG_LINKS      64u

typedef struct rig_delivery {
    uint8_t *bytes; /* owned */
    size_t len;
    nv_amqp_message message; /* points into bytes */
    uint8_t tag[32];
    size_t tag_len;
    uint32_t id;
    bool settled;
    uint64_t when; /* how many things the client had heard before, of all its links */
} rig_delivery;

typedef struct rig_outcome {
    uint64_t cookie;
    nv_amqp_outcome_kind kind;
    char symbol[64];
    char description[300];
    uint64_t when; /* as in rig_delivery */
} rig_outcome;

/** What a client knows of one of its links. */
typedef struct rig_link {
    nv_amqp_link *link; /* NULL: over */
    bool keep;          /* settle nothing by itself */
    bool attached;
    bool refused; /* the answer had no source and no target */
    bool has_filter;
    bool detached;
    char symbol[64]; /* of the DETACH */
    char description[400];
    uint8_t info[2048];
    size_t info_len;
    rig_delivery deliveries[RIG_DELIVERIES];
    size_t count;
    rig_outcome outcomes[RIG_DELIVERIES];
    size_t outcome_count;
    uint64_t sent; /* cookies */
} rig_link;

/** One connection. */
typedef struct rig_client {
    nv_amqp_conn conn; /* first member */
    amqp_end end;
    nv_rig line; /* the server's end */
    nv_amqp_session *session;
    rig_link *links[RIG_LINKS];
    size_t link_count;
    bool opened;
    bool ended;
} rig_client;

typedef struct rig_attach {
    const char *name; /* NULL: a new one */
    bool sender;
    const char *address;
    const char *own_address; /* of the other terminus; NULL: none */
    const char *filter;      /* text of the selector */
    bool filter_by_code;
    nv_span properties;
    nv_span desired;
    uint32_t credit;
    uint8_t snd_settle_mode; /* 2: mixed */
    uint8_t rcv_settle_mode;
    bool keep;                /* rig_link.keep */
    nv_amqp_session *session; /* NULL: the connection's first */
} rig_attach;

/** The hub of the test that runs. */
extern nv_rig_hub rig_on;
/** For cmocka: make and unmake it. */
int rig_set_up(void **state);
int rig_tear_down(void **state);

/** Connect by PLAIN as a policy ("service", "device", ...). @p host  OPEN.hostname */
rig_client *rig_connect(nv_rig_hub *on, const char *policy, const char *host);
/** To rig_on, as policy "service". */
rig_client *rig_connect_service(void);
/** Cut the connection if it is still there. */
void rig_disconnect(rig_client *client);
/** Move bytes and run the hub until nothing moves; the stores may still be busy. */
void rig_move(rig_client *client);
/** Until that holds. */
#define RIG_UNTIL(client, condition)                                                                                   \
    do {                                                                                                               \
        rig_move(client);                                                                                              \
        while (!(condition)) {                                                                                         \
            rig_wait(client);                                                                                          \
        }                                                                                                              \
    } while (0)
/** Block until the stores say something. */
void rig_wait(rig_client *client);
/** Until the stores have said what they had to say: what did not come now will not come. */
void rig_rest(rig_client *client);
/** Both clocks. */
void rig_advance(rig_client *client, int64_t delta_us);

/** Ask for a link; the answer is not there yet. */
rig_link *rig_attach_begin(rig_client *client, const rig_attach *how);
/** ... and wait for it. */
rig_link *rig_attach_link(rig_client *client, const rig_attach *how);
/** A receiver. @p filter may be NULL */
rig_link *rig_attach_reader(rig_client *client, const char *address, const char *filter, uint32_t credit);
void rig_detach(rig_client *client, rig_link *link);
/** Allow so many deliveries from now on. */
void rig_credit(rig_client *client, rig_link *link, uint32_t credit);
/** Ask to have the credit used up or given back. link->link->credit is 0 when it is. */
void rig_drain(rig_client *client, rig_link *link);
/** Send one message; the outcome is to come. @return its cookie */
uint64_t rig_send(rig_client *client, rig_link *link, nv_span message);
/** ... and wait for it. */
const rig_outcome *rig_send_wait(rig_client *client, rig_link *link, nv_span message);
void rig_settle(rig_client *client, rig_link *link, const rig_delivery *delivery, nv_amqp_outcome_kind kind);

/** Say accepted, unsettled, as receivers in mode second do; the hub's answer settles it. */
void rig_accept_second(rig_client *client, rig_link *link, const rig_delivery *delivery);
/** Deliveries that are not settled yet. */
uint32_t rig_unsettled(const rig_link *link);

/** Was it refused, or detached, with that condition and a sentence that contains @p says? Fails if not. */
void rig_assert_detached(const rig_link *link, const char *symbol, const char *says);

/** The value of a key, which must be there and of that type. */
nv_amqp_value rig_in_map(const nv_amqp_value *map, const char *key, nv_amqp_type key_type);
void rig_assert_text(const nv_amqp_value *value, nv_amqp_type type, const char *want);

/** Append @p count events of @p device to a partition, bodies "{device}-{n}" from @p first on. Durable. */
void rig_add_events(nv_rig_hub *on, uint32_t partition, const char *device, unsigned first, unsigned count);
void rig_add_device(nv_rig_hub *on, const char *device);

#endif
