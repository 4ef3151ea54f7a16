/*
 * Readers: a link for each partition of the log (or one for a queue). From the beginning: when the last event is
 * reached that was there at the attachment, the link is attached again, so a log of any size measures for as long as
 * asked.
 */
#include "base/alloc.h"
#include "nave/bench/amqp.h"

#include <stdlib.h>

#define FILTER_NAME  "apache.org:selector-filter:string"
#define CAPABILITY   "com.microsoft:enable-receiver-runtime-metric" /* tells where the end is */
#define SOURCE_BYTES 1024u

static bool on_delivery(nv_amqp_link *link, const nv_amqp_delivery *delivery);
static void on_attached(nv_amqp_link *link, const nv_amqp_attach *attach);
static void on_detached(nv_amqp_link *link, const nv_amqp_problem *problem);

static const nv_amqp_link_ops reader_ops = {.attached = on_attached, .delivery = on_delivery, .detached = on_detached};

static void address_of(const nv_amqp_reader_link *r, char *out, size_t size)
{
    const nv_bench_amqp_options *o = r->readers->fleet->o;
    const char *host = r->readers->fleet->credentials.host;
    if (o->queue) {
        (void)snprintf(out, size, "%s", o->queue);
    } else if (o->entity) {
        (void)snprintf(out, size, "%s/ConsumerGroups/%s/Partitions/%u", o->entity, o->group, r->partition);
    } else {
        (void)snprintf(out, size, "%.*s/ConsumerGroups/%s/Partitions/%u", (int)strcspn(host, "."), host, o->group,
                       r->partition);
    }
}

/* The source with its filter, encoded. */
static nv_span source_of(const nv_amqp_reader_link *r, uint8_t *out)
{
    char address[400];
    uint8_t text[512];
    uint8_t filter[256];
    nv_amqp_source source = {0};
    nv_writer w = nv_writer_of(text, sizeof(text));
    address_of(r, address, sizeof(address));
    nv_amqp_put_string_of(&w, address);
    source.address = nv_writer_span(&w);
    nv_writer f = nv_writer_of(filter, sizeof(filter));
    if (!r->readers->fleet->o->queue) {
        size_t mark = nv_amqp_begin_map(&f);
        nv_amqp_put_symbol_of(&f, FILTER_NAME);
        nv_write_u8(&f, 0); /* described by the same symbol */
        nv_amqp_put_symbol_of(&f, FILTER_NAME);
        nv_amqp_put_string_of(&f, r->readers->again ? "amqp.annotation.x-opt-offset > '-1'"
                                                    : "amqp.annotation.x-opt-offset > '@latest'");
        nv_amqp_end_map(&f, mark, 2);
        source.filter = nv_writer_span(&f);
    }
    nv_writer s = nv_writer_of(out, SOURCE_BYTES);
    nv_amqp_encode_source(&s, &source);
    return nv_writer_span(&s);
}

static void attach(nv_amqp_reader_link *r)
{
    char name[64];
    uint8_t source[SOURCE_BYTES];
    uint8_t metrics[64];
    nv_writer w = nv_writer_of(metrics, sizeof(metrics));
    nv_amqp_put_symbol_of(&w, CAPABILITY);
    (void)snprintf(name, sizeof(name), "reader-%u-%u-%u", r->peer->index, r->partition, (unsigned)r->readers->rounds);
    r->known = false;
    nv_amqp_attach_options options = {.name = name,
                                      .source = source_of(r, source),
                                      .desired_capabilities = nv_writer_span(&w),
                                      .ops = &reader_ops,
                                      .owner = r,
                                      .credit = (uint32_t)r->readers->fleet->o->credit};
    r->link = nv_amqp_peer_attach(r->peer, &options);
}

static void on_attached(nv_amqp_link *link, const nv_amqp_attach *attach_frame)
{
    nv_amqp_reader_link *r = link->owner;
    (void)attach_frame;
    if (!r->was_open) {
        r->was_open = true;
        r->readers->fleet->links_ready++;
    }
}

static void on_detached(nv_amqp_link *link, const nv_amqp_problem *problem)
{
    nv_amqp_reader_link *r = link->owner;
    r->link = NULL;
    nv_amqp_peer_lost_link(r->peer, problem);
}

static bool number(const nv_amqp_value *map, const char *key, int64_t *out)
{
    nv_amqp_value value;
    return nv_amqp_map_find(map, key, &value) && nv_amqp_to_i64(&value, out);
}

/* The first event of an attachment tells where the end is. @return false: it does not */
static bool learn(nv_amqp_reader_link *r, nv_span bytes)
{
    nv_amqp_message message;
    r->known = nv_amqp_message_read(bytes, &message) == NV_OK &&
               number(&message.message_annotations, "x-opt-sequence-number", &r->next) &&
               number(&message.delivery_annotations, "last_enqueued_sequence_number", &r->last);
    return r->known;
}

static bool on_delivery(nv_amqp_link *link, const nv_amqp_delivery *delivery)
{
    nv_amqp_reader_link *r = link->owner;
    nv_amqp_readers *readers = r->readers;
    readers->messages++;
    readers->bytes += delivery->bytes.len;
    if (!delivery->settled) {
        nv_amqp_link_accept_delivery(link, delivery->id);
    }
    if (readers->message) {
        readers->message(readers, delivery->bytes);
    }
    if (!readers->again || readers->fleet->o->queue) {
        return true;
    }
    if (!r->known && !learn(r, delivery->bytes)) {
        nv_amqp_fleet_fail(readers->fleet, r->peer, NV_AMQP_FLEET_CONTENT, "an event without its numbers");
        return true;
    }
    if (r->next++ >= r->last) {
        readers->rounds++;
        nv_amqp_link_detach(link, NV_AMQP_ERR_NONE, NULL);
        r->peer->session_links--;
        attach(r);
    }
    return true;
}

void nv_amqp_readers_attach(nv_amqp_readers *readers, nv_amqp_peer *peer)
{
    uint32_t each = readers->fleet->o->queue ? 1 : (uint32_t)readers->fleet->o->partitions;
    for (uint32_t i = 0; i < each; i++) {
        nv_amqp_reader_link *r = &readers->links[peer->index * each + i];
        r->peer = peer;
        attach(r);
    }
}

void nv_amqp_readers_init(nv_amqp_readers *readers, nv_amqp_fleet *fleet, uint32_t reader_peers, bool again)
{
    uint32_t each = fleet->o->queue ? 1 : (uint32_t)fleet->o->partitions;
    *readers = (nv_amqp_readers){.fleet = fleet, .again = again, .count = reader_peers * each};
    readers->links = nv_calloc(readers->count, sizeof(*readers->links));
    for (uint32_t i = 0; i < readers->count; i++) {
        readers->links[i].readers = readers;
        readers->links[i].partition = i % each;
    }
    fleet->links_wanted += readers->count;
}

void nv_amqp_readers_deinit(nv_amqp_readers *readers)
{
    free(readers->links);
}
