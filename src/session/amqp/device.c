/*
 * A device or module on an AMQP connection.
 *
 *   first ATTACH --> CHECKING --authentic--> CLAIMING --granted--> HELD --last link gone, evicted, expired--+
 *                       |                       |                                                          v
 *                       +------- refused -------+-----------------------------------------------------> ENDING
 *                                                              appends confirmed, operations back         |
 *                                                                            freed <-- RELEASING <--------+
 *
 * ATTACHes wait until HELD. A device that is ENDING takes no link any more: a new one makes a new device on the same
 * connection, whose claim is granted once the old one's is given back.
 */
#include "base/alloc.h"
#include "base/metrics.h"
#include "session/amqp/server_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum { DEVICE_CHECKING, DEVICE_CLAIMING, DEVICE_HELD, DEVICE_ENDING, DEVICE_RELEASING };

#define SAYS_UNAUTHORIZED "ErrorCode:IotHubUnauthorizedAccess;Unauthorized"
#define SAYS_EXPIRED      "ErrorCode:IotHubUnauthorizedAccess;the token has expired"
#define SAYS_NO_LOOKUP    "ErrorCode:ServiceUnavailable;the hub cannot look the identity up now, try again"

/* An ATTACH that waits; the owner of its link meanwhile. */
typedef struct waiting {
    nv_list node; /* amqp_device.waiting */
    amqp_device *device;
    nv_amqp_link *link;
} waiting;

/* The request to core/auth.h; outlives the device's interest in it. */
typedef struct amqp_device_check {
    nv_auth_request auth;
    amqp_device *device;
    size_t len;
    uint8_t token[]; /* wiped */
} amqp_device_check;

static bool is_live(const amqp_device *d)
{
    return d->_state < DEVICE_ENDING;
}

/* The only writer of _state. */
static void set_state(amqp_device *d, uint8_t state)
{
    assert(state > d->_state);
    amqp_server *s = d->server;
    if (is_live(d) && state >= DEVICE_ENDING) {
        (void)nv_map_remove(&s->by_key, nv_span_of(d->_key, d->_key_len));
        s->device_count--;
    }
    if (d->_state == DEVICE_HELD) {
        nv_metric_add(NV_M_AMQP_DEVICES, -1);
    }
    if (state == DEVICE_HELD) {
        nv_metric_add(NV_M_AMQP_DEVICES, 1);
    }
    d->_state = state;
}

/* ---- life --------------------------------------------------------------------------------------------------- */

static amqp_device *device_new(amqp_server *s, nv_span device_id, nv_span module_id)
{
    amqp_device *d = nv_calloc(1, sizeof(*d) + device_id.len + module_id.len + 2);
    d->server = s;
    nv_list_init(&d->links);
    nv_list_init(&d->waiting);
    d->_key_len = nv_identity_key(device_id, module_id, d->_key);
    d->_device_id = nv_span_of(d->_key, device_id.len);
    d->_module_id = module_id.len > 0 ? nv_span_of(d->_key + device_id.len + 1, module_id.len) : NV_SPAN_EMPTY;
    nv_list_push_back(&s->devices, &d->link);
    (void)nv_map_put(&s->by_key, nv_span_of(d->_key, d->_key_len), d);
    s->device_count++;
    s->conn.session.guests++;
    return d;
}

static void device_free(amqp_device *d)
{
    amqp_server *s = d->server;
    nv_list_remove(&d->link);
    amqp_telemetry_free(d->telemetry);
    amqp_pair_free(d->twin);
    amqp_pair_free(d->methods);
    amqp_devicebound_free(d->devicebound);
    nv_telemetry_client_deinit(&d->client);
    nv_identity_unref(d->identity);
    free(d->stamp);
    free(d);
    amqp_server_settle(s);
}

static void released(nv_claim *claim)
{
    device_free(nv_container_of(claim, amqp_device, claim));
}

void amqp_device_settle(amqp_device *d)
{
    amqp_server *s = d->server;
    if (d->_state == DEVICE_ENDING && d->client.pending == 0 && d->operations == 0 && !d->_check) {
        set_state(d, DEVICE_RELEASING);
        if (d->_claimed) {
            nv_claim_release(&d->claim, released);
        } else {
            device_free(d);
        }
    }
    amqp_server_settle(s);
}

