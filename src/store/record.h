/**
 * What one event in the telemetry log says, independent of the protocol it came by and the one it leaves by.
 *
 * A record is a body, its kind, its source and a property section. Property values keep AMQP 1.0's types, because
 * an AMQP reader must get back what an AMQP sender gave. Who sent it stands once per run, in the stamp.
 * Encoding and decoding are pure: no allocation beyond the caller's buffer, no I/O.
 */
#ifndef NV_STORE_RECORD_H
#define NV_STORE_RECORD_H

#include "base/buf.h"
#include "base/cursor.h"

/** Where an event comes from; exported as `iothub-message-source`. Values are on disk: append only. */
#define NV_SOURCE_TABLE(X)                                                                                             \
    X(TELEMETRY, 0, "Telemetry")                                                                                       \
    X(CONNECTION_STATE, 1, "deviceConnectionStateEvents")                                                              \
    X(LIFECYCLE, 2, "deviceLifecycleEvents")                                                                           \
    X(TWIN_CHANGE, 3, "twinChangeEvents")                                                                              \
    X(DIGITAL_TWIN_CHANGE, 4, "digitalTwinChangeEvents")                                                               \
    X(JOB_LIFECYCLE, 5, "deviceJobLifecycleEvents")

typedef enum nv_source {
#define X(id, value, name) NV_SOURCE_##id = (value),
    NV_SOURCE_TABLE(X)
#undef X
} nv_source;

/** AMQP body section the body came as; MQTT and HTTP bodies are DATA. Values are on disk. */
typedef enum nv_body_kind { NV_BODY_DATA = 0, NV_BODY_AMQP_VALUE = 1, NV_BODY_AMQP_SEQUENCE = 2 } nv_body_kind;

/**
 * System properties: id on disk (append only), MQTT bag key, logical name as routing, AMQP annotations and our JSON use
 * it. NULL where a protocol has no such key.
 */
#define NV_SYSTEM_PROPERTY_TABLE(X)                                                                                    \
    X(MESSAGE_ID, 1, "$.mid", "message-id")                                                                            \
    X(CORRELATION_ID, 2, "$.cid", "correlation-id")                                                                    \
    X(USER_ID, 3, "$.uid", "user-id")                                                                                  \
    X(TO, 4, "$.to", "to")                                                                                             \
    X(CONTENT_TYPE, 5, "$.ct", "content-type")                                                                         \
    X(CONTENT_ENCODING, 6, "$.ce", "content-encoding")                                                                 \
    X(EXPIRY, 7, "$.exp", "iothub-expiry")                                                                             \
    X(CREATION_TIME, 8, "$.ctime", "iothub-creation-time-utc")                                                         \
    X(OUTPUT_NAME, 9, "$.on", "iothub-outputname")                                                                     \
    X(SUBJECT, 10, "$.sub", "dt-subject")                                                                              \
    X(INTERFACE_ID, 11, "$.ifid", "iothub-interface-id")                                                               \
    X(SCHEMA, 12, "$.schema", "iothub-message-schema")                                                                 \
    X(DIAGNOSTIC_ID, 13, "$.diagid", "Diagnostic-Id")                                                                  \
    X(DIAGNOSTIC_CONTEXT, 14, "$.diagctx", "Correlation-Context")                                                      \
    X(DATA_SCHEMA, 15, NULL, "dt-dataschema")                                                                          \
    X(ACK, 16, NULL, "iothub-ack")                                                                                     \
    X(REPLY_TO, 17, NULL, "reply-to")                                                                                  \
    X(AMQP_SUBJECT, 18, NULL, "subject")                                                                               \
    X(GROUP_ID, 19, NULL, "group-id")                                                                                  \
    X(REPLY_TO_GROUP_ID, 20, NULL, "reply-to-group-id")                                                                \
    X(GROUP_SEQUENCE, 21, NULL, "group-sequence")                                                                      \
    X(ABSOLUTE_EXPIRY, 22, NULL, "absolute-expiry-time")                                                               \
    X(CREATION_TIME_AMQP, 23, NULL, "creation-time")                                                                   \
    X(OPERATION, 24, NULL, "iothub-operation")

typedef enum nv_system_property {
    NV_PROP_APPLICATION = 0, /* not a system property: the name is spelled out */
#define X(id, value, mqtt, name) NV_PROP_##id = (value),
    NV_SYSTEM_PROPERTY_TABLE(X)
#undef X
} nv_system_property;

/** The logical name ("message-id"), or NULL for an unknown id. Static storage. */
const char *nv_system_property_name(uint8_t id);
/** The id behind an MQTT bag key ("$.mid"), or NV_PROP_APPLICATION. */
nv_system_property nv_system_property_of_mqtt(nv_span key);
/**
 * Is this the logical name of something that the hub says of a message (`iothub-connection-device-id`, ...)? A sender's
 * own property of that name, in any case, is dropped (mqtt.md section 6).
 */
