/**
 * AMQP for the commands, which block: a loop on a thread of its own while a command works, and connections from it to
 * the hub of an nv_client. What a command does on the loop it does in callbacks; nv_amqp_run_end() ends it.
 */
#ifndef NV_NAVE_AMQP_CLIENT_H
#define NV_NAVE_AMQP_CLIENT_H

#include "nave/client.h"
#include "net/loop.h"
#include "session/amqp/client.h"

struct nv_net;
struct nv_tls_client;

typedef struct nv_amqp_run {
    /* in */
    nv_client *client;
    void (*start)(struct nv_amqp_run *run); /* on the loop */
    void *arg;
    /* for the callbacks */
    nv_loop *loop;
    /* private */
    struct nv_net *_net;
    struct nv_tls_client *_tls;
    nv_task _task;
    int _code;
    bool _ended;
} nv_amqp_run;

/** Blocks until nv_amqp_run_end(). @return its code; what keeps it from starting is said on stderr */
int nv_amqp_run_do(nv_amqp_run *run);
/** From a callback: nothing new is begun, connections close, the run returns @p code. The first call counts. */
void nv_amqp_run_end(nv_amqp_run *run, int code);
/** End it with NV_EXIT_REFUSED after one sentence on stderr; says nothing when it has ended already. */
void nv_amqp_run_refuse(nv_amqp_run *run, const char *fmt, ...) NV_PRINTF(2, 3);
/** The same when it was the key of run->client->policy that the hub refused, for the reason @p why. */
void nv_amqp_run_refuse_key(nv_amqp_run *run, const char *why);
/** From a callback: what still comes is of no interest. */
bool nv_amqp_run_ended(const nv_amqp_run *run);

/** Where AMQP is spoken. */
typedef struct nv_amqp_place {
    char host[256];
    uint16_t port;
    bool plain;            /* without TLS */
    const char *websocket; /* path of the WebSocket that carries it; NULL: none does */
} nv_amqp_place;

/** Paths of the WebSockets of a hub and of an event hub. */
#define NV_AMQP_HUB_WEBSOCKET    "/$iothub/websocket"
#define NV_AMQP_EVENTS_WEBSOCKET "/$servicebus/websocket"

/**
 * Of the hub: its HTTPS when AMQP is to travel in a WebSocket (--over amqp-ws). Else from hub.json, by --amqp-port, or
 * from the hub itself. One that cannot be asked or knows nothing of /nave/v1/ is taken to have AMQP where it was the
 * last time, if @p out says so, else on 5671 when its HTTPS is on 443. Blocks.
 * @param out  zeroed, or what the last call left there
 * @return NV_EXIT_OK; NV_EXIT_REFUSED it listens for none, or cannot be asked, said on stderr
 */
int nv_amqp_place_of(nv_client *client, nv_amqp_place *out);

/** Is the hub one that knows /nave/v1/, and listens for HTTPS? @return an exit code when it cannot be asked, said on
 * stderr */
int nv_amqp_rather_http(nv_client *client, bool *out);

/**
 * Connect: TLS with the trust of run->client. Exactly one ended() of the config comes, also when there was never a
 * connection (client NULL then). The texts of @p config are copied.
 */
void nv_amqp_run_connect(nv_amqp_run *run, const nv_amqp_place *place, const nv_amqp_client_config *config);
/** As the policy of run->client, by SASL PLAIN; sets hostname, container, user and password of @p config. */
void nv_amqp_run_connect_policy(nv_amqp_run *run, const nv_amqp_place *place, nv_amqp_client_config *config);

/** What may help against why a connection could not be made: a clause that begins with ';', or "". Static storage. */
const char *nv_amqp_cure(const nv_client *client, const char *why);

/** For nv_amqp_client_config.make_token with arg the nv_client: by the key as its text, as Event Hubs has it. */
char *nv_amqp_event_token(const nv_client *client, const char *audience, int64_t *life_s);

#endif
