/**
 * The AMQP side of the hub (amqp.md): one connection, on which devices, services and event readers have links. Who is
 * behind it is told by SASL PLAIN, by tokens put on $cbs, or by a client certificate; what a link may do follows from
 * its address and the principal that covers it.
 */
#ifndef NV_SESSION_AMQP_SERVER_H
#define NV_SESSION_AMQP_SERVER_H

#include "session/session.h"

/** A session that waits for a protocol header, SASL or AMQP. The carrier frees it by session->ops->free. */
nv_session *nv_amqp_server_new(nv_carrier *carrier);

#endif
