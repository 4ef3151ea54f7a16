/** WebSocket as a layer of a connection, for net/ alone. */
#ifndef NV_NET_WEBSOCKET_LAYER_H
#define NV_NET_WEBSOCKET_LAYER_H

#include "net/conn.h"

/** A layer for either side, which remembers who is to speak on it. To be pushed, or freed by its ops. */
nv_layer *nv_ws_layer_new(const nv_upgrade *to);
/** Make that session. @return NULL: refused */
nv_session *nv_ws_layer_session(nv_layer *layer, nv_carrier *carrier);

#endif
