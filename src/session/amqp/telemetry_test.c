/* Telemetry over AMQP (amqp.md section 3.4): what is stored, and what its sender is told. */
#include "base/metrics.h"
#include "store/record.h"
#include "support/amqp_device_rig.h"

#define EVENTS "/devices/d1/messages/events"

static const fake_record *last_record(const amqp_rig *rig)
{
    assert_true(fake_log_count(&rig->core) > 0);
    return fake_log_at(&rig->core, fake_log_count(&rig->core) - 1);
}

static void assert_span(nv_span got, const char *want)
{
    if (!nv_span_eq_str(got, want)) {
        fail_msg("\"%.*s\", wanted \"%s\"", NV_SPAN_ARG(got), want);
    }
}

/* A hub, and device d1 that sends telemetry to it. */
static amqp_rig *with_sender(rig_link **sender)
{
    amqp_rig *rig = rig_new(&nv_limits_open);
    rig_open(rig, &rig->a, "d1");
    *sender = rig_sender(rig, &rig->a, EVENTS);
    return rig;
}

static void begins_and_stores(void **state)
{
    (void)state;
    rig_link *l;
    amqp_rig *rig = with_sender(&l);
    assert_int_equal(l->max_message_size, 1048576);
    assert_true(l->has_properties);
    rig_expect_accepted(rig, l, rig_send(l, rig_data("hello"), 0, false));
    assert_int_equal(fake_log_count(&rig->core), 1);
    assert_span(last_record(rig)->body, "hello");
    assert_int_equal(last_record(rig)->properties.len, 0);
    nv_stamp stamp;
    assert_int_equal(nv_stamp_decode(last_record(rig)->stamp, &stamp), NV_OK);
    assert_span(stamp.device_id, "d1");
    assert_int_equal(stamp.module_id.len, 0);
    assert_int_equal(stamp.model_id.len, 0);
    assert_int_equal(stamp.scope, NV_AUTH_SCOPE_DEVICE);
    assert_int_equal(stamp.type, NV_AUTH_TYPE_SAS);
    rig_free(rig);
}

/* ---- messages ------------------------------------------------------------------------------------------------------
 */

/* "name=text;" of all properties of a record, system ones by their names. */
static const char *properties_of(const fake_record *record)
{
    static char text[4096];
    size_t n = 0;
    nv_reader r = nv_reader_of(record->properties);
    nv_property p;
    text[0] = '\0';
    while (nv_property_next(&r, &p)) {
        char scratch[NV_VALUE_TEXT_SIZE];
        nv_span name = p.id ? nv_span_str(nv_system_property_name(p.id)) : p.name;
        n += (size_t)snprintf(text + n, sizeof(text) - n, "%.*s=%.*s;", NV_SPAN_ARG(name),
                              NV_SPAN_ARG(nv_value_text(&p.value, scratch)));
    }
    assert_int_equal(r.err, NV_OK);
    return text;
}

/* A message: id (encoded, or empty), one application property unless NULL, and a data section of @p body_len bytes. */
static nv_span make_message(nv_span id, const char *key, const char *value, size_t body_len)
{
    static uint8_t bytes[600000];
    nv_writer w = nv_writer_of(bytes, sizeof(bytes));
    if (id.len > 0) {
        nv_amqp_properties p = {.message_id = id, .content_type = nv_span_str("application/json")};
        nv_amqp_put_properties_section(&w, &p);
    }
    if (key) {
        size_t mark = nv_amqp_begin_map_section(&w, NV_AMQP_APPLICATION_PROPERTIES);
        nv_amqp_put_string_of(&w, key);
        nv_amqp_put_string_of(&w, value);
        nv_amqp_end_map(&w, mark, 2);
    }
    nv_amqp_put_data_head(&w, body_len);
    for (size_t i = 0; i < body_len; i++) {
        nv_write_u8(&w, (uint8_t)('a' + i % 26));
    }
    assert_int_equal(w.err, NV_OK);
    return nv_writer_span(&w);
}