bool nv_property_is_stamped(nv_span name);
/** "Telemetry", ... or NULL. Static storage. */
const char *nv_source_name(uint8_t source);

/** AMQP 1.0 primitive types that a property may have (part 1 section 1.6). Values are on disk. */
typedef enum nv_value_type {
    NV_VALUE_NULL = 0,
    NV_VALUE_BOOL = 1,
    NV_VALUE_UBYTE = 2,
    NV_VALUE_USHORT = 3,
    NV_VALUE_UINT = 4,
    NV_VALUE_ULONG = 5,
    NV_VALUE_BYTE = 6,
    NV_VALUE_SHORT = 7,
    NV_VALUE_INT = 8,
    NV_VALUE_LONG = 9,
    NV_VALUE_FLOAT = 10,
    NV_VALUE_DOUBLE = 11,
    NV_VALUE_CHAR = 12,
    NV_VALUE_TIMESTAMP = 13, /* milliseconds since 1970 UTC, signed */
    NV_VALUE_UUID = 14,      /* 16 bytes in .bytes */
    NV_VALUE_BINARY = 15,
    NV_VALUE_STRING = 16,
    NV_VALUE_SYMBOL = 17
} nv_value_type;

typedef struct nv_value {
    nv_value_type type;
    union {
        bool boolean;
        uint64_t u; /* UBYTE..ULONG, CHAR; FLOAT and DOUBLE as their IEEE 754 bits */
        int64_t i;  /* BYTE..LONG, TIMESTAMP */
        nv_span bytes;
    };
} nv_value;

typedef struct nv_property {
    uint8_t id;   /* nv_system_property; 0 = application */
    nv_span name; /* application properties only */
    nv_value value;
} nv_property;

static inline nv_value nv_value_string(nv_span text)
{
    return (nv_value){.type = NV_VALUE_STRING, .bytes = text};
}

/** Room for the text of any value that is not text itself. */
#define NV_VALUE_TEXT_SIZE 64u
/**
 * A value as a protocol shows it that knows only text: numbers in decimal, times as the service writes them, a UUID
 * with its dashes, bytes as they are; a null is empty. @return a span into the value, or into @p scratch
 */
nv_span nv_value_text(const nv_value *value, char scratch[NV_VALUE_TEXT_SIZE]);

/** Append one encoded property to @p out. @return NV_E_TOO_BIG when out is full or a name exceeds 65,535 bytes */
NV_NODISCARD nv_err nv_property_put(nv_buf *out, const nv_property *property);
/** Walk an encoded section: start with a reader over it. @return false at its end or when r->err is set */
bool nv_property_next(nv_reader *r, nv_property *out);
/** Find a system property in an encoded section. @return false when absent */
bool nv_property_find(nv_span section, nv_system_property id, nv_value *out);

/**
 * The size of a message by the formula of the service (semantics.md section 3.11): body, values of system properties,
 * names and values of the application's. @return NV_E_SYNTAX the section is malformed
 */
NV_NODISCARD nv_err nv_record_size(nv_span properties, nv_span body, size_t *out);

/** How the sender proved who it is; part of `iothub-connection-auth-method`. Values are on disk. */
typedef enum nv_auth_scope { NV_AUTH_SCOPE_DEVICE = 0, NV_AUTH_SCOPE_MODULE = 1, NV_AUTH_SCOPE_HUB = 2 } nv_auth_scope;
typedef enum nv_auth_type { NV_AUTH_TYPE_SAS = 0, NV_AUTH_TYPE_X509 = 1 } nv_auth_type;

/** The sender, written once per run. */
typedef struct nv_stamp {
    nv_span device_id;
    nv_span module_id;     /* empty for a device */
    nv_span generation_id; /* iothub-connection-auth-generation-id */
    nv_span model_id;      /* dt-dataschema of the connection; empty when none */
    nv_auth_scope scope;
    nv_auth_type type;
} nv_stamp;

/** Append the encoded stamp. A session does this once and hands the bytes to every append. */
NV_NODISCARD nv_err nv_stamp_encode(nv_buf *out, const nv_stamp *stamp);
/** Decode; spans point into @p bytes. @return NV_E_CORRUPT */
NV_NODISCARD nv_err nv_stamp_decode(nv_span bytes, nv_stamp *out);
/** `{"scope":"device","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}`. Static storage. */
const char *nv_stamp_auth_method(const nv_stamp *stamp);

/** One event as a reader sees it. Spans point into the chunk it came from. */
typedef struct nv_record {
    uint32_t partition;
    uint64_t sequence;   /* per partition, from 0, no holes */
    uint64_t offset;     /* per partition, grows with stored bytes */
    int64_t enqueued_us; /* wall clock, never goes back within a partition */
    nv_span stamp;       /* encoded nv_stamp */
    nv_source source;
    nv_body_kind body_kind;
    nv_span properties; /* encoded section */
    nv_span body;
} nv_record;

#endif
