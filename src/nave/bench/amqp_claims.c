/* Tokens for the devices of one connection, put on $cbs (amqp.md section 2). */
#include "nave/bench/amqp_fleet.h"

#include <inttypes.h>

#define REQUEST_BYTES 4096u

static nv_span request(const nv_bench_credentials *known, uint32_t device, uint8_t *out)
{
    char name[512];
    nv_writer w = nv_writer_of(out, REQUEST_BYTES);
    nv_amqp_properties properties = {0};
    uint8_t id[16];
    nv_writer idw = nv_writer_of(id, sizeof(id));
    nv_amqp_put_ulong(&idw, device);
    properties.message_id = nv_writer_span(&idw);
    nv_amqp_put_properties_section(&w, &properties);
    size_t mark = nv_amqp_begin_map_section(&w, NV_AMQP_APPLICATION_PROPERTIES);
    (void)snprintf(name, sizeof(name), "%s/devices/%s", known->host, known->ids[device]);
    nv_amqp_put_string_of(&w, "operation");
    nv_amqp_put_string_of(&w, "put-token");
    nv_amqp_put_string_of(&w, "type");
    nv_amqp_put_string_of(&w, "servicebus.windows.net:sastoken");
    nv_amqp_put_string_of(&w, "name");
    nv_amqp_put_string_of(&w, name);
    nv_amqp_end_map(&w, mark, 6);
    nv_amqp_put_value_head(&w);
    nv_amqp_put_string_of(&w, known->tokens[device]);
    return nv_writer_span(&w);
}

static void put_tokens(nv_amqp_link *link)
{
    nv_amqp_peer *peer = link->owner;
    uint32_t count = nv_amqp_peer_devices(peer);
    while (peer->claims_sent < count && nv_amqp_link_room(link)) {
        uint8_t bytes[REQUEST_BYTES];
        nv_amqp_send send = {
            .body = request(&peer->fleet->credentials, nv_amqp_peer_device(peer, peer->claims_sent), bytes)};
        uint32_t id;
        if (nv_amqp_link_send(link, &send, &id) != NV_OK) {
            return; /* room() comes again */
        }
        peer->claims_sent++;
    }
}

static bool on_reply(nv_amqp_link *link, const nv_amqp_delivery *delivery)
{
    nv_amqp_peer *peer = link->owner;
    nv_amqp_message message;
    nv_amqp_value value;
    int64_t status = 0;
    if (nv_amqp_message_read(delivery->bytes, &message) == NV_OK &&
        nv_amqp_map_find(&message.application_properties, "status-code", &value)) {
        (void)nv_amqp_to_i64(&value, &status);
    }
    nv_amqp_link_accept_delivery(link, delivery->id);
    if (status < 200 || status > 299) {
        char words[64];
        (void)snprintf(words, sizeof(words), "a token was answered with %" PRId64, status);
        nv_amqp_fleet_fail(peer->fleet, peer, NV_AMQP_FLEET_TOKEN, words);
        return true;
    }
    if (++peer->claims_done == nv_amqp_peer_devices(peer)) {
        nv_amqp_peer_ready(peer);
    }
    return true;
}

static void on_detached(nv_amqp_link *link, const nv_amqp_problem *problem)
{
    nv_amqp_peer *peer = link->owner;
    if (peer->state == NV_AMQP_PEER_CLAIMS) {
        nv_amqp_fleet_fail_problem(peer->fleet, peer, NV_AMQP_FLEET_TOKEN, problem);
    }
}

void nv_amqp_claims_begin(nv_amqp_peer *peer)
{
    static const nv_amqp_link_ops sender_ops = {.room = put_tokens, .detached = on_detached};
    static const nv_amqp_link_ops receiver_ops = {.delivery = on_reply, .detached = on_detached};
    nv_amqp_attach_options options = {
        .name = "cbs-replies", .address = "$cbs", .ops = &receiver_ops, .owner = peer, .credit = 1000};
    (void)nv_amqp_peer_attach(peer, &options);
    options =
        (nv_amqp_attach_options){.name = "cbs", .sender = true, .address = "$cbs", .ops = &sender_ops, .owner = peer};
    peer->claim_sender = nv_amqp_peer_attach(peer, &options);
}
