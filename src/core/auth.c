#include "core/auth.h"

#include "base/diag.h"
#include "codec/base64.h"
#include "codec/hex.h"
#include "codec/ids.h"
#include "codec/sas.h"
#include "core/policies.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#define SECONDS_PER_MINUTE 60
#define SECONDS_PER_HOUR   3600
#define SECONDS_PER_DAY    86400

/* "9 min 12 s": two units, the way people say it. */
static void duration_text(int64_t seconds, char *out, size_t size)
{
    if (seconds < SECONDS_PER_MINUTE) {
        (void)snprintf(out, size, "%" PRId64 " s", seconds);
    } else if (seconds < SECONDS_PER_HOUR) {
        (void)snprintf(out, size, "%" PRId64 " min %" PRId64 " s", seconds / SECONDS_PER_MINUTE,
                       seconds % SECONDS_PER_MINUTE);
    } else if (seconds < SECONDS_PER_DAY) {
        (void)snprintf(out, size, "%" PRId64 " h %" PRId64 " min", seconds / SECONDS_PER_HOUR,
                       seconds % SECONDS_PER_HOUR / SECONDS_PER_MINUTE);
    } else {
        (void)snprintf(out, size, "%" PRId64 " d %" PRId64 " h", seconds / SECONDS_PER_DAY,
                       seconds % SECONDS_PER_DAY / SECONDS_PER_HOUR);
    }
}

/* A verdict under construction: where the reason of a refusal goes. */
typedef struct verdict {
    nv_refusal refusal;
    char *detail; /* NV_REFUSAL_DETAIL */
} verdict;

static nv_err refuse(verdict *v, nv_refusal refusal, const char *fmt, ...) NV_PRINTF(3, 4);
static nv_err refuse(verdict *v, nv_refusal refusal, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(v->detail, NV_REFUSAL_DETAIL, fmt, args);
    va_end(args);
    v->refusal = refusal;
    return NV_E_UNAUTHORIZED;
}

static nv_sas_hosts hosts_of(const nv_hub *hub)
{
    return (nv_sas_hosts){hub->host_names, hub->host_name_count};
}

static int64_t expires_wall_us(const nv_hub *hub, const nv_sas *sas)
{
    int64_t last_s = INT64_MAX / NV_US_PER_S - hub->limits.sas_clock_skew_s;
    return sas->expires_unix_s >= last_s ? INT64_MAX
                                         : (sas->expires_unix_s + hub->limits.sas_clock_skew_s) * NV_US_PER_S;
}

static int64_t now_s(const nv_hub *hub)
{
    return nv_wall_us(hub->clock) / NV_US_PER_S;
}

static nv_err refuse_expired(verdict *v, const nv_hub *hub, const nv_sas *sas)
{
    char ago[48];
    duration_text(now_s(hub) - sas->expires_unix_s, ago, sizeof(ago));
    return refuse(v, NV_REFUSAL_TOKEN_EXPIRED, "expired %s ago (se=%.*s)", ago,
                  NV_SPAN_ARG(nv_span_first(sas->se_raw, 20)));
}

static nv_err refuse_host(verdict *v, const nv_hub *hub, const nv_sas *sas)
{
    nv_span host = nv_span_first(sas->resource, nv_span_find(sas->resource, '/'));
    return refuse(v, NV_REFUSAL_HOST, "sr names hub \"%.*s\", this hub is \"%.*s\"",
                  NV_SPAN_ARG(nv_span_first(host, 48)), NV_SPAN_ARG(nv_span_first(hub->host_names[0], 48)));
}

