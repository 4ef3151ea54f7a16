/*
 * Who the peer is: tokens put on $cbs or given as a password, and which of them covers what (amqp.md section 2).
 *
 * A token is verified when it comes: a policy's at once, a device's own by looking the device up. What it covers is
 * kept by path, so that a link finds its token by a few look-ups however many there are. A device is verified once
 * more, by core/auth.h with the token kept, when its first link comes.
 */
#include "base/alloc.h"
#include "codec/percent.h"
#include "codec/sas.h"
#include "core/policies.h"
#include "session/amqp/server_internal.h"

#include <ctype.h>
#include <stdlib.h>

#define PATH_MAX_BYTES 1024u
#define TOKEN_MAX      8192u /* put on $cbs: what is good is kept */

/* No paths: what any service's, or any device's, credential covers. */
#define ANY_SERVICE "$management"
#define ANY_DEVICE  "$devices"

/* Told to the peer: unknown identity and wrong signature sound the same. */
#define SAYS_UNAUTHORIZED                                                                                              \
    "ErrorCode:IotHubUnauthorizedAccess;Unauthorized: the token does not open this, see the hub's log"

#define SAYS_TOO_MANY "too many tokens on this connection"

/* A stranger may be wrong so often. */
#define STRANGER_FAILURES 32u

/* ---- paths -------------------------------------------------------------------------------------------------- */

static nv_span cut_segment(nv_span *rest)
{
    nv_span segment = nv_span_first(*rest, nv_span_find(*rest, '/'));
    *rest = nv_span_skip(*rest, segment.len + 1);
    return segment;
}

static void write_lower(nv_writer *w, nv_span text)
{
    for (size_t i = 0; i < text.len; i++) {
        nv_write_u8(w, (uint8_t)tolower(text.ptr[i]));
    }
}

static bool is_devices(nv_span segment)
{
    return nv_span_eq_nocase(segment, nv_span_str("devices"));
}

/* A path of an audience, with everything in lower case but the ids of devices and modules. At most as long as it was.
 */
static size_t normal_path(nv_span path, char out[PATH_MAX_BYTES])
{
    nv_writer w = nv_writer_of(out, PATH_MAX_BYTES);
    bool of_device = is_devices(nv_span_first(path, nv_span_find(path, '/')));
    for (size_t i = 0; path.len > 0; i++) {
        nv_span segment = cut_segment(&path);
        if (i > 0) {
            nv_write_u8(&w, '/');
        }
        if (of_device && (i == 1 || i == 3)) {
            nv_write_span(&w, segment);
        } else {
            write_lower(&w, segment);
        }
    }
    return w.err == NV_OK ? nv_writer_len(&w) : 0;
}

static size_t device_path(nv_span device_id, nv_span module_id, char out[PATH_MAX_BYTES])
{
    nv_writer w = nv_writer_of(out, PATH_MAX_BYTES);
    nv_write_span(&w, nv_span_str("devices/"));
    nv_write_span(&w, device_id);
    if (module_id.len > 0) {
        nv_write_span(&w, nv_span_str("/modules/"));
        nv_write_span(&w, module_id);
    }
    return nv_writer_len(&w);
}

size_t amqp_auth_path(const amqp_address *a, char out[PATH_MAX_BYTES])
{
    nv_writer w = nv_writer_of(out, PATH_MAX_BYTES);
    switch (a->node) {
    case AMQP_NODE_SERVICE_SEND:
        nv_write_span(&w, nv_span_str("messages/devicebound"));
        break;
    case AMQP_NODE_FEEDBACK:
        nv_write_span(&w, nv_span_str("messages/servicebound/feedback"));
        break;
    case AMQP_NODE_FILE_NOTIFICATIONS:
        nv_write_span(&w, nv_span_str("messages/servicebound/filenotifications"));
        break;
    case AMQP_NODE_EVENTS_REDIRECT:
        nv_write_span(&w, nv_span_str("messages/events"));
        write_lower(&w, a->rest);
        break;
    case AMQP_NODE_EVENTS:
        write_lower(&w, a->entity);
        nv_write_span(&w, nv_span_str("/consumergroups/"));
        write_lower(&w, a->group);
        nv_write_span(&w, nv_span_str("/partitions/"));
        write_lower(&w, a->partition);
        break;
    case AMQP_NODE_EVENTS_SEND:
        write_lower(&w, a->entity);
        break;
    case AMQP_NODE_MANAGEMENT:
        write_lower(&w, a->entity);
        nv_write_span(&w, nv_span_str(a->entity.len > 0 ? "/$management" : ANY_SERVICE));
        break;
    case AMQP_NODE_DEVICE_FEEDBACK:
        nv_write_span(&w, nv_span_str(ANY_DEVICE));
        break;
    case AMQP_NODE_UNKNOWN:
    case AMQP_NODE_CBS:
    case AMQP_NODE_TELEMETRY:
    case AMQP_NODE_MODULE_INPUT:
    case AMQP_NODE_DEVICEBOUND:
    case AMQP_NODE_TWIN:
    case AMQP_NODE_METHODS:
    case AMQP_NODE_COUNT:
        break;
    }
    return w.err == NV_OK ? nv_writer_len(&w) : 0;
}