static void end(amqp_device *d)
{
    if (is_live(d)) {
        set_state(d, DEVICE_ENDING);
    }
    amqp_device_settle(d);
}

/* Settle it afterwards. */
static void look_at_links(amqp_device *d)
{
    if (is_live(d) && nv_list_empty(&d->links) && nv_list_empty(&d->waiting)) {
        if (d->_state == DEVICE_HELD) {
            nv_subject subject = amqp_subject(d->server, d->_device_id, d->_module_id);
            nv_diag(NV_LEVEL_DEBUG, "amqp", &subject, "its last link is gone");
        }
        set_state(d, DEVICE_ENDING);
    }
}

static void end_if_linkless(amqp_device *d)
{
    look_at_links(d);
    amqp_device_settle(d);
}

/* The link of the oldest ATTACH that waits: to be answered from here on. */
static nv_amqp_link *take_first(amqp_device *d)
{
    waiting *w = nv_container_of(nv_list_first(&d->waiting), waiting, node);
    nv_amqp_link *link = w->link;
    link->ops = NULL;
    link->owner = NULL;
    nv_list_remove(&w->node);
    free(w);
    return link;
}

static void refuse_waiting(amqp_device *d, nv_amqp_condition condition, const char *description)
{
    while (!nv_list_empty(&d->waiting)) {
        nv_amqp_link *link = take_first(d);
        amqp_refuse(d->server, link, condition, description);
    }
}

void amqp_device_detach(amqp_device *d, nv_amqp_condition condition, const char *description)
{
    amqp_device_operation_begin(d); /* it stays until all is done */
    if (is_live(d)) {
        set_state(d, DEVICE_ENDING);
    }
    refuse_waiting(d, condition, description);
    for (nv_list *node = nv_list_pop_front(&d->links); node; node = nv_list_pop_front(&d->links)) {
        amqp_device_link *l = nv_container_of(node, amqp_device_link, node);
        nv_amqp_link *link = l->link;
        l->end(l);
        nv_amqp_link_detach(link, condition, description);
    }
    amqp_device_operation_end(d);
}

/* ---- links -------------------------------------------------------------------------------------------------- */

void amqp_device_link_add(amqp_device *d, amqp_device_link *self, nv_amqp_link *link)
{
    amqp_device_link *older = NULL;
    for (nv_list *node = d->links.next; node != &d->links; node = node->next) {
        amqp_device_link *l = nv_container_of(node, amqp_device_link, node);
        if (l->end == self->end && l->link->sender == link->sender) {
            older = l;
        }
    }
    self->device = d;
    self->link = link;
    nv_list_push_back(&d->links, &self->node);
    if (older) {
        nv_amqp_link *old_link = older->link;
        nv_list_remove(&older->node);
        older->end(older);
        nv_amqp_link_detach(old_link, NV_AMQP_ERR_STOLEN, "another link of this kind was attached for the device");
    }
}

void amqp_device_link_remove(amqp_device_link *self)
{
    nv_list_remove(&self->node);
    end_if_linkless(self->device);
}

void amqp_device_link_detached(nv_amqp_link *link, const nv_amqp_problem *problem)
{
    (void)problem;
    amqp_device_link *self = link->owner;
    amqp_device *d = self->device;
    amqp_device_operation_begin(d);
    nv_list_remove(&self->node);
    look_at_links(d);
    self->end(self);
    amqp_device_operation_end(d);
}

void amqp_device_want(amqp_device *d, uint32_t bit, bool on)
{
    uint32_t wants = on ? d->wants | bit : d->wants & ~bit;
    if (wants != d->wants && d->_state == DEVICE_HELD) {
        nv_claim_want(&d->claim, wants);
    }
    d->wants = wants;
}

void amqp_device_active(amqp_device *d)
{
    if (d->_state == DEVICE_HELD) {
        nv_claim_touch(&d->claim, nv_mono_us(amqp_hub(d->server)->clock));
        nv_claim_operated(&d->claim);
    }
}

void amqp_device_operation_begin(amqp_device *d)
{
    d->operations++;
    amqp_operation_begin(d->server);
}

void amqp_device_operation_end(amqp_device *d)
{
    amqp_server *s = d->server;
    assert(d->operations > 0);
    d->operations--;
    amqp_device_settle(d);
    amqp_operation_end(s);
}