/* One table from what is wrong with a token to why the hub refuses. */
static nv_err refuse_token(verdict *v, const nv_hub *hub, const nv_sas *sas, nv_sas_fault fault)
{
    switch (fault) {
    case NV_SAS_NONE:
        return NV_OK;
    case NV_SAS_EXPIRED:
        return refuse_expired(v, hub, sas);
    case NV_SAS_OTHER_HUB:
        return refuse_host(v, hub, sas);
    case NV_SAS_OTHER_DEVICE:
    case NV_SAS_OTHER_MODULE:
    case NV_SAS_OTHER_RESOURCE:
    case NV_SAS_TOO_WIDE:
        return refuse(v, NV_REFUSAL_TOKEN_AUDIENCE, "%s (sr is \"%.*s\")", nv_sas_fault_text(fault),
                      NV_SPAN_ARG(nv_span_first(sas->resource, 64)));
    case NV_SAS_SIGNATURE:
        return refuse(v, NV_REFUSAL_TOKEN_SIGNATURE, "%s", "");
    case NV_SAS_NOT_A_TOKEN:
    case NV_SAS_SR_MISSING:
    case NV_SAS_SR_MALFORMED:
    case NV_SAS_SIG_MISSING:
    case NV_SAS_SIG_MALFORMED:
    case NV_SAS_SE_MISSING:
    case NV_SAS_SE_MALFORMED:
    case NV_SAS_SKN_MALFORMED:
    case NV_SAS_FIELD_TWICE:
    case NV_SAS_TOO_LONG:
        return refuse(v, NV_REFUSAL_TOKEN_MALFORMED, "%s", nv_sas_fault_text(fault));
    }
    return refuse(v, NV_REFUSAL_TOKEN_MALFORMED, "%s", nv_sas_fault_text(fault));
}

static bool signed_by(const nv_sas *sas, const nv_key *key)
{
    return key->len > 0 && nv_sas_verify(sas, nv_span_of(key->bytes, key->len)) == NV_SAS_NONE;
}

/* Base64 of a key as `nave hub show` prints it: what clients that do not decode it sign with. */
static bool signed_by_text(const nv_sas *sas, const nv_key *key)
{
    char memory[NV_BASE64_LEN(NV_KEY_MAX)];
    nv_writer text = nv_writer_of(memory, sizeof(memory));
    nv_base64_encode(nv_span_of(key->bytes, key->len), &text);
    bool fits = key->len > 0 && nv_sas_verify(sas, nv_writer_span(&text)) == NV_SAS_NONE;
    nv_wipe(memory, sizeof(memory));
    return fits;
}

/* Everything is tried whatever fits, so that the time it takes tells nothing. */
static bool signed_by_policy(const nv_sas *sas, const nv_policy *policy, bool text_keys)
{
    bool fits = signed_by(sas, &policy->primary_key);
    fits |= signed_by(sas, &policy->secondary_key);
    if (text_keys) {
        fits |= signed_by_text(sas, &policy->primary_key);
        fits |= signed_by_text(sas, &policy->secondary_key);
    }
    return fits;
}

static const nv_policy *policy_of(verdict *v, const nv_hub *hub, const nv_sas *sas)
{
    const nv_policy *policy = nv_policies_find(hub->policies, sas->policy);
    if (!policy) {
        (void)refuse(v, NV_REFUSAL_POLICY_UNKNOWN, "skn is \"%.*s\"", NV_SPAN_ARG(nv_span_first(sas->policy, 64)));
    }
    return policy;
}

/* ---- devices and modules ------------------------------------------------------------------------------------ */

static nv_err check_policy_signature(verdict *v, nv_auth_request *request, const nv_sas *sas)
{
    const nv_hub *hub = request->_loop->hub;
    const nv_policy *policy = policy_of(v, hub, sas);
    if (!policy) {
        return NV_E_UNAUTHORIZED;
    }
    if (!(policy->rights & NV_RIGHT_DEVICE_CONNECT)) {
        return refuse(v, NV_REFUSAL_POLICY_RIGHT, "policy \"%s\" has no DeviceConnect", policy->name);
    }
    if (!signed_by_policy(sas, policy, request->text_keys)) {
        return refuse(v, NV_REFUSAL_TOKEN_SIGNATURE, "the token names policy \"%s\"", policy->name);
    }
    request->credential = NV_CREDENTIAL_POLICY;
    request->scope = NV_AUTH_SCOPE_HUB;
    return NV_OK;
}

static nv_err check_own_signature(verdict *v, nv_auth_request *request, const nv_identity *identity, const nv_sas *sas)
{
    if (signed_by(sas, &identity->primary_key)) {
        request->credential = NV_CREDENTIAL_PRIMARY;
    } else if (signed_by(sas, &identity->secondary_key)) {
        request->credential = NV_CREDENTIAL_SECONDARY;
    } else {
        return refuse_token(v, request->_loop->hub, sas, NV_SAS_SIGNATURE);
    }
    request->scope = identity->module_id.len > 0 ? NV_AUTH_SCOPE_MODULE : NV_AUTH_SCOPE_DEVICE;
    return NV_OK;
}

