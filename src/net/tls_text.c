/* Failed handshakes in words that name the cause and the cure. */
#include "net/tls_impl.h"

#include <openssl/err.h>
#include <openssl/sslerr.h>
#include <stdio.h>

typedef struct explanation {
    int reason; /* of OpenSSL's ssl library */
    const char *text;
    bool names_ca;
} explanation;

static const explanation explanations[] = {
    {SSL_R_TLSV1_ALERT_UNKNOWN_CA, "the client does not trust our certificate (alert unknown_ca)", true},
    {SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN, "the client does not accept our certificate (alert certificate_unknown)",
     true},
    {SSL_R_SSLV3_ALERT_BAD_CERTIFICATE,
     "the client does not accept our certificate (alert bad_certificate): it does not trust our CA, or connects by a "
     "name that the certificate does not have",
     true},
    {SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED,
     "the client says that our certificate has expired: compare its clock with ours", false},
    {SSL_R_TLSV1_ALERT_DECRYPT_ERROR, "the client could not verify our signature (alert decrypt_error)", false},
    {SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE,
     "the client found nothing in common with us (alert handshake_failure): compare TLS versions and ciphers", false},
    {SSL_R_HTTP_REQUEST, "plain HTTP on a TLS port: the client must use https", false},
    {SSL_R_WRONG_VERSION_NUMBER, "what came is not TLS: the client must use TLS on this port", false},
    {SSL_R_UNSUPPORTED_PROTOCOL, "no shared TLS version: the client offers nothing as new as we ask for (TLS 1.2)",
     false},
    {SSL_R_VERSION_TOO_LOW, "no shared TLS version: the client offers nothing as new as we ask for (TLS 1.2)", false},
    {SSL_R_TLSV1_ALERT_PROTOCOL_VERSION, "no shared TLS version: the client refuses ours (alert protocol_version)",
     false},
    {SSL_R_NO_SHARED_CIPHER,
     "no shared cipher: the client offers none of those allowed here; for an old modem name more in tls.ciphers",
     false},
    {SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM,
     "no shared signature algorithm: the client cannot verify our kind of certificate (ECDSA unless you gave your "
     "own)",
     false},
    {SSL_R_EXCESSIVE_MESSAGE_SIZE, "the client's certificate chain is longer than accepted (16 KiB)", false},
    {SSL_R_BAD_SIGNATURE, "the client did not prove the key of its certificate", false},
};

static const explanation *find(unsigned long error)
{
    for (size_t i = 0; i < NV_COUNT_OF(explanations); i++) {
        if (error && ERR_GET_LIB(error) == ERR_LIB_SSL && ERR_GET_REASON(error) == explanations[i].reason) {
            return &explanations[i];
        }
    }
    return NULL;
}

void nv_tls_explain(unsigned long error, const char *cause, const char *ca_file, char *out, size_t size)
{
    const explanation *known = find(error);
    if (known && known->names_ca && ca_file) {
        (void)snprintf(out, size, "%s; give it our CA file %s", known->text, ca_file);
    } else if (known) {
        (void)snprintf(out, size, "%s", known->text);
    } else if (error) {
        const char *reason = ERR_reason_error_string(error);
        (void)snprintf(out, size, "TLS handshake failed: %s", reason ? reason : cause);
    } else {
        /* No alert: many small clients just hang up on a certificate that they do not trust. */
        (void)snprintf(out, size, "TLS handshake not finished: %s; if the client does not trust us, give it %s%s",
                       cause, ca_file ? "our CA file " : "our CA", ca_file ? ca_file : "");
    }
}
