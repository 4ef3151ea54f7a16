/*
 * One end of an AMQP connection: any bytes in any pieces, with time, and with an owner that answers late, settles,
 * sends, detaches and closes in between. The first byte chooses the end, what goes first and the owner's habits.
 *
 *   step: 0x00-0xBF  feed the next (step & 63) + 1 bytes of the input; 0x40 and above: twice as many, 0x80: 4 times
 *         0xC0-0xFF  something of the table in act()
 *
 * Whatever happened, at the end the owner was told once that the connection ended, and everything is freed.
 */
#include "support/amqp_pair.h"
#include "support/amqp_script.h"

#include <assert.h>
#include <stdlib.h>

enum {
    CLIENT = 1,       /* it is the client half */
    LATE = 2,         /* attaches and SASL are answered by steps */
    KEEP = 4,         /* deliveries are settled by steps */
    SMALL_FRAMES = 8, /* 512 bytes, and a budget of 2,000 */
    OPENED = 16,      /* header, OPEN, BEGIN and two ATTACHes go first */
    RAW = 32,         /* client: no SASL */
    STINGY = 64,      /* little credit, small messages, a low output mark, few links and sessions */
    REFUSE = 128
};

typedef struct fuzz {
    nv_manual_clock clock;
    amqp_owner owner;
    uint8_t habits;
    const uint8_t *at;
    const uint8_t *end;
} fuzz;

static void output(fuzz *f, size_t most)
{
    amqp_end *end = &f->owner.end;
    size_t len = nv_buf_len(&end->out);
    nv_buf_consume(&end->out, len < most ? len : most);
    if (len > 0) {
        end->unread = SIZE_MAX;
    }
    amqp_end_serve(end);
}

static nv_amqp_link *some_link(fuzz *f, uint8_t number)
{
    return f->owner.links[number % AMQP_OWNER_LINKS];
}

static void detach(fuzz *f, uint8_t number)
{
    nv_amqp_link **slot = &f->owner.links[number % AMQP_OWNER_LINKS];
    if (*slot) {
        nv_amqp_link *link = *slot;
        *slot = NULL;
        nv_amqp_link_detach(link, number & 32 ? NV_AMQP_ERR_STOLEN : NV_AMQP_ERR_NONE, "as told");
    }
}

static void answer(fuzz *f, bool yes)
{
    nv_amqp_link *link = f->owner.waiting;
    f->owner.waiting = NULL;
    if (!link) {
        return;
    }
    if (!yes) {
        nv_amqp_link_refuse(link, NV_AMQP_ERR_UNAUTHORIZED_ACCESS, "as told", NV_SPAN_EMPTY);
        return;
    }
    for (size_t i = 0; i < AMQP_OWNER_LINKS; i++) {
        if (!f->owner.links[i]) {
            f->owner.links[i] = link;
            break;
        }
    }
    nv_amqp_link_accept(link, &(nv_amqp_accept){.ops = &amqp_owner_link_ops, .owner = &f->owner, .credit = 3});
}

static void settle(fuzz *f, uint8_t number, bool oldest)
{
    nv_amqp_link *link = some_link(f, number);
    nv_amqp_outcome outcome = {.kind = (nv_amqp_outcome_kind)(number % (NV_AMQP_OUT_MODIFIED + 1)),
                               .problem = {.condition = NV_AMQP_ERR_QUOTA_EXCEEDED}};
    if (!link) {
        return;
    }
    if (oldest) {
        nv_amqp_link_settle_oldest(link, number / 16 + 1u, &outcome);
    } else {
        nv_amqp_link_settle(link, f->owner.ids[number], &outcome);
    }
}

static void send(fuzz *f, uint8_t number, size_t size)
{
    nv_amqp_link *link = some_link(f, number);
    f->owner.to_send = number % 8;
    f->owner.send_size = size;
    f->owner.send_settled = number & 16;
    if (link && link->sender) {
        amqp_owner_send(&f->owner, link);
    }
}

static void attach(fuzz *f, uint8_t number)
{
    char name[] = {'a', (char)('a' + number % 4), '\0'};
    if (f->owner.session && f->owner.links[0] && f->owner.links[0]->session == f->owner.session &&
        f->owner.link_count < AMQP_OWNER_LINKS) {
        (void)amqp_owner_attach(&f->owner, name, number & 4, number % 16);
    }
}

