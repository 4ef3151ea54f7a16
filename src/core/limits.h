/**
 * The limits of the hub, one row each, in two profiles: `open` is generous and configurable, `azure` has the service's
 * own numbers, for tests that must fail as in the cloud. Every bound on what a peer may have, send or keep is a row
 * here.
 */
#ifndef NV_CORE_LIMITS_H
#define NV_CORE_LIMITS_H

#include <stdint.h>

/* member, unit, open, azure, what happens beyond */
#define NV_LIMIT_TABLE(X)                                                                                              \
    X(message_bytes, "bytes", 262144, 262144, "telemetry message: the connection is closed, HTTP 413")                 \
    X(inflight_messages, "messages", 1024, 16, "unacknowledged inbound MQTT messages: the hub stops reading")          \
    X(inflight_bytes, "bytes", 1048576, 4194304, "unacknowledged inbound MQTT bytes: the hub stops reading")           \
    X(amqp_credit, "messages", 1000, 1000, "on their way or unsettled on an AMQP link: the peer waits for credit")     \
    X(subscriptions, "filters", 64, 50, "subscriptions of a session: SUBACK 0x80")                                     \
    X(keep_alive_cap_s, "seconds", 1767, 1767, "silence allowed at most, whatever the client asked for")               \
    X(connect_deadline_s, "seconds", 30, 60, "from accept to CONNECT: the connection is closed")                       \
    X(unauthenticated_connections, "connections", 4096, 4096, "the oldest connection without an identity is closed")   \
    X(connections, "connections", 100000, 100000, "further connections are closed at accept")                          \
    X(unauthenticated_bytes, "bytes", 16384, 16384, "first packet or request head: the connection is closed")          \
    X(output_bytes, "bytes", 4194304, 4194304, "output a peer does not read: the connection is closed")                \
    X(http_body_bytes, "bytes", 4194304, 4194304, "request body: 413")                                                 \
    X(http_idle_s, "seconds", 240, 240, "a keep-alive connection without a request is closed")                         \
    X(http_request_s, "seconds", 60, 60, "from the first byte of a request to its last: 408 and close")                \
    X(http_requests_per_connection, "requests", 64, 64, "pipelined requests: the hub stops reading")                   \
    X(modules_per_device, "modules", 50, 50, "413 TooManyModulesOnDevice")                                             \
    X(bulk_items, "items", 100, 100, "400")                                                                            \
    X(devices, "identities", 0, 1000000, "403 TooManyDevices; 0 = no bound")                                           \
    X(c2d_depth, "messages", 1000, 50, "403 DeviceMaximumQueueDepthExceeded")                                          \
    X(c2d_bytes, "bytes", 65536, 65536, "body and properties of a cloud-to-device message: 413")                       \
    X(c2d_inflight, "messages", 64, 10, "handed to one receiver and not settled: the next wait")                       \
    X(c2d_max_deliveries, "times", 10, 10, "dead-lettered as DeliveryCountExceeded")                                   \
    X(c2d_lock_s, "seconds", 60, 60, "a message not settled by then returns to its queue")                             \
    X(c2d_ttl_s, "seconds", 3600, 3600, "default life of a cloud-to-device message: Expired")                          \
    X(c2d_ttl_max_s, "seconds", 172800, 172800, "expiry further ahead: 400")                                           \
    X(feedback_ttl_s, "seconds", 3600, 3600, "feedback nobody fetched is dropped")                                     \
    X(methods_per_device, "calls", 1024, 100, "waiting calls of one device: 429")                                      \
    X(methods, "calls", 100000, 10000, "waiting calls of one loop: 429")                                               \
    X(method_bytes, "bytes", 131072, 131072, "payload of a direct method, each way: 413")                              \
    X(twin_tags_bytes, "bytes", 8192, 8192, "size of tags by the formula of the service: 400")                         \
    X(twin_desired_bytes, "bytes", 32768, 32768, "size of desired properties: 400")                                    \
    X(twin_reported_bytes, "bytes", 32768, 32768, "size of reported properties: 400")                                  \
    X(twin_inflight, "requests", 64, 16, "twin requests of one connection in flight: the hub stops reading")           \
    X(queries, "queries", 64, 64, "running queries: 429")                                                              \
    X(consumer_groups, "groups", 1000, 50, "403 TooManyConsumerGroups")                                                \
    X(readers_per_partition, "readers", 5, 5, "of a group and partition, without an owner level: the link is refused") \
    X(websocket_frame_bytes, "bytes", 1048576, 1048576, "longer WebSocket messages: the connection is closed")         \
    X(sas_clock_skew_s, "seconds", 0, 0, "token that expired longer ago: refused")                                     \
    X(readers, "readers", 256, 256, "further readers of events: 429")                                                  \
    X(reader_queue_bytes, "bytes", 1048576, 1048576, "output a reader does not read: the hub waits for it")            \
    X(amqp_links, "links", 16384, 16384, "of one AMQP connection: further ones are refused")                           \
    X(amqp_sessions, "sessions", 8192, 8192, "of one AMQP connection: the connection is closed")                       \
    X(amqp_devices, "devices", 4096, 1000, "devices and modules of one AMQP connection: further links are refused")    \
    X(amqp_tokens, "tokens", 4096, 1000, "tokens put on one AMQP connection: 403")                                     \
    X(amqp_unsettled_bytes, "bytes", 4194304, 4194304, "received over AMQP and not settled: the hub stops reading")    \
    X(amqp_idle_s, "seconds", 240, 240, "a silent AMQP connection is closed")                                          \
    X(amqp_open_s, "seconds", 60, 60, "from accept to OPEN: the connection is closed")                                 \
    X(amqp_authorize_s, "seconds", 120, 120, "from OPEN until a credential opens something: the connection is closed") \
    X(refusals_identities, "identities", 1024, 1024, "identities whose last refusals are kept: the oldest is dropped") \
    X(refusals_per_identity, "refusals", 8, 8, "refusals kept per identity: the oldest is dropped")

typedef struct nv_limits {
#define X(member, unit, open, azure, beyond) int64_t member;
    NV_LIMIT_TABLE(X)
#undef X
} nv_limits;

/** A row where 31 bits are room enough (numbers on the wire, counters that wrap): more than they hold means as much. */
static inline uint32_t nv_limit_31(int64_t row)
{
    return row < INT32_MAX ? (uint32_t)row : INT32_MAX;
}

extern const nv_limits nv_limits_open;
extern const nv_limits nv_limits_azure;

#endif