/* conformance: amqp.md 27 */
static void ids_of_all_types_are_stored_as_text(void **state)
{
    (void)state;
    static const struct {
        uint8_t encoded[24];
        size_t len;
        const char *text;
    } rows[] = {
        {{0xa1, 3, 'm', '-', '1'}, 5, "m-1"},
        {{0x98, 0x0f, 0x8f, 0xad, 0x5b, 0xd9, 0xcb, 0x46, 0x9f, 0xa1, 0x65, 0x70, 0x86, 0x77, 0x28, 0x95, 0x0e},
         17,
         "0f8fad5b-d9cb-469f-a165-70867728950e"},
        {{0x53, 42}, 2, "42"},
        {{0x44}, 1, "0"},
        {{0xa0, 3, 'm', '-', '2'}, 5, "m-2"},
    };
    rig_link *l;
    amqp_rig *rig = with_sender(&l);
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        char want[128];
        nv_span message = make_message(nv_span_of(rows[i].encoded, rows[i].len), "k", "v", 10);
        rig_expect_accepted(rig, l, rig_send(l, message, 0, false));
        (void)snprintf(want, sizeof(want), "message-id=%s;content-type=application/json;k=v;", rows[i].text);
        assert_string_equal(properties_of(last_record(rig)), want);
    }
    rig_free(rig);
}

/* What stands before the body is compared with the last message's: every change must be seen. */
static void each_head_counts(void **state)
{
    (void)state;
    static const struct {
        const char *key;
        const char *value;
        size_t body;
        const char *properties;
    } rows[] = {
        {"k", "v", 10, "k=v;"},     {"k", "v", 10, "k=v;"},  {"k", "v", 255, "k=v;"}, {"k", "v", 256, "k=v;"},
        {"k", "w", 256, "k=w;"},    {"k", "ww", 0, "k=ww;"}, {NULL, NULL, 5, ""},     {NULL, NULL, 5, ""},
        {"k", "v", 5, "k=v;"},      {NULL, NULL, 300, ""},   {"kk", "v", 1, "kk=v;"}, {"k", "v", 100000, "k=v;"},
        {"k", "v", 100001, "k=v;"}, {"k", "v", 3, "k=v;"},
    };
    rig_link *l;
    amqp_rig *rig = with_sender(&l);
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_span message = make_message(NV_SPAN_EMPTY, rows[i].key, rows[i].value, rows[i].body);
        rig_expect_accepted(rig, l, rig_send(l, message, 0, false));
        assert_string_equal(properties_of(last_record(rig)), rows[i].properties);
        assert_int_equal(last_record(rig)->body.len, rows[i].body);
        assert_true(rows[i].body == 0 || last_record(rig)->body.ptr[rows[i].body - 1] == 'a' + (rows[i].body - 1) % 26);
    }
    rig_free(rig);
}

/* A head that is a prefix of another message must not be taken for its head. */
static void a_known_head_is_no_parser(void **state)
{
    (void)state;
    static const uint8_t two_bodies[] = {0x00, 0x53, 0x75, 0xa0, 1, 'x', 0x00, 0x53, 0x75, 0xa0, 1, 'y'};
    static const uint8_t wide[] = {0x00, 0x53, 0x75, 0xb0, 0, 0, 0, 1, 'z'};
    static const uint8_t value[] = {0x00, 0x53, 0x77, 0xa1, 1, 'v'};
    static const uint8_t properties[] = {0x00, 0x53, 0x73, 0xc0, 6, 2, 0xa1, 1, 'i', 0x40, 0x40};
    static const uint8_t cut[] = {0x00, 0x53, 0x75, 0xa0, 9, 'x'};
    rig_link *l;
    amqp_rig *rig = with_sender(&l);
    rig_expect_accepted(rig, l, rig_send(l, rig_data("first"), 0, false)); /* the empty head is known now */
    rig_expect_accepted(rig, l, rig_send(l, nv_span_of(two_bodies, sizeof(two_bodies)), 0, false));
    assert_span(last_record(rig)->body, "xy");
    rig_expect_accepted(rig, l, rig_send(l, nv_span_of(wide, sizeof(wide)), 0, false));
    assert_span(last_record(rig)->body, "z");
    rig_expect_accepted(rig, l, rig_send(l, nv_span_of(value, sizeof(value)), 0, false));
    assert_span(last_record(rig)->body, "\xa1\x01v"); /* kept with its type */
    assert_int_equal(last_record(rig)->kind, NV_BODY_AMQP_VALUE);
    rig_expect_rejected(rig, l, rig_send(l, nv_span_of(properties, 10), 0, false), "amqp:decode-error");
    rig_expect_rejected(rig, l, rig_send(l, nv_span_of(cut, sizeof(cut)), 0, false), "amqp:decode-error");
    rig_expect_accepted(rig, l, rig_send(l, rig_data("last"), 0, false));
    assert_int_equal(fake_log_count(&rig->core), 5);
    rig_free(rig);
}