static nv_err check_token(verdict *v, nv_auth_request *request, const nv_identity *identity, nv_sas *sas)
{
    const nv_hub *hub = request->_loop->hub;
    nv_sas_fault fault = nv_sas_parse(request->token, sas);
    if (fault == NV_SAS_NONE) {
        fault = nv_sas_check_expiry(sas, now_s(hub), hub->limits.sas_clock_skew_s);
    }
    if (fault == NV_SAS_NONE) {
        fault = nv_sas_check_entity(sas, hosts_of(hub), request->device_id, request->module_id);
    }
    if (fault != NV_SAS_NONE) {
        return refuse_token(v, hub, sas, fault);
    }
    request->expires_wall_us = expires_wall_us(hub, sas);
    request->type = NV_AUTH_TYPE_SAS;
    return sas->policy.len > 0 ? check_policy_signature(v, request, sas)
                               : check_own_signature(v, request, identity, sas);
}

/* A registered thumbprint of 40 digits is SHA-1, one of 64 SHA-256; anything else never matches. */
static bool certificate_is(const nv_peer_certificate *certificate, nv_span thumbprint)
{
    uint8_t bytes[32];
    nv_span have = thumbprint.len == 40 ? nv_span_of(certificate->sha1, sizeof(certificate->sha1))
                                        : nv_span_of(certificate->sha256, sizeof(certificate->sha256));
    return thumbprint.len == 2 * have.len && nv_hex_decode(thumbprint, bytes, have.len) == NV_OK &&
           nv_span_eq_secret(nv_span_of(bytes, have.len), have);
}

static nv_err refuse_thumbprint(verdict *v, const nv_peer_certificate *certificate)
{
    char text[2 * sizeof(certificate->sha256)];
    nv_writer w = nv_writer_of(text, sizeof(text));
    nv_hex_encode_upper(nv_span_of(certificate->sha256, sizeof(certificate->sha256)), &w);
    return refuse(v, NV_REFUSAL_CERTIFICATE, "the SHA-256 thumbprint presented is %.*s",
                  NV_SPAN_ARG(nv_writer_span(&w)));
}

static nv_err check_certificate_time(verdict *v, const nv_hub *hub, const nv_peer_certificate *certificate)
{
    char length[48];
    int64_t now = nv_wall_us(hub->clock);
    if (now < certificate->not_before_us) {
        duration_text((certificate->not_before_us - now) / NV_US_PER_S, length, sizeof(length));
        return refuse(v, NV_REFUSAL_CERTIFICATE_TIME, "valid only in %s", length);
    }
    if (now > certificate->not_after_us) {
        duration_text((now - certificate->not_after_us) / NV_US_PER_S, length, sizeof(length));
        return refuse(v, NV_REFUSAL_CERTIFICATE_TIME, "expired %s ago", length);
    }
    return NV_OK;
}

static nv_err check_certificate(verdict *v, nv_auth_request *request, const nv_identity *identity)
{
    const nv_peer_certificate *certificate = request->peer->certificate;
    if (!certificate) {
        return refuse(v, NV_REFUSAL_NO_CREDENTIAL, "the identity uses a certificate; none was presented");
    }
    if (certificate_is(certificate, identity->primary_thumbprint)) {
        request->credential = NV_CREDENTIAL_PRIMARY;
    } else if (certificate_is(certificate, identity->secondary_thumbprint)) {
        request->credential = NV_CREDENTIAL_SECONDARY;
    } else {
        return refuse_thumbprint(v, certificate);
    }
    request->type = NV_AUTH_TYPE_X509;
    request->scope = identity->module_id.len > 0 ? NV_AUTH_SCOPE_MODULE : NV_AUTH_SCOPE_DEVICE;
    request->expires_wall_us = INT64_MAX;
    return check_certificate_time(v, request->_loop->hub, certificate);
}

static nv_err check_sas_identity(verdict *v, nv_auth_request *request, const nv_identity *identity)
{
    if (request->token.len == 0) {
        return request->peer->certificate
                   ? refuse(v, NV_REFUSAL_AUTH_TYPE, "it uses SAS keys; a certificate but no token was presented")
                   : refuse(v, NV_REFUSAL_NO_CREDENTIAL, "%s", "");
    }
    nv_sas sas;
    nv_err err = check_token(v, request, identity, &sas);
    nv_wipe(&sas, sizeof(sas));
    return err;
}

