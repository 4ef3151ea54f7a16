/*
 * SASL: mechanisms, and the user names of PLAIN (amqp.md section 1.2). Clients of Event Hubs that are not Azure's own
 * know no claims: they log in to the namespace as a policy, with its key or a token as the password.
 */
#include "codec/percent.h"
#include "core/policies.h"
#include "session/amqp/server_internal.h"

#include <stdio.h>

#define USER_MAX_BYTES 1024u

static bool starts_nocase(nv_span text, const char *prefix)
{
    nv_span want = nv_span_str(prefix);
    return nv_span_eq_nocase(nv_span_first(text, want.len), want);
}

/* Where the last @p what begins, case ignored; text.len: nowhere. */
static size_t find_last(nv_span text, const char *what)
{
    nv_span want = nv_span_str(what);
    for (size_t i = text.len; i-- > 0;) {
        if (nv_span_eq_nocase(nv_span_first(nv_span_skip(text, i), want.len), want)) {
            return i;
        }
    }
    return text.len;
}

typedef struct login {
    nv_span policy; /* empty: a device's */
    nv_span device_id;
    nv_span module_id;
    nv_span hub; /* empty: of the namespace, whose users are its policies */
} login;

/* "d/modules/m", each part percent-encoded or all of it. Into @p text. */
static void split_ids(nv_span user, nv_writer *text, login *out)
{
    nv_span whole = nv_percent_decode_lenient(user, text);
    size_t at = find_last(user, "/modules/");
    if (at < user.len) {
        out->device_id = nv_percent_decode_lenient(nv_span_first(user, at), text);
        out->module_id = nv_percent_decode_lenient(nv_span_skip(user, at + strlen("/modules/")), text);
        return;
    }
    at = find_last(whole, "/modules/");
    out->device_id = nv_span_first(whole, at);
    out->module_id = nv_span_skip(whole, at + strlen("/modules/"));
}

/* amqp.md section 1.2. @return false: of none of the forms */
static bool parse_user(nv_span user, nv_writer *text, login *out)
{
    *out = (login){.hub = NV_SPAN_EMPTY};
    if (nv_span_find(user, '@') == user.len) { /* encoded as a whole */
        user = nv_percent_decode_lenient(user, text);
    }
    if (nv_span_find(user, '@') == user.len) {
        out->policy = user;
        return user.len > 0 && text->err == NV_OK;
    }
    size_t at = find_last(user, "@sas.");
    nv_span rest = nv_span_skip(user, at + strlen("@sas."));
    if (at < user.len && starts_nocase(rest, "root.")) {
        out->policy = nv_percent_decode_lenient(nv_span_first(user, at), text);
        out->hub = nv_span_skip(rest, strlen("root."));
    } else if (at < user.len) {
        split_ids(nv_span_first(user, at), text, out);
        out->hub = rest;
    } else {
        at = find_last(user, "@");
        split_ids(nv_span_first(user, at), text, out);
        out->hub = nv_span_skip(user, at + 1);
    }
    return out->hub.len > 0 && text->err == NV_OK && (out->policy.len > 0 || out->device_id.len > 0);
}

/* The first label of any of our names, or the whole of it. */
static bool is_this_hub(const nv_hub *hub, nv_span name)
{
    for (size_t i = 0; i < hub->host_name_count; i++) {
        nv_span own = hub->host_names[i];
        if (nv_span_eq_nocase(name, own) || nv_span_eq_nocase(name, nv_span_first(own, nv_span_find(own, '.')))) {
            return true;
        }
    }
    return false;
}

static void plain(amqp_server *s, nv_span response)
{
    char memory[3 * USER_MAX_BYTES];
    char detail[NV_REFUSAL_DETAIL];
    nv_writer text = nv_writer_of(memory, sizeof(memory));
    login who;
    size_t first = nv_span_find(response, '\0');
    nv_span rest = nv_span_skip(response, first + 1);
    nv_span user = nv_span_first(rest, nv_span_find(rest, '\0'));
    nv_span token = nv_span_skip(rest, user.len + 1);
    bool parsed = user.len <= USER_MAX_BYTES && parse_user(user, &text, &who);
    bool of_namespace = parsed && who.hub.len == 0;
    if (!parsed || (of_namespace && !nv_policies_find(amqp_hub(s)->policies, who.policy))) {
        (void)snprintf(detail, sizeof(detail), "it is \"%.*s\"", NV_SPAN_ARG(nv_span_first(user, 100)));
        amqp_auth_refuse_sasl(s, NV_SPAN_EMPTY, NV_SPAN_EMPTY, NV_REFUSAL_SASL, detail);
    } else if (!of_namespace && !is_this_hub(amqp_hub(s), who.hub)) {
        (void)snprintf(detail, sizeof(detail), "the user name ends with \"%.*s\", this hub is \"%.*s\"",
                       NV_SPAN_ARG(nv_span_first(who.hub, 48)),
                       NV_SPAN_ARG(nv_span_first(amqp_hub(s)->host_names[0], 48)));
        amqp_auth_refuse_sasl(s, who.device_id, who.module_id, NV_REFUSAL_HOST, detail);
    } else if (token.len == 0) {
        amqp_auth_refuse_sasl(s, who.device_id, who.module_id, NV_REFUSAL_NO_CREDENTIAL, "");
    } else if (of_namespace && !starts_nocase(token, "SharedAccessSignature ")) {
        amqp_auth_login_key(s, who.policy, token);
    } else if (who.policy.len > 0) {
        amqp_auth_login_policy(s, who.policy, token);
    } else {
        amqp_auth_login_device(s, who.device_id, who.module_id, token);
    }
}

void amqp_auth_sasl(amqp_server *s, nv_span mechanism, nv_span initial_response)
{
    if (nv_span_eq_str(mechanism, "PLAIN")) {
        plain(s, initial_response);
    } else if (!nv_span_eq_str(mechanism, "EXTERNAL")) { /* ANONYMOUS, MSSBCBS: whatever they say */
        nv_amqp_sasl_done(&s->conn, 0);
    } else if (s->conn.session.carrier->peer->certificate) {
        s->certificate = true;
        nv_amqp_sasl_done(&s->conn, 0);
    } else {
        amqp_auth_refuse_sasl(s, NV_SPAN_EMPTY, NV_SPAN_EMPTY, NV_REFUSAL_NO_CREDENTIAL,
                              "EXTERNAL without a client certificate");
    }
}