static void bad_messages_are_rejected_and_the_link_stays(void **state)
{
    (void)state;
    uint8_t bytes[8192];
    nv_writer w = nv_writer_of(bytes, sizeof(bytes));
    rig_link *l;
    amqp_rig *rig = with_sender(&l);
    size_t limit = (size_t)rig->core.limits.message_bytes;
    /* too long by its body, by its properties, and just fitting */
    rig_expect_rejected(rig, l, rig_send(l, make_message(NV_SPAN_EMPTY, NULL, NULL, limit + 1), 0, false),
                        "amqp:link:message-size-exceeded");
    rig_expect_rejected(rig, l, rig_send(l, make_message(NV_SPAN_EMPTY, "k", "v", limit - 1), 0, false),
                        "amqp:link:message-size-exceeded");
    rig_expect_accepted(rig, l, rig_send(l, make_message(NV_SPAN_EMPTY, "k", "v", limit - 2), 0, false));
    rig_expect_rejected(rig, l, rig_send(l, nv_span_str("no message"), 0, false), "amqp:decode-error");
    rig_expect_rejected(rig, l, rig_send(l, rig_data("x"), 7, false), "amqp:not-implemented");
    /* a value that is none of a property */
    size_t mark = nv_amqp_begin_map_section(&w, NV_AMQP_APPLICATION_PROPERTIES);
    nv_amqp_put_string_of(&w, "k");
    size_t list = nv_amqp_begin_list(&w);
    nv_amqp_end_list(&w, list, 0);
    nv_amqp_end_map(&w, mark, 2);
    rig_expect_rejected(rig, l, rig_send(l, nv_writer_span(&w), 0, false), "com.microsoft:argument-error");
    /* too many properties */
    w = nv_writer_of(bytes, sizeof(bytes));
    mark = nv_amqp_begin_map_section(&w, NV_AMQP_APPLICATION_PROPERTIES);
    for (int i = 0; i < 300; i++) {
        nv_amqp_put_string_of(&w, "k");
        nv_amqp_put_null(&w);
    }
    nv_amqp_end_map(&w, mark, 600);
    rig_expect_rejected(rig, l, rig_send(l, nv_writer_span(&w), 0, false), "com.microsoft:argument-out-of-range");
    assert_non_null(l->link);
    rig_expect_accepted(rig, l, rig_send(l, rig_data("good"), 0, false));
    assert_int_equal(fake_log_count(&rig->core), 2);
    rig_free(rig);
}

/* ---- batches -------------------------------------------------------------------------------------------------------
 */

static nv_span make_batch(size_t count, size_t bad)
{
    static uint8_t bytes[1 << 19];
    nv_writer w = nv_writer_of(bytes, sizeof(bytes));
    for (size_t i = 0; i < count; i++) {
        uint8_t inner[256];
        char body[32];
        nv_writer m = nv_writer_of(inner, sizeof(inner));
        (void)snprintf(body, sizeof(body), "event %zu", i);
        if (i % 3 != 0) {
            size_t mark = nv_amqp_begin_map_section(&m, NV_AMQP_APPLICATION_PROPERTIES);
            nv_amqp_put_string_of(&m, "n");
            nv_amqp_put_long(&m, (int64_t)i / 2);
            nv_amqp_end_map(&m, mark, 2);
        }
        nv_amqp_put_data_head(&m, strlen(body) + (i == bad));
        nv_write_span(&m, nv_span_str(body));
        nv_amqp_put_data_head(&w, nv_writer_len(&m));
        nv_write_span(&w, nv_writer_span(&m));
    }
    assert_int_equal(w.err, NV_OK);
    return nv_writer_span(&w);
}