static void act(fuzz *f, uint8_t what, uint8_t number)
{
    nv_amqp_conn *conn = &f->owner.conn;
    nv_amqp_link *link = some_link(f, number);
    if (f->owner.end.freed) {
        return;
    }
    switch (what & 15) {
    case 0:
        settle(f, number, true);
        break;
    case 1:
        settle(f, number, false);
        break;
    case 2:
        send(f, number, number);
        break;
    case 3:
        send(f, number, (size_t)number * 40);
        break;
    case 4:
        detach(f, number);
        break;
    case 5:
        if (link && number & 1) {
            nv_amqp_session_end(link->session, NV_AMQP_ERR_INTERNAL_ERROR, "as told");
        }
        break;
    case 6:
        answer(f, true);
        break;
    case 7:
        answer(f, number & 1);
        break;
    case 8:
        f->owner.not_now = number % 4;
        nv_amqp_conn_resume(conn);
        break;
    case 9:
        nv_manual_clock_advance(&f->clock, number * NV_US_PER_S);
        break;
    case 10:
        nv_amqp_conn_set_deadline(conn, nv_mono_us(&f->clock.clock) + number);
        break;
    case 11:
        output(f, number);
        break;
    case 12:
        nv_amqp_sasl_done(conn, number == 7);
        nv_amqp_conn_authenticated(conn);
        break;
    case 13:
        if (number == 13) {
            nv_amqp_conn_close(conn, NV_AMQP_ERR_CONNECTION_FORCED, "as told");
        } else if (number == 14) {
            nv_amqp_conn_abort(conn);
        }
        break;
    case 14:
        if (link) {
            nv_amqp_link_set_credit(link, number);
        }
        break;
    default:
        f->owner.stay_undrained = number & 1;
        attach(f, number);
        break;
    }
}

static void feed(fuzz *f, size_t len)
{
    size_t left = (size_t)(f->end - f->at);
    len = len < left ? len : left;
    /* an exact copy, so that a sanitizer sees one byte too far */
    f->owner.end.piece = len > 0 ? len : 1;
    if (!f->owner.end.freed && nv_buf_len(&f->owner.end.in) < 1u << 20) {
        amqp_end_give(&f->owner.end, nv_span_of(f->at, len));
    }
    f->at += len;
}

static void give(fuzz *f, const char *lines)
{
    nv_buf bytes;
    nv_buf_init(&bytes, 1u << 20);
    amqp_script_put(&bytes, lines);
    amqp_end_give(&f->owner.end, nv_buf_span(&bytes));
    nv_buf_deinit(&bytes);
    output(f, SIZE_MAX);
}

static void begin(fuzz *f)
{
    bool client = f->habits & CLIENT;
    nv_amqp_config config = client ? amqp_client_config : amqp_server_config;
    config.sessions = 4;
    config.links = 24;
    if (f->habits & SMALL_FRAMES) {
        config.max_frame_size = 512;
        config.max_unsettled_bytes = 2000;
    }
    if (f->habits & STINGY) {
        config.output_mark = 600;
        config.links = 3;
        config.sessions = 2;
        config.unauthenticated_frame = 1024;
        config.idle_time_out_ms = 60000;
    }
    if (client && f->habits & RAW) {
        config.sasl_mechanisms = NULL;
    }
    (client ? amqp_owner_client : amqp_owner_server)(&f->owner, &f->clock.clock, &config);
    f->owner.quiet = true;
    f->owner.attach_later = f->owner.sasl_later = f->habits & LATE;
    f->owner.keep = f->owner.keep_outcomes = f->habits & KEEP;
    f->owner.credit = f->habits & STINGY ? 2 : 100;
    f->owner.max_message = f->habits & STINGY ? 3000 : 0;
    nv_buf_set_max(&f->owner.end.out, 1u << 20);
}

static void open_up(fuzz *f)
{
    if (!(f->habits & OPENED)) {
        return;
    }
    if (!(f->habits & CLIENT)) {
        give(f,
             "header amqp\nopen container=c max-frame=512\nbegin\n"
             "attach name=in handle=0 sender source=/s target=/t\nattach name=out handle=1 source=/s target=/t rcv=1\n"
             "flow next-in=0 handle=1 count=0 credit=9\n");
        return;
    }
    if (!(f->habits & RAW)) {
        give(f, "header sasl\nhex 0000001802010000005340c00b01e00801a305504c41494e\n");
    }
    give(f, "header amqp\nopen container=s max-frame=512\n");
    if (f->owner.opened) {
        (void)amqp_owner_attach(&f->owner, "out", true, 0);
        (void)amqp_owner_attach(&f->owner, "in", false, 5);
        give(f, "begin remote=0\nattach name=out handle=0 source=/s target=/t\n"
                "attach name=in handle=1 sender source=/s target=/t\nflow next-in=0 handle=0 count=0 credit=9\n");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static fuzz f_;
    fuzz *f = &f_;
    if (size < 2 || size > 1u << 16) {
        return 0;
    }
    f->habits = data[0];
    f->at = data + 1;
    f->end = data + size;
    nv_manual_clock_init(&f->clock, 0);
    begin(f);
    open_up(f);
    f->owner.refuse = f->habits & REFUSE ? NV_AMQP_ERR_NOT_FOUND : NV_AMQP_ERR_NONE;
    while (f->at < f->end) {
        uint8_t step = *f->at++;
        if (step < 0xc0) {
            feed(f, ((step & 63) + 1u) << (step >> 6));
        } else {
            uint8_t number = f->at < f->end ? *f->at++ : 0;
            act(f, step, number);
            amqp_end_serve(&f->owner.end);
        }
    }
    output(f, SIZE_MAX);
    assert(f->owner.conn._p || f->owner.end.freed);
    amqp_owner_deinit(&f->owner);
    return 0;
}