/* ---- principals --------------------------------------------------------------------------------------------- */

static void principal_free(amqp_principal *p)
{
    if (p->token.len > 0) {
        nv_wipe(p->_bytes, p->path.len + p->policy.len + p->token.len);
    }
    free(p);
}

static void unchain(amqp_server *s, amqp_principal *p)
{
    amqp_principal *first = nv_map_get(&s->by_path, p->path);
    if (first == p) {
        (void)nv_map_remove(&s->by_path, p->path);
        if (p->next) {
            (void)nv_map_put(&s->by_path, p->next->path, p->next);
        }
        return;
    }
    for (; first; first = first->next) {
        if (first->next == p) {
            first->next = p->next;
            return;
        }
    }
}

static void drop(amqp_server *s, amqp_principal *p)
{
    unchain(s, p);
    nv_list_remove(&p->link);
    s->principal_count--;
    principal_free(p);
}

static nv_span keep(uint8_t **at, nv_span from)
{
    nv_span kept = nv_span_of(*at, from.len);
    if (from.len > 0) {
        memcpy(*at, from.ptr, from.len);
    }
    *at += from.len;
    return kept;
}

static amqp_principal *find_same(const amqp_server *s, nv_span path, nv_span policy)
{
    amqp_principal *p = nv_map_get(&s->by_path, path);
    while (p && !nv_span_eq(p->policy, policy)) {
        p = p->next;
    }
    return p;
}

/* Keep what was verified in place of what had the same path and policy. @return false: there are too many */
static bool add(amqp_server *s, nv_span path, nv_span policy, nv_span token, uint32_t rights, int64_t expires_wall_us)
{
    amqp_principal *old = find_same(s, path, policy);
    if (old) {
        drop(s, old);
    } else if (s->principal_count >= amqp_hub(s)->limits.amqp_tokens) {
        return false;
    }
    amqp_principal *p = nv_calloc(1, sizeof(*p) + path.len + policy.len + token.len);
    uint8_t *at = p->_bytes;
    p->path = keep(&at, path);
    p->policy = keep(&at, policy);
    p->token = keep(&at, token);
    p->rights = rights;
    p->expires_wall_us = expires_wall_us;
    nv_list_push_back(&s->principals, &p->link);
    s->principal_count++;
    p->next = nv_map_get(&s->by_path, p->path);
    (void)nv_map_remove(&s->by_path, p->path); /* the key is the newest one's from here on */
    (void)nv_map_put(&s->by_path, p->path, p);
    s->expires_wall_us = expires_wall_us < s->expires_wall_us ? expires_wall_us : s->expires_wall_us;
    s->leave_by_us = INT64_MAX; /* who brings a credential means to stay */
    amqp_server_known(s);
    amqp_server_update_deadline(s);
    return true;
}

static bool is_over(const amqp_server *s, const amqp_principal *p)
{
    return nv_wall_us(amqp_hub(s)->clock) >= p->expires_wall_us;
}

/* Longest first. @return false: there is no shorter one */
static bool shorten(nv_span *path)
{
    if (path->len == 0) {
        return false;
    }
    size_t len = path->len;
    while (len > 0 && path->ptr[len - 1] != '/') {
        len--;
    }
    *path = nv_span_first(*path, len > 0 ? len - 1 : 0);
    return true;
}

