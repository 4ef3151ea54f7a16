/**
 * The topics of an IoT hub (mqtt.md section 5): what a device or module may publish on and subscribe to.
 * One table each in topic.c, matched left to right against the identity of the connection. Pure; thread: any.
 */
#ifndef NV_CODEC_TOPIC_H
#define NV_CODEC_TOPIC_H

#include "base/attrs.h"
#include "base/err.h"
#include "base/span.h"

/** Who is connected. The spans are the caller's. */
typedef struct nv_topic_owner {
    nv_span device;
    nv_span module; /* empty for a device */
} nv_topic_owner;

/** What a PUBLISH from a device means; the comment gives the row of the table in section 5. */
typedef enum nv_topic_kind {
    NV_TOPIC_NONE = 0,        /* no topic of ours */
    NV_TOPIC_TELEMETRY,       /* 1: bag */
    NV_TOPIC_TWIN_GET,        /* 5: rid */
    NV_TOPIC_TWIN_REPORTED,   /* 6: rid, version */
    NV_TOPIC_METHOD_RESPONSE, /* 10: rid, status */
    NV_TOPIC_CREDENTIALS      /* 12: rid */
} nv_topic_kind;

/** A parsed topic. Spans point into the topic. Members that a kind does not have are empty. */
typedef struct nv_topic {
    nv_topic_kind kind;
    nv_span bag; /* everything behind "messages/events/", for nv_bag_of() */
    nv_span rid; /* byte for byte as sent */
    bool has_version;
    uint64_t version;
    int64_t status;
} nv_topic;

/**
 * Parse the topic of a PUBLISH by @p owner.
 * @param why  static text of the refusal; set on failure only
 * @return NV_E_UNAUTHORIZED the topic names another device or module; NV_E_NOT_FOUND no topic to publish on;
 *         NV_E_SYNTAX out->kind is known but its parts are wrong (no $rid, status not a number)
 */
NV_NODISCARD nv_err nv_topic_parse(nv_span topic, const nv_topic_owner *owner, nv_topic *out, const char **why);

/** What a SUBSCRIBE filter asks for. Values are stored with persistent sessions: append only. */
typedef enum nv_filter_kind {
    NV_FILTER_NONE = 0,               /* no filter of ours */
    NV_FILTER_DEVICEBOUND = 1,        /* 3: also spelled `devices/+/messages/devicebound/#` */
    NV_FILTER_MODULE_DEVICEBOUND = 2, /* 4: granted, nothing is ever delivered */
    NV_FILTER_TWIN_RESPONSES = 3,     /* 7 */
    NV_FILTER_DESIRED = 4,            /* 8 */
    NV_FILTER_METHODS = 5,            /* 9 */
    NV_FILTER_INPUTS = 6,             /* 11: also spelled `devices/{d}/modules/{m}/#` */
    NV_FILTER_CREDENTIALS = 7         /* 12 */
} nv_filter_kind;

/**
 * Parse one topic filter of a SUBSCRIBE or UNSUBSCRIBE by @p owner. Only the spellings of section 5 exist: no other
 * wildcard, no narrower filter.
 * @param why  static text of the refusal; set on failure only
 * @return NV_E_UNAUTHORIZED the filter names another device or module; NV_E_NOT_FOUND no filter of ours
 */
NV_NODISCARD nv_err nv_filter_parse(nv_span filter, const nv_topic_owner *owner, nv_filter_kind *out, const char **why);

/**
 * True for anything below `$iothub/twin/` and `$iothub/methods/`, known or not, topic or filter: a session that gave
 * no api-version must not touch it (mqtt.md section 2.3).
 */
bool nv_topic_needs_api_version(nv_span topic);

#endif