static void expect_events(const amqp_rig *rig, size_t from, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char body[32];
        char properties[32];
        (void)snprintf(body, sizeof(body), "event %zu", i);
        (void)snprintf(properties, sizeof(properties), "n=%zu;", i / 2);
        assert_span(fake_log_at(&rig->core, from + i)->body, body);
        assert_string_equal(properties_of(fake_log_at(&rig->core, from + i)), i % 3 != 0 ? properties : "");
    }
}

/* conformance: amqp.md 28 */
static void a_batch_is_n_events_and_one_outcome(void **state)
{
    (void)state;
    rig_link *l;
    amqp_rig *rig = with_sender(&l);
    fake_log_set_mode(&rig->core, FAKE_LOG_HOLD);
    rig_send(l, rig_data("before"), 0, false);
    uint32_t id = rig_send(l, make_batch(10, SIZE_MAX), NV_AMQP_FORMAT_BATCH, false);
    rig_send(l, rig_data("after"), 0, false);
    rig_run(rig);
    assert_int_equal(l->outcome_count, 0); /* not before the log has it */
    fake_log_set_mode(&rig->core, FAKE_LOG_AUTO);
    while (fake_log_complete(&rig->core, NV_OK)) {
        rig_run(rig);
    }
    rig_expect_accepted(rig, l, id);
    assert_int_equal(l->outcome_count, 3);
    assert_int_equal(fake_log_count(&rig->core), 12);
    expect_events(rig, 1, 10);
    assert_span(fake_log_at(&rig->core, 11)->body, "after");
    /* as the C SDK sends one, and as nobody sends none */
    rig_expect_accepted(rig, l, rig_send(l, make_batch(1, SIZE_MAX), NV_AMQP_FORMAT_BATCH, false));
    rig_expect_accepted(rig, l, rig_send(l, make_batch(0, SIZE_MAX), NV_AMQP_FORMAT_BATCH, false));
    assert_int_equal(fake_log_count(&rig->core), 13);
    rig_free(rig);
}

static void a_batch_with_a_bad_message_is_rejected_whole(void **state)
{
    (void)state;
    rig_link *l;
    amqp_rig *rig = with_sender(&l);
    rig_expect_rejected(rig, l, rig_send(l, make_batch(10, 9), NV_AMQP_FORMAT_BATCH, false), "amqp:decode-error");
    rig_expect_rejected(rig, l, rig_send(l, make_batch(1, 0), NV_AMQP_FORMAT_BATCH, false), "amqp:decode-error");
    rig_expect_rejected(rig, l, rig_send(l, make_batch(4097, SIZE_MAX), NV_AMQP_FORMAT_BATCH, false),
                        "com.microsoft:argument-out-of-range");
    assert_int_equal(fake_log_count(&rig->core), 0);
    rig_expect_accepted(rig, l, rig_send(l, rig_data("good"), 0, false));
    rig_free(rig);
}

