/** Messages a second through the AMQP engine alone: no socket, no TLS, no store. Usage: amqp_speed [messages [bytes]]
 */
#include "support/amqp_pair.h"

#include "base/alloc.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define CHUNK (64u * 1024u)

static amqp_owner server;
static amqp_owner client;
static uint64_t received;
static uint64_t pending;
static bool settle_each;

static bool on_delivery(nv_amqp_link *link, const nv_amqp_delivery *delivery)
{
    received++;
    if (settle_each) {
        nv_amqp_link_accept_delivery(link, delivery->id);
    } else {
        pending++;
    }
    return true;
}

static const nv_amqp_link_ops ops = {.delivery = on_delivery};

static double seconds_since(int64_t start_us)
{
    return (double)(nv_mono_us(nv_clock_system()) - start_us) / (double)NV_US_PER_S;
}

static nv_amqp_link *begin(bool sender)
{
    amqp_owner_server(&server, nv_clock_system(), NULL);
    amqp_owner_client(&client, nv_clock_system(), NULL);
    server.credit = 2048;
    server.quiet = client.quiet = true;
    amqp_pair_run(&client.end, &server.end);
    nv_amqp_link *link = amqp_owner_attach(&client, "bench", sender, 1u << 30);
    amqp_pair_run(&client.end, &server.end);
    return link;
}

static void end(void)
{
    amqp_owner_deinit(&client);
    amqp_owner_deinit(&server);
}

/* The client's side is not timed: its frames are made in advance, as many as the server's credit allows. */
static void measure_receive(uint64_t count, size_t size, bool each)
{
    nv_amqp_link *out = begin(true);
    server.links[0]->ops = &ops;
    settle_each = each;
    received = pending = 0;
    double spent = 0;
    uint64_t answers = 0;
    while (received < count) {
        client.to_send = 1u << 30;
        client.send_size = size;
        client.conn.config.output_mark = CHUNK;
        amqp_owner_send(&client, out);
        nv_buf_append(&server.end.in, nv_buf_span(&client.end.out)) == NV_OK ? (void)0 : abort();
        nv_buf_clear(&client.end.out);
        int64_t start_us = nv_mono_us(nv_clock_system());
        amqp_end_serve(&server.end);
        if (pending > 0) {
            nv_amqp_link_settle_oldest(server.links[0], (uint32_t)pending,
                                       &(nv_amqp_outcome){.kind = NV_AMQP_OUT_ACCEPTED});
            pending = 0;
        }
        spent += seconds_since(start_us);
        answers += nv_buf_len(&server.end.out);
        amqp_end_give(&client.end, nv_buf_span(&server.end.out));
        nv_buf_clear(&server.end.out);
        client.end.unread = SIZE_MAX;
    }
    printf("received and settled %s: %.2f M/s, %.2f bytes of answer each\n", each ? "one by one" : "per read",
           (double)received / spent / 1e6, (double)answers / (double)received);
    end();
}

static void measure_send(uint64_t count, size_t size, bool settled)
{
    (void)begin(false);
    nv_amqp_link *link = server.links[0];
    uint8_t *body = nv_calloc(1, size + 1);
    uint64_t sent = 0;
    double spent = 0;
    while (sent < count) {
        int64_t start_us = nv_mono_us(nv_clock_system());
        uint32_t id;
        while (nv_amqp_link_room(link)) {
            nv_err err = nv_amqp_link_send(link,
                                           &(nv_amqp_send){.settled = settled,
                                                           .head = nv_span_of(body, size / 2),
                                                           .body = nv_span_of(body + size / 2, size - size / 2)},
                                           &id);
            sent += err == NV_OK;
        }
        spent += seconds_since(start_us);
        amqp_end_give(&client.end, nv_buf_span(&server.end.out));
        nv_buf_clear(&server.end.out);
        amqp_end_give(&server.end, nv_buf_span(&client.end.out));
        nv_buf_clear(&client.end.out);
    }
    printf("sent %s: %.2f M/s\n", settled ? "settled" : "unsettled", (double)sent / spent / 1e6);
    free(body);
    end();
}

int main(int argc, char **argv)
{
    uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 10) : 100000;
    size_t size = argc > 2 ? strtoull(argv[2], NULL, 10) : 256;
    measure_receive(count, size, false);
    measure_receive(count, size, true);
    measure_send(count, size, false);
    measure_send(count, size, true);
    return 0;
}