/* ---- claim -------------------------------------------------------------------------------------------------- */

static void open_link(amqp_device *d, nv_amqp_link *link)
{
    amqp_address address;
    nv_span text = nv_amqp_text_of(link->sender ? link->source->address : link->target->address);
    if (amqp_address_parse(text, !link->sender, &address) != NV_OK) {
        amqp_refuse(d->server, link, NV_AMQP_ERR_INTERNAL_ERROR, "the address changed"); /* it was parsed before */
        return;
    }
    amqp_server_open(d->server, d, link, &address);
}

static void granted(nv_claim *claim)
{
    amqp_device *d = nv_container_of(claim, amqp_device, claim);
    amqp_server *s = d->server;
    char text[AMQP_DESCRIPTION];
    if (d->_state != DEVICE_CLAIMING) {
        return;
    }
    if (claim->status != NV_OK) {
        nv_hub_refuse(amqp_hub(s), "amqp", s->conn.session.carrier->peer, d->_device_id, d->_module_id,
                      NV_REFUSAL_STORAGE, "the state store failed");
        amqp_describe(s, NV_HUB_ERROR_ServiceUnavailable, "", text);
        amqp_device_detach(d, NV_AMQP_ERR_TIMEOUT, text);
        return;
    }
    set_state(d, DEVICE_HELD);
    if (d->wants != 0) {
        nv_claim_want(&d->claim, d->wants);
    }
    nv_subject subject = amqp_subject(s, d->_device_id, d->_module_id);
    subject.peer = s->conn.session.carrier->peer->address;
    nv_diag(NV_LEVEL_INFO, "amqp", &subject, "connected");
    amqp_device_operation_begin(d);
    while (d->_state == DEVICE_HELD && !nv_list_empty(&d->waiting)) {
        open_link(d, take_first(d));
    }
    look_at_links(d);
    amqp_device_operation_end(d);
    s->conn.session.carrier->wake(s->conn.session.carrier);
}

static void evicted(nv_claim *claim, nv_refusal why)
{
    amqp_device *d = nv_container_of(claim, amqp_device, claim);
    amqp_server *s = d->server;
    if (!is_live(d)) {
        return;
    }
    bool taken_over = why == NV_REFUSAL_TAKEN_OVER;
    nv_amqp_condition gone = claim->deleted ? NV_AMQP_ERR_NOT_FOUND : NV_AMQP_ERR_UNAUTHORIZED_ACCESS;
    const char *text =
        taken_over ? "ErrorCode:ConnectionForcefullyClosedOnNewConnection;another connection of this identity took over"
        : claim->deleted ? "ErrorCode:DeviceNotFound;the device or module was deleted"
                         : SAYS_UNAUTHORIZED;
    nv_hub_refuse(amqp_hub(s), "amqp", s->conn.session.carrier->peer, d->_device_id, d->_module_id, why, "");
    if (!taken_over) {
        amqp_auth_revoke(s, d->_device_id, d->_module_id);
    }
    amqp_operation_begin(s);
    amqp_device_detach(d, taken_over ? NV_AMQP_ERR_STOLEN : gone, text);
    amqp_server_close_if_empty(s, taken_over ? NV_AMQP_ERR_CONNECTION_FORCED : gone, text);
    s->conn.session.carrier->wake(s->conn.session.carrier);
    amqp_operation_end(s);
}

static void deliver(nv_claim *claim, const nv_delivery *delivery)
{
    amqp_device *d = nv_container_of(claim, amqp_device, claim);
    if (d->_state != DEVICE_HELD) {
        return;
    }
    switch (delivery->kind) {
    case NV_DELIVER_DESIRED:
        amqp_twin_deliver(d, delivery);
        break;
    case NV_DELIVER_METHOD:
        amqp_method_deliver(d, delivery);
        break;
    }
    d->server->conn.session.carrier->wake(d->server->conn.session.carrier);
}

/* ---- authentication ----------------------------------------------------------------------------------------- */

