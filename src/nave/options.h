/**
 * Every option of the hub, one row each. The YAML schema, the environment overrides (`NAVE_SECTION_NAME`), the checks,
 * `nave up --check`, the reference in docs/configuration.md and the members of nv_config come from these rows; the
 * rows of the limits table (core/limits.h) join them as section `limits`.
 */
#ifndef NV_NAVE_OPTIONS_H
#define NV_NAVE_OPTIONS_H

#include "core/limits.h"

/* section, its purpose */
#define NV_SECTION_TABLE(X)                                                                                            \
    X(net, "Addresses and loops, for all protocols")                                                                   \
    X(mqtt, "MQTT listeners")                                                                                          \
    X(amqp, "AMQP listeners: devices, services, and whoever reads events as from Event Hubs")                          \
    X(https, "HTTPS listener: identities, telemetry by HTTP, reading events")                                          \
    X(admin, "Health and metrics, without authentication: keep it on loopback")                                        \
    X(tls, "The server's certificate")                                                                                 \
    X(log, "The telemetry log")                                                                                        \
    X(limits, "What a peer may have, send or keep. A row that is not set has the number of the profile")               \
    X(events, "Events of the hub itself, written to the telemetry log beside what devices send")                       \
    X(diag, "The program's own log")                                                                                   \
    X(testing, "For tests of devices and services against this hub; never in production")

/*
 * section, name, type, min, max (LIST: entries; TEXT: bytes), default, unit, reloadable, choices, help
 * INT with unit "bytes" takes the suffixes KiB, MiB, GiB, TiB.
 */