/* The log takes two records at a time: the batch stops in its middle, again and again, and goes on where it stopped. */
static void a_batch_waits_for_the_log(void **state)
{
    (void)state;
    amqp_rig *rig = rig_new(&nv_limits_open);
    rig_open(rig, &rig->a, "d1");
    rig_link *l = rig_attach_link(rig, &rig->a, &(rig_attach){.address = EVENTS, .sends = true, .snd_settle_mode = 2});
    fake_log_set_batch_records(&rig->core, 2);
    fake_log_set_mode(&rig->core, FAKE_LOG_HOLD);
    uint32_t first = rig_send(l, make_batch(23, SIZE_MAX), NV_AMQP_FORMAT_BATCH, false);
    uint32_t second = rig_send(l, rig_data("behind"), 0, false);
    uint32_t third = rig_send(l, make_batch(5, SIZE_MAX), NV_AMQP_FORMAT_BATCH, true);
    uint32_t fourth = rig_send(l, make_batch(4, SIZE_MAX), NV_AMQP_FORMAT_BATCH, false);
    rig_run(rig);
    size_t rounds = 0;
    while (fake_log_complete(&rig->core, NV_OK)) {
        bool whole = fake_log_count(&rig->core) >= 23;
        rig_run(rig);
        assert_int_equal(rig_outcome_of(l, first)->kind, whole ? NV_AMQP_OUT_ACCEPTED : NV_AMQP_OUT_NONE);
        rounds++;
    }
    assert_true(rounds >= 16);
    rig_expect_accepted(rig, l, second);
    rig_expect_accepted(rig, l, fourth);
    assert_int_equal(rig_outcome_of(l, third)->kind, NV_AMQP_OUT_NONE);
    assert_int_equal(l->outcome_count, 3);
    assert_int_equal(fake_log_count(&rig->core), 33);
    expect_events(rig, 0, 23);
    assert_span(fake_log_at(&rig->core, 23)->body, "behind");
    expect_events(rig, 24, 5);
    expect_events(rig, 29, 4);
    rig_free(rig);
}

/* ---- outcomes ------------------------------------------------------------------------------------------------------
 */

static void settled_by_their_sender_nobody_answers(void **state)
{
    (void)state;
    amqp_rig *rig = rig_new(&nv_limits_open);
    rig_open(rig, &rig->a, "d1");
    rig_link *l = rig_attach_link(rig, &rig->a, &(rig_attach){.address = EVENTS, .sends = true, .snd_settle_mode = 2});
    rig_send(l, rig_data("one"), 0, true);
    rig_send(l, nv_span_str("rubbish"), 0, true);
    uint32_t id = rig_send(l, rig_data("two"), 0, false);
    rig_send(l, rig_data("three"), 0, true);
    rig_expect_accepted(rig, l, id);
    assert_int_equal(l->outcome_count, 1);
    assert_int_equal(fake_log_count(&rig->core), 3);
    rig_free(rig);
}

static void rejected_ones_do_not_shift_the_others(void **state)
{
    (void)state;
    rig_link *l;
    amqp_rig *rig = with_sender(&l);
    fake_log_set_mode(&rig->core, FAKE_LOG_HOLD);
    uint32_t ids[30];
    for (size_t i = 0; i < 30; i++) {
        ids[i] = rig_send(l, i % 4 == 1 ? nv_span_str("rubbish") : rig_data("good"), 0, false);
        if (i % 7 == 0) {
            rig_run(rig);
        }
    }
    rig_run(rig);
    while (fake_log_complete(&rig->core, NV_OK)) {
        rig_run(rig);
    }
    for (size_t i = 0; i < 30; i++) {
        assert_int_equal(rig_outcome_of(l, ids[i])->kind, i % 4 == 1 ? NV_AMQP_OUT_REJECTED : NV_AMQP_OUT_ACCEPTED);
    }
    rig_free(rig);
}

static void what_is_not_stored_is_rejected(void **state)
{
    (void)state;
    rig_link *l;
    amqp_rig *rig = with_sender(&l);
    fake_log_set_batch_records(&rig->core, 2);
    fake_log_set_mode(&rig->core, FAKE_LOG_HOLD);
    uint32_t first = rig_send(l, rig_data("one"), 0, false);
    uint32_t batch = rig_send(l, make_batch(4, SIZE_MAX), NV_AMQP_FORMAT_BATCH, false);
    uint32_t last = rig_send(l, rig_data("two"), 0, false);
    rig_run(rig);
    assert_true(fake_log_complete(&rig->core, NV_OK)); /* the first, and one of the batch */
    rig_run(rig);
    assert_true(fake_log_complete(&rig->core, NV_E_IO));
    rig_run(rig);
    while (fake_log_complete(&rig->core, NV_OK)) {
        rig_run(rig);
    }
    rig_expect_accepted(rig, l, first);
    rig_expect_accepted(rig, l, last);
    rig_run(rig);
    assert_int_equal(rig_outcome_of(l, batch)->kind, NV_AMQP_OUT_REJECTED);
    fake_log_set_mode(&rig->core, FAKE_LOG_AUTO);
    fake_log_set_submit_status(&rig->core, NV_E_NO_SPACE);
    fake_log_set_health(&rig->core, NV_LOG_FULL);
    uint32_t refused = rig_send(l, rig_data("no room"), 0, false);
    rig_expect_rejected(rig, l, refused, "com.microsoft:timeout");
    assert_string_equal(rig_outcome_of(l, refused)->description,
                        "ErrorCode:ServiceUnavailable;The hub cannot store now: the fake log fails");
    fake_log_set_submit_status(&rig->core, NV_OK);
    fake_log_set_health(&rig->core, NV_LOG_OK);
    rig_expect_accepted(rig, l, rig_send(l, rig_data("again"), 0, false));
    assert_non_null(l->link);
    rig_free(rig);
}

