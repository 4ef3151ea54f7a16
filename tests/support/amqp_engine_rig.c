#include "support/amqp_engine_rig.h"

#include "support/amqp_script.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static engine_pair the_pair;
engine_pair *const p = &the_pair;

void open_pair(const nv_amqp_config *server, const nv_amqp_config *client)
{
    nv_manual_clock_init(&p->clock, 0);
    amqp_owner_server(&p->server, &p->clock.clock, server);
    amqp_owner_client(&p->client, &p->clock.clock, client);
}

void run(void)
{
    amqp_pair_run(&p->client.end, &p->server.end);
}

void close_pair(void)
{
    amqp_owner_deinit(&p->client);
    amqp_owner_deinit(&p->server);
}

void open_links(void)
{
    open_pair(NULL, NULL);
    run();
    assert_true(p->client.opened && p->server.opened);
    assert_non_null(amqp_owner_attach(&p->client, "events", true, 0));
    assert_non_null(amqp_owner_attach(&p->client, "devicebound", false, 10));
    run();
    assert_int_equal(p->server.link_count, 2);
}

void advance(int64_t us)
{
    nv_manual_clock_advance(&p->clock, us);
    run();
}

/* What stands in the output of an end, as text; it is consumed. */
static char *said(amqp_owner *owner)
{
    static nv_buf text;
    nv_buf_init(&text, 1u << 20);
    amqp_script_say(nv_buf_span(&owner->end.out), &text);
    nv_ignore(nv_buf_append(&text, nv_span_of("", 1)));
    nv_buf_clear(&owner->end.out);
    return (char *)text.data; /* the caller frees it */
}

void expect_said(amqp_owner *owner, const char *expected)
{
    char *text = said(owner);
    assert_string_equal(text, expected);
    free(text);
}

void client_sends(uint32_t count, size_t size)
{
    p->client.to_send += count;
    p->client.send_size = size;
    amqp_owner_send(&p->client, p->client.links[0]);
}

const nv_amqp_config *small_frames(bool client)
{
    static nv_amqp_config configs[2];
    configs[client] = client ? amqp_client_config : amqp_server_config;
    configs[client].max_frame_size = 512;
    return &configs[client];
}