/* The principal with the longest path that covers @p path and has @p right; a device's own only for its very path. */
static amqp_principal *covering(amqp_server *s, nv_span path, uint32_t right, bool *lacks_right)
{
    nv_span prefix = path;
    do {
        for (amqp_principal *p = nv_map_get(&s->by_path, prefix); p; p = p->next) {
            if (is_over(s, p)) {
                continue;
            }
            if (p->policy.len == 0 ? right == NV_RIGHT_DEVICE_CONNECT && prefix.len == path.len
                                   : (p->rights & right) != 0) {
                return p;
            }
            *lacks_right = true;
        }
    } while (shorten(&prefix));
    return NULL;
}

/* "" or an event hub's: of the paths that are the hub's own, none leads to $management. */
static bool may_name_entity(nv_span path)
{
    nv_span first = cut_segment(&path);
    return !is_devices(first) && !nv_span_eq_str(first, "messages");
}

/* $management stands for whatever entity a token names. */
static amqp_principal *any_service(amqp_server *s, bool *lacks_right)
{
    for (nv_list *node = s->principals.next; node != &s->principals; node = node->next) {
        amqp_principal *p = nv_container_of(node, amqp_principal, link);
        if (is_over(s, p)) {
            continue;
        }
        if (p->rights & NV_RIGHT_SERVICE_CONNECT && may_name_entity(p->path)) {
            return p;
        }
        *lacks_right = *lacks_right || !(p->rights & NV_RIGHT_SERVICE_CONNECT);
    }
    return NULL;
}

bool amqp_auth_device(amqp_server *s, nv_span device_id, nv_span module_id, nv_span *token)
{
    char path[PATH_MAX_BYTES];
    bool lacks_right = false;
    const amqp_principal *p =
        covering(s, nv_span_of(path, device_path(device_id, module_id, path)), NV_RIGHT_DEVICE_CONNECT, &lacks_right);
    *token = p ? p->token : NV_SPAN_EMPTY;
    return p || s->certificate;
}

static bool covers_any_device(const amqp_server *s)
{
    for (nv_list *node = s->principals.next; node != &s->principals; node = node->next) {
        const amqp_principal *p = nv_container_of(node, amqp_principal, link);
        if (!is_over(s, p) && (p->policy.len == 0 || p->rights & NV_RIGHT_DEVICE_CONNECT)) {
            return true;
        }
    }
    return s->certificate && s->device_count > 0;
}

bool amqp_auth_covers(amqp_server *s, nv_span path, const char **why)
{
    bool lacks_right = false;
    bool found = false;
    if (nv_span_eq_str(path, ANY_DEVICE)) {
        found = covers_any_device(s);
    } else if (nv_span_eq_str(path, ANY_SERVICE)) {
        found = any_service(s, &lacks_right) != NULL;
    } else {
        found = path.len > 0 && covering(s, path, NV_RIGHT_SERVICE_CONNECT, &lacks_right) != NULL;
    }
    *why = lacks_right ? "ErrorCode:IotHubUnauthorizedAccess;the credential of this connection lacks ServiceConnect"
                       : "ErrorCode:IotHubUnauthorizedAccess;no token of this connection covers the address";
    return found;
}

void amqp_auth_revoke(amqp_server *s, nv_span device_id, nv_span module_id)
{
    char path[PATH_MAX_BYTES];
    amqp_principal *p = find_same(s, nv_span_of(path, device_path(device_id, module_id, path)), NV_SPAN_EMPTY);
    if (p) {
        drop(s, p);
    }
}

bool amqp_auth_expire(amqp_server *s, int64_t wall_us, int64_t *next_us)
{
    bool any = false;
    *next_us = INT64_MAX;
    for (nv_list *node = s->principals.next; node != &s->principals;) {
        amqp_principal *p = nv_container_of(node, amqp_principal, link);
        node = node->next;
        if (wall_us >= p->expires_wall_us) {
            any = true;
            drop(s, p);
        } else if (p->expires_wall_us < *next_us) {
            *next_us = p->expires_wall_us;
        }
    }
    return any;
}

/* ---- checks ------------------------------------------------------------------------------------------------- */

/* A token of a device that is looked up: of put-token, or of PLAIN when done is NULL. */
typedef struct check {
    nv_list link; /* amqp_server.checks */
    amqp_server *server;
    amqp_put_token_done done;
    void *owner; /* NULL: not wanted any more */
    uint64_t cookie;
    nv_auth_request auth;
    bool sasl;
    size_t len;
    uint8_t bytes[]; /* device id, module id, token: wiped */
} check;