/* A fault that the device asked for outlives its connection. @return true: it is refused, *text says why */
static bool in_fault(const amqp_device *d, char text[NV_REFUSAL_DETAIL], nv_amqp_condition *condition)
{
    nv_hub *hub = amqp_hub(d->server);
    int64_t now_us = nv_mono_us(hub->clock);
    int64_t until_us = 0;
    if (NV_LIKELY(!hub->faults)) {
        return false;
    }
    nv_fault_kind kind = nv_faults_get(hub->faults, d->_device_id, d->_module_id, now_us, &until_us);
    if (kind != NV_FAULT_KILL_TCP && kind != NV_FAULT_SHUT_DOWN_AMQP && kind != NV_FAULT_AUTH) {
        return false;
    }
    *condition = kind == NV_FAULT_AUTH ? NV_AMQP_ERR_UNAUTHORIZED_ACCESS : NV_AMQP_ERR_TIMEOUT;
    (void)snprintf(text, NV_REFUSAL_DETAIL, "%s, for another %" PRId64 " ms", nv_fault_name(kind),
                   (until_us - now_us) / NV_US_PER_MS);
    nv_hub_refuse(hub, "amqp", d->server->conn.session.carrier->peer, d->_device_id, d->_module_id, NV_REFUSAL_FAULT,
                  text);
    return true;
}

/* core/auth.h said no, and noted why. Who holds a policy may know which devices there are. */
static void refuse_device(amqp_device *d, const amqp_device_check *c)
{
    bool by_policy = c->len > 0 && nv_auth_token_is_policy(nv_span_of(c->token, c->len));
    if (c->auth.status != NV_E_UNAUTHORIZED) {
        amqp_device_detach(d, NV_AMQP_ERR_TIMEOUT, SAYS_NO_LOOKUP);
    } else if (by_policy && c->auth.refusal == NV_REFUSAL_UNKNOWN_DEVICE) {
        amqp_device_detach(d, NV_AMQP_ERR_NOT_FOUND, "ErrorCode:DeviceNotFound;no such device or module is registered");
    } else {
        amqp_device_detach(d, NV_AMQP_ERR_UNAUTHORIZED_ACCESS, SAYS_UNAUTHORIZED);
    }
}

static void claim_it(amqp_device *d, const nv_auth_request *auth)
{
    d->scope = auth->scope;
    d->type = auth->type;
    d->claim = (nv_claim){.identity = d->identity,
                          .credential = auth->credential,
                          .clean = false,
                          .granted = granted,
                          .evict = evicted,
                          .deliver = deliver};
    amqp_server_known(d->server);
    set_state(d, DEVICE_CLAIMING);
    d->_claimed = true;
    nv_claim_ask(amqp_loop(d->server), &d->claim);
}

static void checked(nv_auth_request *auth)
{
    amqp_device_check *c = nv_container_of(auth, amqp_device_check, auth);
    amqp_device *d = c->device;
    amqp_server *s = d->server;
    char text[NV_REFUSAL_DETAIL];
    nv_amqp_condition condition = NV_AMQP_ERR_NONE;
    d->identity = auth->identity;
    amqp_operation_begin(s);
    d->_check = NULL;
    if (d->_state != DEVICE_CHECKING) {
        amqp_device_settle(d); /* its links went meanwhile */
    } else if (auth->status != NV_OK) {
        refuse_device(d, c);
    } else if (in_fault(d, text, &condition)) {
        amqp_device_detach(d, condition, text);
    } else {
        claim_it(d, auth);
    }
    nv_wipe(c->token, c->len);
    free(c);
    s->conn.session.carrier->wake(s->conn.session.carrier);
    amqp_operation_end(s);
}

static void check(amqp_device *d, nv_span token)
{
    amqp_device_check *c = nv_calloc(1, sizeof(*c) + token.len);
    c->device = d;
    c->len = token.len;
    if (token.len > 0) {
        memcpy(c->token, token.ptr, token.len);
    }
    c->auth.protocol = "amqp";
    c->auth.device_id = d->_device_id;
    c->auth.module_id = d->_module_id;
    c->auth.token = nv_span_of(c->token, c->len);
    c->auth.text_keys = true;
    c->auth.peer = d->server->conn.session.carrier->peer;
    c->auth.done = checked;
    d->_check = c;
    nv_auth_device(amqp_loop(d->server), &c->auth);
}

/* ---- ATTACH ------------------------------------------------------------------------------------------------- */

amqp_device *amqp_device_find(const amqp_server *s, nv_span device_id, nv_span module_id)
{
    char key[2 * NV_ID_MAX + 2];
    if (device_id.len > NV_ID_MAX || module_id.len > NV_ID_MAX) {
        return NULL;
    }
    return nv_map_get(&s->by_key, nv_span_of(key, nv_identity_key(device_id, module_id, key)));
}

