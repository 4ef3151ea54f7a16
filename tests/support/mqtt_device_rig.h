/**
 * What the tests of MQTT device sessions share: a hub in memory with the devices d1 (module m1) and d2, and two
 * connections to it.
 */
#ifndef NV_TESTS_MQTT_DEVICE_RIG_H
#define NV_TESTS_MQTT_DEVICE_RIG_H

#include "base/diag.h"
#include "base/metrics.h"
#include "core/devices.h"
#include "session/mqtt_device.h"
#include "store/record.h"
#include "support/fake_core.h"
#include "support/mqtt_pair.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define EVENTS "devices/d1/messages/events/"

typedef struct bench {
    fake_core core;
    mqtt_pair a;
    mqtt_pair b;
} bench;

extern char last_log[4096]; /* the last warning */
extern const mqtt_login d1;
extern const mqtt_login d1_persistent;

bench *bench_new(const nv_limits *limits);
/** Everybody leaves; checks that nothing remains. */
void bench_free(bench *t);
/** Until nothing happens any more. */
void run(bench *t);
/** Time passes, deadlines of connection a are looked at. */
void advance(bench *t, int64_t us);
/** Run, then compare what the hub sent since the last look. */
void expect(bench *t, mqtt_pair *pair, const char *hex);
/** The same, as mqtt_pair_take_text() gives it. */
void expect_text(bench *t, mqtt_pair *pair, const char *text);
/** Connect and expect CONNACK 0 without a session. */
void open_as(bench *t, mqtt_pair *pair, const mqtt_login *login);

/** "name=value;..." of a stored record: system properties by their logical names, nulls as "name". Static memory. */
const char *properties_of(const fake_record *record);
const fake_record *last_record(const bench *t);
nv_refusal last_refusal(bench *t, const char *device, const char *module);

/** For fake_register(). */
void make_disabled(nv_identity *identity);
void make_x509_sha1(nv_identity *identity);

#endif