#define NV_OPTION_TABLE(X)                                                                                             \
    X(net, bind, LIST, 0, 16, "", "addresses", false, "",                                                              \
      "Addresses to listen on. Empty: all of them; `localhost`: 127.0.0.1 and ::1")                                    \
    X(net, loops, INT, 0, 256, "0", "threads", false, "", "Input/output loops. 0: one for each core")                  \
    X(net, host_names, LIST, 0, 32, "", "names", false, "",                                                            \
      "Host names of the hub beside those of the machine; the first is its own name. All stand in the certificate")    \
    X(net, drain_seconds, INT, 0, 600, "10", "seconds", true, "",                                                      \
      "On a stop, time for acknowledgements in flight before connections are cut")                                     \
    X(net, spin_microseconds, INT, 0, 1000, "200", "microseconds", false, "",                                          \
      "How long a loop that gets events all the time looks for the next before it sleeps. 0: "                         \
      "off")                                                                                                           \
    X(mqtt, port, INT, -1, 65535, "8883", "port", false, "", "MQTT over TLS. 0: off; -1: any free port")               \
    X(mqtt, plain_port, INT, -1, 65535, "0", "port", false, "",                                                        \
      "MQTT without TLS, for bridges on the same machine; usually 1883. 0: off; -1: any free port")                    \
    X(mqtt, plain_bind, LIST, 1, 16, "localhost", "addresses", false, "",                                              \
      "Addresses for MQTT without TLS. What it carries can be read on the way: leave loopback only on a trusted line") \
    X(amqp, port, INT, -1, 65535, "5671", "port", false, "", "AMQP over TLS. 0: off; -1: any free port")               \
    X(amqp, plain_port, INT, -1, 65535, "0", "port", false, "",                                                        \
      "AMQP without TLS, for Event Hubs clients with UseDevelopmentEmulator=true; usually 5672. 0: off; -1: any "      \
      "free port")                                                                                                     \
    X(amqp, plain_bind, LIST, 1, 16, "localhost", "addresses", false, "",                                              \
      "Addresses for AMQP without TLS. What it carries can be read on the way: leave loopback only on a trusted line") \
    X(https, port, INT, -1, 65535, "443", "port", false, "",                                                           \
      "HTTPS. 0: off; -1: any free port. Some clients (Node's azure-iothub, every WebSocket client) know only 443")    \
    X(https, fallback_port, INT, 0, 65535, "8443", "port", false, "",                                                  \
      "Taken when an ordinary user may not listen on https.port. 0: refuse to start then")                             \
    X(admin, port, INT, -1, 65535, "9600", "port", false, "", "/healthz, /readyz and /metrics. 0: off; -1: any free")  \
    X(admin, bind, LIST, 1, 16, "localhost", "addresses", false, "", "Addresses of the admin listener")                \
    X(tls, certificate_file, TEXT, 0, 4096, "", "path", false, "",                                                     \
      "PEM chain of the server, leaf first; read again on SIGHUP. Empty: one by the hub's own CA, renewed by itself")  \
    X(tls, key_file, TEXT, 0, 4096, "", "path", false, "", "PEM private key of certificate_file, read with it")        \
    X(tls, min_version, CHOICE, 0, 0, "1.2", "", false, "1.2|1.3", "Oldest version of TLS that is spoken")             \
    X(tls, ciphers, TEXT, 0, 4096, "", "list", false, "",                                                              \
      "Cipher suites of TLS 1.2 in OpenSSL's words, for old modems. Empty: ECDHE with AEAD only")                      \
    X(log, durability, CHOICE, 0, 0, "commit", "", false, "commit|os",                                                 \
      "When telemetry counts as stored: `commit` after a sync to the disk, `os` once the operating system has it")     \
    X(log, partitions, INT, 1, 32, "4", "partitions", false, "", "Counts when the log is created; fixed from then on") \
    X(log, retention_hours, INT, 0, 876000, "168", "hours", false, "",                                                 \
      "Telemetry older than this is removed, at twice that age at the latest. 0: kept for ever")                       \
    X(log, retention_bytes, INT, 0, INT64_C(1) << 60, "10GiB", "bytes", false, "",                                     \
      "The oldest telemetry goes when the log holds more. 0: no bound")                                                \
    X(log, segment_bytes, INT, 1 << 20, INT64_C(1) << 34, "64MiB", "bytes", false, "",                                 \
      "Size of one file of the log, a multiple of 1 MiB")                                                              \
    X(limits, profile, CHOICE, 0, 0, "open", "", false, "open|azure",                                                  \
      "`open`: generous; `azure`: the service's own numbers, for tests that must fail as in the cloud")                \
    X(events, entity, TEXT, 0, 256, "", "name", false, "",                                                             \
      "Name of the built-in event hub: EntityPath in the connection strings of its readers. Empty: the first label "   \
      "of the hub's own name")                                                                                         \
    X(events, connection_state, BOOL, 0, 0, "false", "", false, "",                                                    \
      "Devices that connect and disconnect, from the first operation of a connection on "                              \
      "(deviceConnectionStateEvents)")                                                                                 \
    X(events, lifecycle, BOOL, 0, 0, "false", "", false, "",                                                           \
      "Devices and modules that are created and deleted (deviceLifecycleEvents)")                                      \
    X(events, twin_change, BOOL, 0, 0, "false", "", false, "",                                                         \
      "Changes of tags, desired and reported properties (twinChangeEvents)")                                           \
    X(events, digital_twin_change, BOOL, 0, 0, "false", "", false, "",                                                 \
      "The same as JSON patches, of devices that announced a model (digitalTwinChangeEvents)")                         \
    X(diag, level, CHOICE, 0, 0, "info", "", true, "debug|info|warn|error", "Least level that is written")             \
    X(diag, format, CHOICE, 0, 0, "text", "", true, "text|json", "Lines of text, or one JSON object a line")           \
    X(testing, clock, CHOICE, 0, 0, "system", "", false, "system|manual",                                              \
      "`manual`: the hub's time begins with the system's and stands still until POST /testing/clock on the admin "     \
      "listener advances it")                                                                                          \
    X(testing, fault_injection, BOOL, 0, 0, "false", "", false, "",                                                    \
      "Do what messages with AzIoTHub_FaultOperationType ask for: cut or end connections, throttle, refuse")

/** Bounds of a limit that an option overrides: 0 is allowed only where a profile uses it as "no bound". */
#define NV_LIMIT_MIN(open, azure) (((open) == 0 || (azure) == 0) ? 0 : 1)
#define NV_LIMIT_MAX              (INT64_C(1) << 40)
/* The log's own bound holds for every profile. */
#define NV_LIMIT_MAX_OF(member)                                                                                        \
    (offsetof(nv_limits, member) == offsetof(nv_limits, message_bytes) ? (int64_t)NV_LOG_MESSAGE_MAX : NV_LIMIT_MAX)

#endif