static void check_free(check *c)
{
    amqp_server *s = c->server;
    nv_list_remove(&c->link);
    nv_identity_unref(c->auth.identity);
    nv_wipe(c->bytes, c->len);
    free(c);
    amqp_operation_end(s);
}

static void refuse(amqp_server *s, nv_span device_id, nv_span module_id, nv_refusal refusal, const char *detail)
{
    nv_hub_refuse(amqp_hub(s), "amqp", s->conn.session.carrier->peer, device_id, module_id, refusal, detail);
}

static bool keep_device(check *c)
{
    char path[PATH_MAX_BYTES];
    amqp_server *s = c->server;
    size_t len = device_path(c->auth.device_id, c->auth.module_id, path);
    if (!add(s, nv_span_of(path, len), NV_SPAN_EMPTY, c->auth.token, 0, c->auth.expires_wall_us)) {
        return false;
    }
    amqp_device *device = amqp_device_find(s, c->auth.device_id, c->auth.module_id);
    if (device) {
        amqp_device_renewed(device, c->auth.identity, c->auth.credential);
    }
    return true;
}

static void count_failure(amqp_server *s)
{
    if (!s->conn.session.authenticated && ++s->put_failures >= STRANGER_FAILURES) {
        nv_amqp_conn_close(&s->conn, NV_AMQP_ERR_UNAUTHORIZED_ACCESS, "too many tokens that open nothing");
    }
}

static void answer(amqp_server *s, amqp_put_token_done done, void *owner, uint64_t cookie, int status,
                   const char *description)
{
    done(owner, cookie, status, description);
    if (status != 200) {
        count_failure(s);
    }
}

/* What may be said of a refusal without telling who exists and whose key it was. */
static const char *sentence_of(nv_refusal refusal)
{
    switch ((int)refusal) {
    case NV_REFUSAL_TOKEN_EXPIRED:
        return "ErrorCode:IotHubUnauthorizedAccess;the token has expired";
    case NV_REFUSAL_TOKEN_AUDIENCE:
        return "ErrorCode:IotHubUnauthorizedAccess;the token's resource (sr) does not cover the name";
    case NV_REFUSAL_HOST:
        return "ErrorCode:IotHubUnauthorizedAccess;the token names another hub";
    case NV_REFUSAL_TOKEN_MALFORMED:
        return "the token cannot be parsed";
    default:
        return SAYS_UNAUTHORIZED;
    }
}

static int status_of(nv_refusal refusal)
{
    return refusal == NV_REFUSAL_TOKEN_MALFORMED ? 400 : 401;
}

static void put_checked(check *c)
{
    int status = 503;
    const char *description = "the hub cannot look the identity up now, try again";
    if (c->auth.status == NV_OK) {
        bool kept = keep_device(c);
        status = kept ? 200 : 403;
        description = kept ? "OK" : SAYS_TOO_MANY;
        if (!kept) {
            refuse(c->server, c->auth.device_id, c->auth.module_id, NV_REFUSAL_LIMIT, SAYS_TOO_MANY);
        }
    } else if (c->auth.status == NV_E_UNAUTHORIZED) {
        status = status_of(c->auth.refusal);
        description = sentence_of(c->auth.refusal);
    }
    if (c->owner) {
        answer(c->server, c->done, c->owner, c->cookie, status, description);
    }
}

static void checked(nv_auth_request *auth)
{
    check *c = nv_container_of(auth, check, auth);
    amqp_server *s = c->server;
    if (!s->ended && c->sasl) {
        bool kept = auth->status == NV_OK && keep_device(c);
        nv_amqp_sasl_done(&s->conn, kept ? 0 : 1);
    } else if (!s->ended) {
        put_checked(c);
    }
    s->conn.session.carrier->wake(s->conn.session.carrier);
    check_free(c);
}

