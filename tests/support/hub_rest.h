/** How a test ends a hub whose loops are queues (nv_exec_queue). */
#ifndef NV_TESTS_HUB_REST_H
#define NV_TESTS_HUB_REST_H

#include "core/hub.h"

/**
 * Stop a hub as the program does before it closes the stores: what is on its way comes back, and from then on the loops
 * ask log and state for nothing. The calling thread runs the loops meanwhile; nobody else does any more.
 */
void hub_rest(nv_hub *hub);

#endif