static nv_err check_identity(verdict *v, nv_auth_request *request, const nv_identity *identity)
{
    if (!identity->enabled) {
        return refuse(v, NV_REFUSAL_DISABLED, "%.*s", NV_SPAN_ARG(nv_span_first(identity->status_reason, 120)));
    }
    switch (identity->auth) {
    case NV_AUTH_SAS:
        return check_sas_identity(v, request, identity);
    case NV_AUTH_SELF_SIGNED:
        if (request->token.len > 0) {
            return refuse(v, NV_REFUSAL_AUTH_TYPE, "it uses a self-signed certificate; a SAS token was presented");
        }
        return check_certificate(v, request, identity);
    case NV_AUTH_CA:
        return refuse(v, NV_REFUSAL_AUTH_TYPE,
                      "it uses certificateAuthority, which this version of the hub does not support");
    case NV_AUTH_NONE:
        return refuse(v, NV_REFUSAL_AUTH_TYPE, "it has no credential yet");
    }
    return refuse(v, NV_REFUSAL_AUTH_TYPE, "%s", "");
}

static void done_on_loop(nv_task *task)
{
    nv_auth_request *request = nv_container_of(task, nv_auth_request, _task);
    if (request->status != NV_OK) {
        nv_hub_refuse(request->_loop->hub, request->protocol, request->peer, request->device_id, request->module_id,
                      request->refusal, request->detail);
    }
    request->done(request);
}

static void finish(nv_auth_request *request, nv_err status, nv_refusal refusal)
{
    request->status = status;
    request->refusal = refusal;
    request->_task.run = done_on_loop;
    nv_post(request->_loop->exec, &request->_task);
}

static void found(nv_auth_request *request, nv_identity *identity)
{
    verdict v = {NV_REFUSAL_NONE, request->detail};
    nv_err err = check_identity(&v, request, identity);
    if (err == NV_OK) {
        request->identity = identity;
    } else {
        nv_identity_unref(identity);
    }
    finish(request, err, v.refusal);
}

static void looked_up(nv_auth_request *request, nv_err status)
{
    if (status == NV_OK) {
        found(request, request->_find.identity);
    } else if (status == NV_E_NOT_FOUND) {
        finish(request, NV_E_UNAUTHORIZED, NV_REFUSAL_UNKNOWN_DEVICE);
    } else {
        verdict v = {NV_REFUSAL_NONE, request->detail};
        (void)refuse(&v, NV_REFUSAL_STORAGE, "the registry answers: %s", nv_err_text(status));
        finish(request, status == NV_E_AGAIN ? NV_E_AGAIN : NV_E_IO, v.refusal);
    }
}

static void lookup_done(nv_registry_find *find)
{
    looked_up(find->arg, find->status);
}

void nv_auth_device(nv_hub_loop *loop, nv_auth_request *request)
{
    request->_loop = loop;
    request->detail[0] = '\0';
    request->identity = NULL;
    if (!nv_device_id_valid(request->device_id) ||
        (request->module_id.len > 0 && !nv_module_id_valid(request->module_id))) {
        verdict v = {NV_REFUSAL_NONE, request->detail};
        nv_err err = refuse(&v, NV_REFUSAL_UNKNOWN_DEVICE,
                            "it is no valid id: 1 to 128 letters, digits and -:.+%%_#*?!"
                            "(),=@;$'");
        finish(request, err, v.refusal);
        return;
    }
    request->_find = (nv_registry_find){
        .device_id = request->device_id, .module_id = request->module_id, .done = lookup_done, .arg = request};
    nv_err err = nv_registry_lookup(loop, &request->_find);
    if (err != NV_E_MORE) {
        looked_up(request, err);
    }
}

/* ---- services ----------------------------------------------------------------------------------------------- */

static uint32_t rights_of(const nv_policy *policy)
{
    bool writes = policy->rights & NV_RIGHT_REGISTRY_WRITE;
    return policy->rights | (writes ? (uint32_t)NV_RIGHT_REGISTRY_READ : 0);
}

