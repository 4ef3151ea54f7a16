/* Kinds of links that are not there yet: the build says which. */
#include "session/amqp/server_internal.h"

#define AMQP_MISSING(open)                                                                                             \
    void open(amqp_server *s, amqp_device *device, nv_amqp_link *link, const amqp_address *address)                    \
    {                                                                                                                  \
        (void)device;                                                                                                  \
        (void)address;                                                                                                 \
        amqp_refuse(s, link, NV_AMQP_ERR_NOT_IMPLEMENTED, "this version of the hub has no such links");                \
    }

#define AMQP_NOTHING_TO_FREE(free_it, type)                                                                            \
    void free_it(struct type *unused)                                                                                  \
    {                                                                                                                  \
        (void)unused;                                                                                                  \
    }

#define AMQP_NOTHING_TO_DELIVER(deliver)                                                                               \
    void deliver(amqp_device *device, const nv_delivery *delivery)                                                     \
    {                                                                                                                  \
        (void)device;                                                                                                  \
        (void)delivery;                                                                                                \
    }

#ifdef AMQP_WITHOUT_LINK_TELEMETRY
AMQP_MISSING(amqp_open_telemetry)
AMQP_NOTHING_TO_FREE(amqp_telemetry_free, amqp_telemetry)
#endif
#ifdef AMQP_WITHOUT_LINK_MODULE
AMQP_MISSING(amqp_open_module_input)
#endif
#ifdef AMQP_WITHOUT_LINK_DEVICEBOUND
AMQP_MISSING(amqp_open_devicebound)
AMQP_NOTHING_TO_FREE(amqp_devicebound_free, amqp_devicebound)
#endif
#ifdef AMQP_WITHOUT_LINK_TWIN
AMQP_MISSING(amqp_open_twin)
AMQP_NOTHING_TO_FREE(amqp_twin_free, amqp_twin)
AMQP_NOTHING_TO_DELIVER(amqp_twin_deliver)
#endif
#ifdef AMQP_WITHOUT_LINK_METHODS
AMQP_MISSING(amqp_open_methods)
AMQP_NOTHING_TO_FREE(amqp_methods_free, amqp_methods)
AMQP_NOTHING_TO_DELIVER(amqp_method_deliver)
#endif
#ifdef AMQP_WITHOUT_LINK_DEVICE_FEEDBACK
AMQP_MISSING(amqp_open_device_feedback)
#endif
#ifdef AMQP_WITHOUT_LINK_SERVICE_SEND
AMQP_MISSING(amqp_open_service_send)
#endif
#ifdef AMQP_WITHOUT_LINK_FEEDBACK
AMQP_MISSING(amqp_open_feedback)
#endif
#ifdef AMQP_WITHOUT_LINK_FILE_NOTIFICATIONS
AMQP_MISSING(amqp_open_file_notifications)
#endif
#ifdef AMQP_WITHOUT_LINK_REDIRECT
AMQP_MISSING(amqp_open_redirect)
#endif
#ifdef AMQP_WITHOUT_LINK_MANAGEMENT
AMQP_MISSING(amqp_open_management)
#endif
#ifdef AMQP_WITHOUT_LINK_EVENTS
AMQP_MISSING(amqp_open_events)
#endif
#ifdef AMQP_WITHOUT_LINK_EVENTS_SEND
AMQP_MISSING(amqp_open_events_send)
#endif