static check *check_new(amqp_server *s, nv_span device_id, nv_span module_id, nv_span token)
{
    size_t len = device_id.len + module_id.len + token.len;
    check *c = nv_calloc(1, sizeof(*c) + len);
    uint8_t *at = c->bytes;
    c->server = s;
    c->len = len;
    c->auth.protocol = "amqp";
    c->auth.device_id = keep(&at, device_id);
    c->auth.module_id = keep(&at, module_id);
    c->auth.token = keep(&at, token);
    c->auth.text_keys = true;
    c->auth.peer = s->conn.session.carrier->peer;
    c->auth.done = checked;
    nv_list_push_back(&s->checks, &c->link);
    amqp_operation_begin(s);
    return c;
}

void amqp_auth_forget(amqp_server *s, const void *owner)
{
    for (nv_list *node = s->checks.next; node != &s->checks; node = node->next) {
        check *c = nv_container_of(node, check, link);
        if (c->owner == owner) {
            c->owner = NULL;
        }
    }
}

/* ---- policies ----------------------------------------------------------------------------------------------- */

/* "/a/b%23c" of "a/b#c": as nv_sas_check_path() wants it. */
static nv_span encode_path(nv_span path, nv_writer *w)
{
    while (path.len > 0) {
        nv_write_u8(w, '/');
        nv_percent_encode(cut_segment(&path), w);
    }
    return nv_writer_span(w);
}

/* The path of a policy token's own resource, normalised. @return false: it cannot be read */
static bool own_path(const nv_sas *sas, char out[PATH_MAX_BYTES], size_t *len)
{
    char audience[PATH_MAX_BYTES];
    nv_span rest = nv_span_of(audience, amqp_audience(sas->sr_raw, audience));
    bool there = rest.len > 0;
    (void)cut_segment(&rest);
    *len = normal_path(rest, out);
    return there;
}

/* sr may name one link of a device or module (uamqp signs the whole address): as over MQTT it opens the identity. */
static nv_span up_to_identity(nv_span path)
{
    nv_span rest = path;
    if (!is_devices(cut_segment(&rest))) {
        return path;
    }
    (void)cut_segment(&rest);
    nv_span behind = rest;
    if (nv_span_eq_nocase(cut_segment(&behind), nv_span_str("modules"))) {
        (void)cut_segment(&behind);
        rest = behind;
    }
    return rest.len > 0 ? nv_span_first(path, path.len - rest.len - 1) : path;
}

static void say_connected(const amqp_server *s, nv_span policy)
{
    nv_subject subject = amqp_subject(s, NV_SPAN_EMPTY, NV_SPAN_EMPTY);
    nv_diag(NV_LEVEL_INFO, "amqp", &subject, "connected with policy \"%.*s\"", NV_SPAN_ARG(policy));
}

/* Verify a policy token and keep what its resource covers. @p path: what it must cover */
static nv_err take_policy(amqp_server *s, nv_span token, nv_span path, nv_auth_policy *result)
{
    char encoded[3 * PATH_MAX_BYTES + 1];
    char own[PATH_MAX_BYTES];
    size_t own_len = 0;
    nv_writer w = nv_writer_of(encoded, sizeof(encoded));
    *result = (nv_auth_policy){.token = token, .resource = encode_path(path, &w), .text_keys = true};
    nv_err err = nv_auth_check_policy(amqp_hub(s), result);
    if (err != NV_OK) {
        return err;
    }
    nv_sas sas;
    err = NV_E_SYNTAX;
    if (nv_sas_parse(token, &sas) == NV_SAS_NONE && own_path(&sas, own, &own_len)) {
        nv_span covered = up_to_identity(nv_span_of(own, own_len));
        bool first = find_same(s, covered, sas.policy) == NULL;
        err = add(s, covered, sas.policy, token, result->granted, result->expires_wall_us) ? NV_OK : NV_E_LIMIT;
        if (err == NV_OK && first) {
            say_connected(s, sas.policy);
        }
    }
    nv_wipe(&sas, sizeof(sas));
    return err;
}

/* ---- put-token ---------------------------------------------------------------------------------------------- */

/* Ids in "devices/d[/modules/m]..."; empty where there are none. */
static void ids_of(nv_span path, nv_span *device_id, nv_span *module_id)
{
    *device_id = *module_id = NV_SPAN_EMPTY;
    if (is_devices(cut_segment(&path))) {
        *device_id = cut_segment(&path);
        if (nv_span_eq_nocase(cut_segment(&path), nv_span_str("modules"))) {
            *module_id = cut_segment(&path);
        }
    }
}