static void link_lost(nv_amqp_link *link, const nv_amqp_problem *problem)
{
    (void)problem;
    waiting *w = link->owner;
    amqp_device *d = w->device;
    nv_list_remove(&w->node);
    free(w);
    end_if_linkless(d);
}

/* Of a link that is not answered yet: it can only go. */
static const nv_amqp_link_ops waiting_ops = {.detached = link_lost};

static void wait_for(amqp_device *d, nv_amqp_link *link)
{
    waiting *w = nv_malloc(sizeof(*w));
    w->device = d;
    w->link = link;
    link->ops = &waiting_ops;
    link->owner = w;
    nv_list_push_back(&d->waiting, &w->node);
}

void amqp_device_attach(amqp_server *s, nv_amqp_link *link, const amqp_address *address)
{
    nv_span token;
    if (!amqp_auth_device(s, address->device_id, address->module_id, &token)) {
        nv_hub_refuse(amqp_hub(s), "amqp", s->conn.session.carrier->peer, address->device_id, address->module_id,
                      NV_REFUSAL_NOT_COVERED, "");
        nv_metric_add(NV_M_AMQP_REFUSED, 1);
        nv_amqp_link_refuse(link, NV_AMQP_ERR_UNAUTHORIZED_ACCESS,
                            "ErrorCode:IotHubUnauthorizedAccess;no token of this connection covers the device",
                            NV_SPAN_EMPTY);
        return;
    }
    amqp_device *d = amqp_device_find(s, address->device_id, address->module_id);
    if (d && d->_state == DEVICE_HELD) {
        amqp_server_open(s, d, link, address);
        return;
    }
    if (!d && s->device_count >= amqp_hub(s)->limits.amqp_devices) {
        amqp_refuse(s, link, NV_AMQP_ERR_RESOURCE_LIMIT_EXCEEDED, "too many devices on this connection");
        return;
    }
    if (!d) {
        d = device_new(s, address->device_id, address->module_id);
        check(d, token);
    }
    wait_for(d, link);
}

/* ---- tokens ------------------------------------------------------------------------------------------------- */

static bool same_key(const nv_key *a, const nv_key *b)
{
    return a->len > 0 && nv_span_eq_secret(nv_span_of(a->bytes, a->len), nv_span_of(b->bytes, b->len));
}

/* The claim stands or falls with the key that proved it; from here on that is the new token's, if the claim knows it.
 */
void amqp_device_renewed(amqp_device *d, const nv_identity *identity, nv_credential credential)
{
    if (!d->_claimed || d->identity->auth != NV_AUTH_SAS || credential == NV_CREDENTIAL_POLICY) {
        return;
    }
    const nv_key *key = credential == NV_CREDENTIAL_PRIMARY ? &identity->primary_key : &identity->secondary_key;
    if (same_key(key, &d->identity->primary_key)) {
        d->claim.credential = NV_CREDENTIAL_PRIMARY;
    } else if (same_key(key, &d->identity->secondary_key)) {
        d->claim.credential = NV_CREDENTIAL_SECONDARY;
    }
}

void amqp_devices_expire(amqp_server *s)
{
    amqp_operation_begin(s);
    for (nv_list *node = s->devices.next; node != &s->devices;) {
        amqp_device *d = nv_container_of(node, amqp_device, link);
        nv_span token;
        node = node->next;
        if (is_live(d) && !amqp_auth_device(s, d->_device_id, d->_module_id, &token)) {
            nv_hub_refuse(amqp_hub(s), "amqp", s->conn.session.carrier->peer, d->_device_id, d->_module_id,
                          NV_REFUSAL_SESSION_EXPIRED, "");
            amqp_device_detach(d, NV_AMQP_ERR_UNAUTHORIZED_ACCESS, SAYS_EXPIRED);
        }
    }
    amqp_operation_end(s);
}

void amqp_devices_end(amqp_server *s)
{
    amqp_operation_begin(s);
    for (nv_list *node = s->devices.next; node != &s->devices;) {
        amqp_device *d = nv_container_of(node, amqp_device, link);
        node = node->next;
        end(d);
    }
    amqp_operation_end(s);
}