/* Nor who is connected: its link is refused with what is wrong. */
static void claims_that_are_not_stored(void **state)
{
    (void)state;
    static const struct {
        nv_err status;
        const char *says;
    } rows[] = {
        {NV_E_NO_SPACE, "ErrorCode:ServiceUnavailable;The hub cannot store now: the state store: no space left on the "
                        "device; free space on the volume"},
        {NV_E_IO, "ErrorCode:ServiceUnavailable;The hub cannot store now: the state store: input/output error; check "
                  "the disk and the kernel's messages; retried with each change"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        amqp_rig *rig = rig_new(&nv_limits_open);
        rig_open(rig, &rig->a, "d1");
        fake_state_set_status(&rig->core, rows[i].status);
        rig_link *l = rig_attach_link(rig, &rig->a, &(rig_attach){.address = EVENTS, .sends = true});
        assert_true(l->detached);
        assert_string_equal(l->condition, "com.microsoft:timeout");
        assert_string_equal(l->description, rows[i].says);
        fake_state_set_status(&rig->core, NV_OK);
        l = rig_sender(rig, &rig->a, EVENTS);
        rig_expect_accepted(rig, l, rig_send(l, rig_data("again"), 0, false));
        rig_free(rig);
    }
}

/* More than the log takes, from two devices that share nothing but the loop. */
static void senders_wait_for_the_log(void **state)
{
    (void)state;
    amqp_rig *rig = rig_new(&nv_limits_open);
    rig_open(rig, &rig->a, "d1");
    rig_open(rig, &rig->b, "d2");
    rig_link *l = rig_sender(rig, &rig->a, EVENTS);
    rig_link *m = rig_sender(rig, &rig->b, "/devices/d2/messages/events");
    fake_log_set_batch_records(&rig->core, 3);
    fake_log_set_mode(&rig->core, FAKE_LOG_HOLD);
    uint32_t ids[60];
    for (size_t i = 0; i < 60; i++) {
        char body[16];
        (void)snprintf(body, sizeof(body), "%zu", i);
        ids[i] = rig_send(i % 2 ? l : m, rig_data(body), 0, false);
    }
    rig_run(rig);
    while (fake_log_complete(&rig->core, NV_OK)) {
        rig_run(rig);
    }
    for (size_t i = 0; i < 60; i++) {
        rig_expect_accepted(rig, i % 2 ? l : m, ids[i]);
    }
    assert_int_equal(fake_log_count(&rig->core), 60);
    size_t next[2] = {0, 1}; /* each in its order */
    for (size_t i = 0; i < 60; i++) {
        uint64_t n = 0;
        assert_true(nv_span_to_u64(fake_log_at(&rig->core, i)->body, &n));
        assert_int_equal(n, next[n % 2]);
        next[n % 2] += 2;
    }
    rig_free(rig);
}

/* ---- links and devices
 * ----------------------------------------------------------------------------------------------- */

static void credit_is_given_back(void **state)
{
    (void)state;
    rig_link *l;
    amqp_rig *rig = with_sender(&l);
    uint32_t credit = l->link->credit;
    assert_int_equal(credit, rig->core.limits.amqp_credit);
    for (uint32_t i = 0; i < 3 * credit; i++) {
        l->outcome_count = 0;
        rig_send(l, rig_data("x"), 0, false);
        if (i % 100 == 99) {
            rig_run(rig);
        }
    }
    rig_run(rig);
    assert_int_equal(fake_log_count(&rig->core), 3 * credit);
    assert_true(l->link->credit >= credit / 2);
    rig_free(rig);
}

static void a_second_link_takes_the_place_of_the_first(void **state)
{
    (void)state;
    rig_link *l;
    amqp_rig *rig = with_sender(&l);
    fake_log_set_batch_records(&rig->core, 2);
    fake_log_set_mode(&rig->core, FAKE_LOG_HOLD);
    rig_send(l, rig_data("one"), 0, false);
    rig_send(l, make_batch(40, SIZE_MAX), NV_AMQP_FORMAT_BATCH, false); /* it stops in its middle */
    rig_run(rig);
    while (fake_log_complete(&rig->core, NV_OK) && fake_log_count(&rig->core) < 6) {
        rig_run(rig);
    }
    rig_link *m = rig_attach_link(rig, &rig->a, &(rig_attach){.address = EVENTS, .sends = true});
    for (size_t i = 0; i < 40 && !m->attached; i++) { /* its ATTACH stands behind the batch */
        (void)fake_log_complete(&rig->core, NV_OK);
        rig_run(rig);
    }
    assert_true(l->detached);
    assert_string_equal(l->condition, "amqp:link:stolen");
    assert_non_null(m->link);
    uint32_t id = rig_send(m, rig_data("two"), 0, false);
    rig_run(rig);
    assert_int_equal(m->outcome_count, 0);
    while (fake_log_complete(&rig->core, NV_OK)) {
        rig_run(rig);
    }
    rig_expect_accepted(rig, m, id);
    assert_int_equal(m->outcome_count, 1);
    assert_span(last_record(rig)->body, "two");
    rig_free(rig);
}

/* conformance: amqp.md 57 */
static void a_lost_connection_keeps_what_it_promised(void **state)
{
    (void)state;
    rig_link *l;
    amqp_rig *rig = with_sender(&l);
    fake_log_set_mode(&rig->core, FAKE_LOG_HOLD);
    rig_send(l, rig_data("one"), 0, false);
    rig_run(rig);
    assert_int_equal(nv_devices_connected(rig->core.hub), 1);
    amqp_end_cut(&rig->a.hub_end);
    rig_run(rig);
    assert_int_equal(nv_devices_connected(rig->core.hub), 1); /* its append is on the way */
    assert_false(rig->a.hub_end.freed);
    assert_true(fake_log_complete(&rig->core, NV_OK));
    rig_run(rig);
    assert_int_equal(nv_devices_connected(rig->core.hub), 0);
    assert_true(rig->a.hub_end.freed);
    assert_int_equal(fake_log_count(&rig->core), 1);
    rig_free(rig);
}

/* conformance: amqp.md 38 */
static void the_newer_connection_wins(void **state)
{
    (void)state;
    rig_link *l;
    amqp_rig *rig = with_sender(&l);
    fake_log_set_mode(&rig->core, FAKE_LOG_HOLD);
    rig_send(l, rig_data("old"), 0, false);
    rig_run(rig);
    rig_open(rig, &rig->b, "d1");
    rig_link *m = rig_attach_link(rig, &rig->b, &(rig_attach){.address = EVENTS, .sends = true});
    assert_true(l->detached);
    assert_string_equal(l->condition, "amqp:link:stolen");
    assert_false(m->attached); /* old messages never land behind new ones */
    assert_true(fake_log_complete(&rig->core, NV_OK));
    rig_run(rig);
    assert_true(m->attached && m->link);
    uint32_t id = rig_send(m, rig_data("new"), 0, false);
    rig_run(rig);
    assert_true(fake_log_complete(&rig->core, NV_OK));
    rig_expect_accepted(rig, m, id);
    assert_int_equal(fake_log_count(&rig->core), 2);
    rig_free(rig);
}

static void a_model_is_announced(void **state)
{
    (void)state;
    nv_stamp stamp;
    amqp_rig *rig = rig_new(&nv_limits_open);
    rig_open(rig, &rig->a, "d1");
    rig_link *l = rig_attach_link(
        rig, &rig->a, &(rig_attach){.address = EVENTS, .sends = true, .model = "dtmi:com:example:Thermostat;1"});
    rig_expect_accepted(rig, l, rig_send(l, rig_data("x"), 0, false));
    assert_string_equal(fake_twin_last_model(), "dtmi:com:example:Thermostat;1");
    assert_int_equal(nv_stamp_decode(last_record(rig)->stamp, &stamp), NV_OK);
    assert_span(stamp.model_id, "dtmi:com:example:Thermostat;1");
    rig_free(rig);
}

static void modules_have_outputs(void **state)
{
    (void)state;
    nv_stamp stamp;
    amqp_rig *rig = rig_new(&nv_limits_open);
    rig_open(rig, &rig->a, "d1/modules/m1");
    rig_link *l = rig_sender(rig, &rig->a, "/devices/d1/modules/m1/messages/events");
    nv_span message = make_message(NV_SPAN_EMPTY, "iothub-outputname", "out", 3);
    rig_expect_accepted(rig, l, rig_send(l, message, 0, false));
    assert_string_equal(properties_of(last_record(rig)), "iothub-outputname=out;");
    assert_int_equal(nv_stamp_decode(last_record(rig)->stamp, &stamp), NV_OK);
    assert_span(stamp.module_id, "m1");
    /* an input stands, and is silent */
    rig_link *input = rig_receiver(rig, &rig->a, "/devices/d1/modules/m1/messages/events", 10);
    rig_link *bound = rig_receiver(rig, &rig->a, "/devices/d1/modules/m1/messages/devicebound", 10);
    rig_run(rig);
    assert_true(input->link && bound->link);
    assert_int_equal(input->message_count + bound->message_count, 0);
    nv_amqp_link_detach(input->link, NV_AMQP_ERR_NONE, NULL);
    nv_amqp_link_detach(bound->link, NV_AMQP_ERR_NONE, NULL);
    rig_expect_accepted(rig, l, rig_send(l, message, 0, false));
    rig_free(rig);
}

static void feedback_of_a_device_means_nothing(void **state)
{
    (void)state;
    amqp_rig *rig = rig_new(&nv_limits_open);
    rig_open(rig, &rig->a, "d1");
    rig_link *l = rig_sender(rig, &rig->a, "/messages/serviceBound/feedback");
    rig_expect_accepted(rig, l, rig_send(l, rig_data("x"), 0, false));
    assert_int_equal(fake_log_count(&rig->core), 0);
    rig_free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(begins_and_stores),
        cmocka_unit_test(ids_of_all_types_are_stored_as_text),
        cmocka_unit_test(each_head_counts),
        cmocka_unit_test(a_known_head_is_no_parser),
        cmocka_unit_test(bad_messages_are_rejected_and_the_link_stays),
        cmocka_unit_test(a_batch_is_n_events_and_one_outcome),
        cmocka_unit_test(a_batch_with_a_bad_message_is_rejected_whole),
        cmocka_unit_test(a_batch_waits_for_the_log),
        cmocka_unit_test(settled_by_their_sender_nobody_answers),
        cmocka_unit_test(rejected_ones_do_not_shift_the_others),
        cmocka_unit_test(what_is_not_stored_is_rejected),
        cmocka_unit_test(claims_that_are_not_stored),
        cmocka_unit_test(senders_wait_for_the_log),
        cmocka_unit_test(credit_is_given_back),
        cmocka_unit_test(a_second_link_takes_the_place_of_the_first),
        cmocka_unit_test(a_lost_connection_keeps_what_it_promised),
        cmocka_unit_test(the_newer_connection_wins),
        cmocka_unit_test(a_model_is_announced),
        cmocka_unit_test(modules_have_outputs),
        cmocka_unit_test(feedback_of_a_device_means_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