static bool starts_nocase(nv_span text, const char *prefix)
{
    nv_span want = nv_span_str(prefix);
    return nv_span_eq_nocase(nv_span_first(text, want.len), want);
}

/* Told by its text, whatever type it was given (amqp.md section 2.2). NULL: a shared access signature. */
static const char *not_ours(nv_span token, int *status)
{
    if (token.len > TOKEN_MAX) {
        *status = 400;
        return "the body is longer than any token";
    }
    if (starts_nocase(token, "SharedAccessSignature ")) {
        return NULL;
    }
    bool is_jwt = starts_nocase(token, "Bearer ") || nv_span_starts_with(token, nv_span_str("eyJ"));
    *status = is_jwt ? 401 : 400;
    return is_jwt
               ? "ErrorCode:IotHubUnauthorizedAccess;this hub knows shared access signatures, no tokens of a directory"
               : "the body is no shared access signature";
}

/* Of "host[:port]/path": is the host one of ours? @return false: no */
static bool take_host(const amqp_server *s, nv_span *audience)
{
    nv_span host = cut_segment(audience);
    bool bracketed = host.len > 2 && host.ptr[0] == '[' && host.ptr[host.len - 1] == ']';
    return nv_hub_is_alias(amqp_hub(s), host) ||
           (bracketed && nv_hub_is_alias(amqp_hub(s), nv_span_of(host.ptr + 1, host.len - 2)));
}

static int put_policy(amqp_server *s, nv_span token, nv_span path, const char **description)
{
    nv_auth_policy result;
    nv_span device_id;
    nv_span module_id;
    nv_err err = take_policy(s, token, path, &result);
    if (err == NV_OK) {
        *description = "OK";
        return 200;
    }
    ids_of(path, &device_id, &module_id);
    if (err != NV_E_UNAUTHORIZED) {
        *description = SAYS_TOO_MANY;
        refuse(s, device_id, module_id, NV_REFUSAL_LIMIT, SAYS_TOO_MANY);
        return 403;
    }
    refuse(s, device_id, module_id, result.refusal, result.detail);
    *description = sentence_of(result.refusal);
    return status_of(result.refusal);
}

/* Neither a policy's token nor one of a device. */
static int put_nobodys(amqp_server *s, nv_span token, const char **description)
{
    nv_sas sas;
    bool parsed = nv_sas_parse(token, &sas) == NV_SAS_NONE;
    nv_wipe(&sas, sizeof(sas));
    nv_refusal why = parsed ? NV_REFUSAL_POLICY_RIGHT : NV_REFUSAL_TOKEN_MALFORMED;
    refuse(s, NV_SPAN_EMPTY, NV_SPAN_EMPTY, why,
           parsed ? "the token names no policy (skn), and its audience no device" : "");
    *description = sentence_of(why);
    return status_of(why);
}

/* The name of a put-token as a path, into @p memory. @return 0, or the status of a refusal */
static int path_of_name(amqp_server *s, nv_span name, char memory[PATH_MAX_BYTES], nv_span *path,
                        const char **description)
{
    *path = nv_span_of(memory, amqp_audience(name, memory));
    if (path->len == 0) {
        *description = "the request has no name, or one that is no audience";
        refuse(s, NV_SPAN_EMPTY, NV_SPAN_EMPTY, NV_REFUSAL_TOKEN_AUDIENCE, *description);
        return 400;
    }
    if (!take_host(s, path)) {
        nv_span device_id;
        nv_span module_id;
        ids_of(*path, &device_id, &module_id);
        refuse(s, device_id, module_id, NV_REFUSAL_HOST, "the name given to put-token");
        *description = sentence_of(NV_REFUSAL_HOST);
        return 401;
    }
    return 0;
}