static nv_err check_service(verdict *v, nv_hub *hub, nv_sas *sas, nv_auth_policy *check)
{
    nv_sas_fault fault = nv_sas_parse(check->token, sas);
    if (fault == NV_SAS_NONE) {
        fault = nv_sas_check_expiry(sas, now_s(hub), hub->limits.sas_clock_skew_s);
    }
    if (fault == NV_SAS_NONE && sas->policy.len == 0) {
        return refuse(v, NV_REFUSAL_POLICY_RIGHT, "the token is a device's: it names no policy (skn)");
    }
    if (fault == NV_SAS_NONE) {
        fault = nv_sas_check_path(sas, hosts_of(hub), check->resource);
    }
    if (fault != NV_SAS_NONE) {
        return refuse_token(v, hub, sas, fault);
    }
    const nv_policy *policy = policy_of(v, hub, sas);
    if (!policy) {
        return NV_E_UNAUTHORIZED;
    }
    if (!signed_by_policy(sas, policy, check->text_keys)) {
        return refuse(v, NV_REFUSAL_TOKEN_SIGNATURE, "the token names policy \"%s\"", policy->name);
    }
    if ((rights_of(policy) & check->rights) != check->rights) {
        return refuse(v, NV_REFUSAL_POLICY_RIGHT, "policy \"%s\"", policy->name);
    }
    check->granted = rights_of(policy);
    check->expires_wall_us = expires_wall_us(hub, sas);
    return NV_OK;
}

nv_err nv_auth_check_policy(nv_hub *hub, nv_auth_policy *check)
{
    verdict v = {NV_REFUSAL_NONE, check->detail};
    check->detail[0] = '\0';
    check->granted = 0;
    nv_sas sas;
    nv_err err = check_service(&v, hub, &sas, check);
    nv_wipe(&sas, sizeof(sas));
    check->refusal = v.refusal;
    return err;
}

static bool is_key(nv_span text, const nv_key *key)
{
    char memory[NV_BASE64_LEN(NV_KEY_MAX)];
    nv_writer own = nv_writer_of(memory, sizeof(memory));
    nv_base64_encode(nv_span_of(key->bytes, key->len), &own);
    bool same = key->len > 0 && nv_span_eq_secret(text, nv_writer_span(&own));
    nv_wipe(memory, sizeof(memory));
    return same;
}

nv_err nv_auth_check_policy_key(nv_hub *hub, nv_span name, nv_span key, nv_auth_policy *check)
{
    verdict v = {NV_REFUSAL_NONE, check->detail};
    const nv_policy *policy = nv_policies_find(hub->policies, name);
    bool primary = policy && is_key(key, &policy->primary_key);
    bool secondary =
        policy && is_key(key, &policy->secondary_key); /* whatever the first was: it tells nothing by time */
    nv_err err = NV_OK;
    check->detail[0] = '\0';
    check->granted = 0;
    if (!policy) {
        err = refuse(&v, NV_REFUSAL_POLICY_UNKNOWN, "the user is \"%.*s\"", NV_SPAN_ARG(nv_span_first(name, 64)));
    } else if (!primary && !secondary) {
        err = refuse(&v, NV_REFUSAL_TOKEN_SIGNATURE, "the password is no key of policy \"%s\"", policy->name);
    } else {
        check->granted = rights_of(policy) & ~(uint32_t)NV_RIGHT_DEVICE_CONNECT;
        check->expires_wall_us = INT64_MAX;
    }
    check->refusal = v.refusal;
    return err;
}

nv_err nv_auth_service(nv_hub *hub, nv_span token, nv_span resource, uint32_t rights, nv_refusal *refusal,
                       char detail[NV_REFUSAL_DETAIL])
{
    nv_auth_policy check = {.token = token, .resource = resource, .rights = rights};
    nv_err err = NV_E_UNAUTHORIZED;
    if (token.len == 0) {
        verdict v = {NV_REFUSAL_NONE, check.detail};
        err = refuse(&v, NV_REFUSAL_NO_CREDENTIAL, "there is no Authorization header");
        check.refusal = v.refusal;
    } else {
        err = nv_auth_check_policy(hub, &check);
    }
    *refusal = check.refusal;
    memcpy(detail, check.detail, sizeof(check.detail));
    return err;
}

int64_t nv_auth_token_expires_us(const nv_hub *hub, nv_span token)
{
    nv_sas sas;
    int64_t expires_us = nv_sas_parse(token, &sas) == NV_SAS_NONE ? expires_wall_us(hub, &sas) : INT64_MAX;
    nv_wipe(&sas, sizeof(sas));
    return expires_us;
}

bool nv_auth_token_is_policy(nv_span token)
{
    nv_sas sas;
    bool is_policy = nv_sas_parse(token, &sas) == NV_SAS_NONE && sas.policy.len > 0;
    nv_wipe(&sas, sizeof(sas));
    return is_policy;
}
