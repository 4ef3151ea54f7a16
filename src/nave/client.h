/**
 * A service client of a hub, here or anywhere, for the commands: one HTTPS connection, a token made for each request.
 * Blocking. Everything that goes wrong is said on stderr in one sentence; functions return exit codes (nave/args.h).
 */
#ifndef NV_NAVE_CLIENT_H
#define NV_NAVE_CLIENT_H

#include "base/buf.h"
#include "nave/args.h"

#include <stdint.h>

struct json_object;
struct nv_curl;

typedef struct nv_client {
    char *data_dir;            /* of a local hub, or NULL */
    struct json_object *local; /* its hub.json, or NULL */
    char *host;                /* name of the hub, without port */
    uint16_t port;
    char *connect_to; /* address to dial instead of host, or NULL */
    char *ca_file;    /* or NULL: the system's */
    char *policy;
    uint8_t key[64];
    size_t key_len;
    char *service_string;        /* connection string that was used */
    char *entity;                /* event hub, when the string was that of one; else NULL */
    bool plain;                  /* ... and it is the emulator's form: without TLS */
    uint16_t amqp_port;          /* --amqp-port, or 0 */
    bool websocket;              /* --over amqp-ws */
    bool json;                   /* -o json */
    const struct nv_curl *_curl; /* NULL before the first request */
    void *_handle;
} nv_client;

/** Find the hub by --hub, --data, NAVE_CONNECTION_STRING or the default data folder, in this order. */
int nv_client_open(nv_client *client, const nv_args *args);
/** As nv_client_open(), but the connection string may also be that of an event hub: client->entity. port is its AMQP
 * port then, or 443 with --over amqp-ws. */
int nv_client_open_events(nv_client *client, const nv_args *args);
/** A zeroed client is fine. */
void nv_client_close(nv_client *client);

typedef struct nv_answer {
    long status;
    struct json_object *body; /* NULL when there is none; put by nv_answer_deinit */
    int64_t date_unix_s;      /* the hub's clock, 0 = not said */
    char *error;              /* name of an error, or NULL */
    char *continuation;       /* of the next page, or NULL */
} nv_answer;

typedef struct nv_call {
    const char *method;
    const char *path;         /* encoded, begins with '/'; the api-version is added */
    const char *body;         /* JSON text, or NULL */
    const char *if_match;     /* or NULL */
    const char *continuation; /* of the page before, or NULL */
    unsigned page;            /* rows of a page; 0: not said */
    long timeout_s;           /* 0: a minute */
    bool quiet;               /* nothing is said when no hub answers */
} nv_call;

/** One request. @return NV_EXIT_OK the hub answered (look at status); else it could not be reached, said on stderr */
int nv_client_call(nv_client *client, const nv_call *call, nv_answer *answer);
/** As nv_client_call(), but a status of 400 or more is said on stderr and gives NV_EXIT_REFUSED. */
int nv_client_must(nv_client *client, const nv_call *call, nv_answer *answer);
/** nv_client_call() in short. The body and if_match may be NULL. */
int nv_client_request(nv_client *client, const char *method, const char *path, const char *body, const char *if_match,
                      nv_answer *answer);
/** nv_client_must() in short. */
int nv_client_do(nv_client *client, const char *method, const char *path, const char *body, const char *if_match,
                 nv_answer *answer);
void nv_answer_deinit(nv_answer *answer);
/** Say what the hub refused. */
void nv_answer_complain(const nv_answer *answer);

typedef enum nv_stream_end {
    NV_STREAM_STOPPED, /* the line function asked for it */
    NV_STREAM_ENDED,   /* the hub ended it, or went away */
    NV_STREAM_NOBODY,  /* the hub cannot be reached now */
    NV_STREAM_REFUSED  /* a status of 400 or more, said on stderr */
} nv_stream_end;

/** GET lines until the end. @p line returns false to stop. It gets lines without their newline. */
nv_stream_end nv_client_stream(nv_client *client, const char *path, bool (*line)(void *arg, nv_span line), void *arg);

/** A hub with simulated time on this machine may be days ahead of ours: its tokens are so much longer. */
#define NV_CLIENT_AHEAD_S (INT64_C(50) * 365 * 86400)

/** A service token for @p resource, valid for @p ttl_s; appended NUL-terminated text the caller frees. */
char *nv_client_token(const nv_client *client, const char *resource, int64_t ttl_s);
/** Any token. @p policy may be NULL. The caller frees. NULL: the key is not one. */
char *nv_make_token(const char *resource, const char *policy, nv_span key, int64_t ttl_s);

/** Percent-encode one segment of a path; the caller frees. */
char *nv_path_segment(const char *id);
/** "/@p root/ID[/modules/MODULE]@p tail", ids encoded; @p module may be NULL. The caller frees. */
char *nv_path_of(const char *root, const char *device, const char *module, const char *tail);

/** "HostName=..;DeviceId=..[;ModuleId=..];SharedAccessKey=.." or "..;x509=true" when @p key is NULL. The caller frees.
 */
char *nv_device_string(const char *host, const char *device, const char *module, const char *key);

/** Print JSON on stdout, with a newline. */
void nv_print_json(struct json_object *object);
/** Print the members of an object for people, one a line, those of objects in it as "outer.inner". */
void nv_print_members(struct json_object *object);
/** A member's text, or "" when it is not there. Borrowed. */
const char *nv_json_text(struct json_object *object, const char *name);

#endif
