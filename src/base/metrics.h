/**
 * Counters and gauges of the process, one row each, shown by /metrics in the Prometheus text format.
 * Add a row here and use it; nothing else to register. Hot paths add once per batch.
 */
#ifndef NV_BASE_METRICS_H
#define NV_BASE_METRICS_H

#include <stdatomic.h>
#include <stdint.h>

/* identifier, kind, exported name, help */
#define NV_METRIC_TABLE(X)                                                                                             \
    X(CONNECTIONS_OPEN, gauge, "nave_net_connections_open", "open connections")                                        \
    X(CONNECTIONS_TOTAL, counter, "nave_net_connections_total", "connections accepted")                                \
    X(CONNECTIONS_REFUSED, counter, "nave_net_connections_refused_total",                                              \
      "connections closed at accept because a cap was reached")                                                        \
    X(CONNECTIONS_DISPLACED, counter, "nave_net_connections_displaced_total",                                          \
      "connections closed before they authenticated, for newer ones")                                                  \
    X(TLS_HANDSHAKES, counter, "nave_tls_handshakes_total", "completed TLS handshakes")                                \
    X(TLS_RESUMED, counter, "nave_tls_resumed_total", "completed TLS handshakes that resumed")                         \
    X(TLS_FAILED, counter, "nave_tls_failed_total", "failed TLS handshakes")                                           \
    X(NET_IN_BYTES, counter, "nave_net_received_bytes", "bytes read from sockets")                                     \
    X(NET_OUT_BYTES, counter, "nave_net_sent_bytes", "bytes written to sockets")                                       \
    X(DIAG_DROPPED, counter, "nave_diag_dropped_lines", "lines of the program's own log that nobody read in time")     \
    X(MQTT_SESSIONS, gauge, "nave_mqtt_sessions_open", "authenticated MQTT sessions")                                  \
    X(MQTT_CONNECTS, counter, "nave_mqtt_connects_total", "accepted CONNECT packets")                                  \
    X(MQTT_REFUSED, counter, "nave_mqtt_connects_refused_total", "refused CONNECT packets")                            \
    X(MQTT_CLOSED_BAD, counter, "nave_mqtt_closed_for_cause_total",                                                    \
      "MQTT connections closed because the peer broke a rule")                                                         \
    X(MQTT_TAKEOVERS, counter, "nave_mqtt_takeovers_total",                                                            \
      "connections replaced by a newer one of the same identity")                                                      \
    X(AMQP_CONNECTIONS, gauge, "nave_amqp_connections_open", "open AMQP connections that are authenticated")           \
    X(AMQP_DEVICES, gauge, "nave_amqp_devices_open", "devices and modules that are connected over AMQP")               \
    X(AMQP_REFUSED, counter, "nave_amqp_links_refused_total", "refused AMQP links")                                    \
    X(TELEMETRY_MESSAGES, counter, "nave_telemetry_messages_total", "telemetry messages stored")                       \
    X(TELEMETRY_BYTES, counter, "nave_telemetry_received_bytes", "telemetry body bytes stored")                        \
    X(TELEMETRY_FAILED, counter, "nave_telemetry_failed_total",                                                        \
      "telemetry messages not stored because the log refused them")                                                    \
    X(EVENTS_MESSAGES, counter, "nave_events_messages_total", "events of the hub itself written to the log")           \
    X(LOG_COMMITS, counter, "nave_log_commits_total", "commits written to the telemetry log")                          \
    X(LOG_SYNCS, counter, "nave_log_syncs_total", "syncs of the telemetry log")                                        \
    X(LOG_WRITTEN_BYTES, counter, "nave_log_written_bytes", "bytes written to the telemetry log")                      \
    X(LOG_ERRORS, counter, "nave_log_errors_total", "failed writes or syncs of the log")                               \
    X(LOG_SEGMENTS, gauge, "nave_log_segments_files", "segment files in the telemetry log")                            \
    X(LOG_STORED_BYTES, gauge, "nave_log_stored_bytes", "bytes held by segment files")                                 \
    X(LOG_STATE, gauge, "nave_log_state_code", "0 ok, 1 disk full, 2 failed")                                          \
    X(LOG_BATCHES, counter, "nave_log_batches_total", "batches handed to the telemetry log")                           \
    X(LOG_BATCHES_DONE, counter, "nave_log_batches_done_total", "of these, told how it ended")                         \
    X(STATE_COMMITS, counter, "nave_state_commits_total", "transactions of the state store")                           \
    X(STATE_OPS, counter, "nave_state_operations_total", "operations of the state store")                              \
    X(STATE_REQUESTS, counter, "nave_state_requests_total", "reads and writes handed to the state store")              \
    X(STATE_REQUESTS_DONE, counter, "nave_state_requests_done_total", "of these, told how it ended")                   \
    X(QUERIES, counter, "nave_query_requests_total", "pages of queries asked for")                                     \
    X(QUERY_ROWS, counter, "nave_query_rows_total", "rows that queries looked at")                                     \
    X(HTTP_REQUESTS, counter, "nave_http_requests_total", "HTTP requests answered")                                    \
    X(HTTP_ERRORS, counter, "nave_http_errors_total", "HTTP requests answered with 4xx or 5xx")                        \
    X(WEBSOCKETS, counter, "nave_http_websockets_total", "connections that became WebSockets")                         \
    X(READERS_OPEN, gauge, "nave_reader_open", "open readers of the telemetry log")                                    \
    X(READ_MESSAGES, counter, "nave_reader_messages_total", "messages handed to readers")

typedef enum nv_metric {
#define X(id, kind, name, help) NV_M_##id,
    NV_METRIC_TABLE(X)
#undef X
        NV_METRIC_COUNT
} nv_metric;

typedef struct nv_metric_info {
    const char *kind; /* "counter" or "gauge" */
    const char *name;
    const char *help;
} nv_metric_info;

extern const nv_metric_info nv_metric_infos[NV_METRIC_COUNT];
extern _Atomic int64_t nv_metric_values[NV_METRIC_COUNT];

static inline void nv_metric_add(nv_metric metric, int64_t delta)
{
    atomic_fetch_add_explicit(&nv_metric_values[metric], delta, memory_order_relaxed);
}

static inline void nv_metric_set(nv_metric metric, int64_t value)
{
    atomic_store_explicit(&nv_metric_values[metric], value, memory_order_relaxed);
}

static inline int64_t nv_metric_get(nv_metric metric)
{
    return atomic_load_explicit(&nv_metric_values[metric], memory_order_relaxed);
}

#endif
