#include "base/diag.h"

#include "base/clock.h"
#include "base/cursor.h"
#include "base/diag_out.h"
#include "base/metrics.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

static struct {
    _Atomic int least;
    _Atomic bool json;
    _Atomic uint64_t dropped; /* lines, not said yet */
    nv_diag_sink sink;
    void *sink_arg;
    const nv_clock *clock; /* NULL: the system's */
} diag = {.least = NV_LEVEL_INFO};

static const char *const level_names[] = {"debug", "info", "warn", "error"};

void nv_diag_setup(nv_level least, bool json, int fd)
{
    atomic_store(&diag.least, (int)least);
    atomic_store(&diag.json, json);
    nv_diag_out_open(fd);
}

void nv_diag_set_clock(const nv_clock *clock)
{
    diag.clock = clock;
}

bool nv_diag_on(nv_level level)
{
    return (int)level >= atomic_load_explicit(&diag.least, memory_order_relaxed);
}

void nv_diag_set_sink(nv_diag_sink sink, void *arg)
{
    diag.sink = sink;
    diag.sink_arg = arg;
}

/* @return the length of the UTF-8 character of two bytes or more that text begins with; 0: there is none */
static size_t utf8_len(nv_span text)
{
    uint8_t first = text.ptr[0];
    size_t len = first >= 0xc2 && first < 0xe0 ? 2 : first >= 0xe0 && first < 0xf0 ? 3 : 4;
    if (first < 0xc2 || first > 0xf4 || text.len < len) {
        return 0;
    }
    for (size_t i = 1; i < len; i++) {
        if ((text.ptr[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    uint8_t second = text.ptr[1];
    bool overlong = (first == 0xe0 && second < 0xa0) || (first == 0xf0 && second < 0x90);
    bool beyond = (first == 0xed && second > 0x9f) || (first == 0xf4 && second > 0x8f); /* surrogates, 110000 on */
    return overlong || beyond ? 0 : len;
}

static void write_escape(nv_writer *w, uint8_t code)
{
    static const char hex[] = "0123456789abcdef";
    uint8_t escape[] = {'\\', 'u', '0', '0', (uint8_t)hex[code >> 4], (uint8_t)hex[code & 15]};
    nv_write_span(w, nv_span_of(escape, sizeof(escape)));
}

/* Escape as JSON does; text lines use the same escapes, so that no peer can forge a line or steer a terminal. Bytes
 * that are no UTF-8 (a peer's, or a character cut in two) become U+FFFD: a line is always one JSON object. */
static void write_escaped(nv_writer *w, nv_span text, bool json)
{
    while (text.len > 0) {
        uint8_t c = text.ptr[0];
        size_t len = c < 0x80 ? 1 : utf8_len(text);
        if (c < 0x20 || c == 0x7f || (json && (c == '"' || c == '\\'))) {
            write_escape(w, c);
        } else if (c == 0xc2 && len == 2 && text.ptr[1] < 0xa0) { /* C1 controls */
            write_escape(w, text.ptr[1]);
        } else if (len == 0) {
            nv_write_span(w, nv_span_str("\\ufffd"));
        } else {
            nv_write_span(w, nv_span_first(text, len));
        }
        text = nv_span_skip(text, len ? len : 1);
    }
}

static void write_str(nv_writer *w, const char *text)
{
    nv_write_span(w, nv_span_str(text));
}

static void write_field(nv_writer *w, bool json, const char *name, nv_span value)
{
    if (value.len == 0) {
        return;
    }
    write_str(w, json ? ",\"" : " ");
    write_str(w, name);
    write_str(w, json ? "\":\"" : "=");
    write_escaped(w, value, json);
    write_str(w, json ? "\"" : "");
}

static void write_subject(nv_writer *w, bool json, const nv_subject *subject)
{
    if (!subject) {
        return;
    }
    if (subject->connection) {
        char id[24];
        int len = snprintf(id, sizeof(id), "%llu", (unsigned long long)subject->connection);
        write_field(w, json, "conn", nv_span_of(id, (size_t)len));
    }
    write_field(w, json, "device", subject->device);
    write_field(w, json, "module", subject->module);
    write_field(w, json, "peer", subject->peer);
}

#define MESSAGE_MAX 1024u
/* Every character of the message and the ids escaped, and all of it fits. */
#define LINE_MAX_BYTES 8704u

/* @return its length */
static size_t write_line(uint8_t line[LINE_MAX_BYTES], nv_level level, const char *area, const nv_subject *subject,
                         nv_span message)
{
    char time[NV_TIME_TEXT_SIZE];
    nv_time_format(nv_wall_us(diag.clock ? diag.clock : nv_clock_system()), time);
    bool json = atomic_load(&diag.json);
    nv_writer w = nv_writer_of(line, LINE_MAX_BYTES - 2);
    write_str(&w, json ? "{\"time\":\"" : "");
    write_str(&w, time);
    write_str(&w, json ? "\",\"level\":\"" : " ");
    write_str(&w, level_names[level]);
    write_str(&w, json ? "\",\"area\":\"" : " ");
    write_str(&w, area);
    write_str(&w, json ? "\",\"message\":\"" : ": ");
    write_escaped(&w, message, json);
    write_str(&w, json ? "\"" : "");
    write_subject(&w, json, subject);
    size_t n = nv_writer_len(&w);
    if (json) {
        line[n++] = '}';
    }
    line[n++] = '\n';
    return n;
}

static void note_dropped(uint64_t count)
{
    atomic_fetch_add(&diag.dropped, count);
}

/* There may be room again: how many lines are missing here. */
static void say_dropped(void)
{
    uint64_t count = atomic_exchange(&diag.dropped, 0);
    if (count == 0) {
        return;
    }
    char text[MESSAGE_MAX];
    uint8_t line[LINE_MAX_BYTES];
    int len = snprintf(text, sizeof(text), "%llu line%s of this log were dropped here: whoever reads it was too slow",
                       (unsigned long long)count, count == 1 ? "" : "s");
    size_t n = write_line(line, NV_LEVEL_WARN, "diag", NULL, nv_span_of(text, (size_t)len));
    if (!nv_diag_out_write(nv_span_of(line, n))) {
        note_dropped(count);
    }
}

void nv_diag(nv_level level, const char *area, const nv_subject *subject, const char *fmt, ...)
{
    if (!nv_diag_on(level)) {
        return;
    }
    char message[MESSAGE_MAX];
    va_list args;
    va_start(args, fmt);
    int len = vsnprintf(message, sizeof(message), fmt, args);
    va_end(args);
    size_t message_len = len < 0 ? 0 : (size_t)len;
    if (message_len >= sizeof(message)) {
        message_len = sizeof(message) - 1;
    }
    uint8_t line[LINE_MAX_BYTES];
    size_t n = write_line(line, level, area, subject, nv_span_of(message, message_len));
    if (diag.sink) {
        diag.sink(diag.sink_arg, level, (const char *)line, n);
        return;
    }
    say_dropped();
    if (!nv_diag_out_write(
            nv_span_of(line, n))) { /* a full or closed log, or one nobody reads, must not stop the hub */
        nv_metric_add(NV_M_DIAG_DROPPED, 1);
        note_dropped(1);
    }
}
