/** What is known of a peer before it says a word; filled by the connection that carries it. */
#ifndef NV_CORE_PEER_H
#define NV_CORE_PEER_H

#include "base/span.h"

/** Spans belong to the connection and live as long as it does. */
typedef struct nv_peer {
    uint64_t connection_id; /* unique in the process, never 0; for logs */
    nv_span address;        /* "address:port" */
    bool tls;
    bool has_certificate; /* it presented one and proved the key; nothing else was checked */
    uint8_t certificate_sha1[20];
    uint8_t certificate_sha256[32];
    nv_span certificate_cn;  /* subject common name, empty when none */
    nv_span certificate_der; /* the leaf as presented */
    int64_t certificate_not_before_us;
    int64_t certificate_not_after_us;
} nv_peer;

#endif
