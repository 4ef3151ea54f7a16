/** What is known of a peer before it says a word; filled by the connection that carries it. */
#ifndef NV_CORE_PEER_H
#define NV_CORE_PEER_H

#include "base/span.h"

/** A certificate that was presented and whose key was proved; nothing else was checked. */
typedef struct nv_peer_certificate {
    uint8_t sha1[20];
    uint8_t sha256[32];
    nv_span cn;  /* subject common name, empty when none */
    nv_span der; /* the leaf as presented */
    int64_t not_before_us;
    int64_t not_after_us;
} nv_peer_certificate;

/** What it points to belongs to the connection and lives as long as it does. */
typedef struct nv_peer {
    uint64_t connection_id; /* unique in the process, never 0; for logs */
    nv_span address;        /* "address:port" */
    bool tls;
    const nv_peer_certificate *certificate; /* NULL: it presented none, as most do */
} nv_peer;

#endif