void amqp_auth_put_token(amqp_server *s, nv_span name, nv_span token, amqp_put_token_done done, void *owner,
                         uint64_t cookie)
{
    char memory[PATH_MAX_BYTES];
    nv_span path = NV_SPAN_EMPTY;
    nv_span device_id;
    nv_span module_id;
    int status = 0;
    const char *description = not_ours(token, &status);
    if (description) {
        refuse(s, NV_SPAN_EMPTY, NV_SPAN_EMPTY, NV_REFUSAL_TOKEN_MALFORMED, description);
    } else {
        status = path_of_name(s, name, memory, &path, &description);
    }
    ids_of(path, &device_id, &module_id);
    if (status == 0 && nv_auth_token_is_policy(token)) {
        status = put_policy(s, token, path, &description);
    } else if (status == 0 && device_id.len == 0) {
        status = put_nobodys(s, token, &description);
    }
    if (status != 0) {
        answer(s, done, owner, cookie, status, description);
        return;
    }
    check *c = check_new(s, device_id, module_id, token);
    c->done = done;
    c->owner = owner;
    c->cookie = cookie;
    nv_auth_device(amqp_loop(s), &c->auth);
}

/* ---- logins ------------------------------------------------------------------------------------------------- */

void amqp_auth_refuse_sasl(amqp_server *s, nv_span device_id, nv_span module_id, nv_refusal refusal, const char *detail)
{
    refuse(s, device_id, module_id, refusal, detail);
    nv_amqp_sasl_done(&s->conn, 1);
}

/*
 * May a user named after @p named come with a token of @p signer? The C SDK's service client calls itself iothubowner
 * whatever policy its connection string has: the token's rights count, as long as the name promises no less.
 */
static bool may_call_itself(const amqp_server *s, nv_span signer, nv_span named)
{
    const nv_policy *of_token = nv_policies_find(amqp_hub(s)->policies, signer);
    const nv_policy *of_name = nv_policies_find(amqp_hub(s)->policies, named);
    return nv_span_eq(signer, named) || (of_token && of_name && (of_token->rights & ~of_name->rights) == 0);
}

void amqp_auth_login_policy(amqp_server *s, nv_span policy, nv_span token)
{
    char path[PATH_MAX_BYTES];
    size_t len = 0;
    nv_sas sas;
    nv_auth_policy result = {.refusal = NV_REFUSAL_TOKEN_MALFORMED};
    nv_sas_fault fault = nv_sas_parse(token, &sas);
    bool named = fault == NV_SAS_NONE && may_call_itself(s, sas.policy, policy);
    bool readable = fault == NV_SAS_NONE && own_path(&sas, path, &len);
    nv_wipe(&sas, sizeof(sas));
    if (!readable) {
        amqp_auth_refuse_sasl(s, NV_SPAN_EMPTY, NV_SPAN_EMPTY, result.refusal, nv_sas_fault_text(fault));
    } else if (!named) {
        amqp_auth_refuse_sasl(s, NV_SPAN_EMPTY, NV_SPAN_EMPTY, NV_REFUSAL_TOKEN_AUDIENCE,
                              "the token's skn is not the policy of the user name, and opens more");
    } else if (take_policy(s, token, nv_span_of(path, len), &result) != NV_OK) {
        amqp_auth_refuse_sasl(s, NV_SPAN_EMPTY, NV_SPAN_EMPTY, result.refusal, result.detail);
    } else {
        nv_amqp_sasl_done(&s->conn, 0);
    }
}

void amqp_auth_login_key(amqp_server *s, nv_span policy, nv_span key)
{
    nv_auth_policy result = {.refusal = NV_REFUSAL_NONE};
    if (nv_auth_check_policy_key(amqp_hub(s), policy, key, &result) != NV_OK) {
        amqp_auth_refuse_sasl(s, NV_SPAN_EMPTY, NV_SPAN_EMPTY, result.refusal, result.detail);
    } else if (!add(s, NV_SPAN_EMPTY, policy, NV_SPAN_EMPTY, result.granted, result.expires_wall_us)) {
        amqp_auth_refuse_sasl(s, NV_SPAN_EMPTY, NV_SPAN_EMPTY, NV_REFUSAL_LIMIT, SAYS_TOO_MANY);
    } else {
        say_connected(s, policy);
        nv_amqp_sasl_done(&s->conn, 0);
    }
}

void amqp_auth_login_device(amqp_server *s, nv_span device_id, nv_span module_id, nv_span token)
{
    check *c = check_new(s, device_id, module_id, token);
    c->sasl = true;
    nv_auth_device(amqp_loop(s), &c->auth);
}

void amqp_auth_deinit(amqp_server *s)
{
    while (!nv_list_empty(&s->principals)) {
        drop(s, nv_container_of(nv_list_first(&s->principals), amqp_principal, link));
    }
    nv_map_deinit(&s->by_path);
}
