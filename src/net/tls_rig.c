#include "net/tls_rig.h"

#include "base/diag.h"
#include "support/temp_dir.h"

#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

tls_files tls_shared;

/* ---- what is logged ---- */

static struct {
    pthread_mutex_t lock;
    char text[65536];
    size_t len;
} logged = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void take_line(void *arg, nv_level level, const char *line, size_t len)
{
    (void)arg;
    (void)level;
    pthread_mutex_lock(&logged.lock);
    if (logged.len + len < sizeof(logged.text)) {
        memcpy(logged.text + logged.len, line, len);
        logged.len += len;
        logged.text[logged.len] = '\0';
    }
    pthread_mutex_unlock(&logged.lock);
}

void tls_forget_log(void)
{
    pthread_mutex_lock(&logged.lock);
    logged.len = 0;
    logged.text[0] = '\0';
    pthread_mutex_unlock(&logged.lock);
}

bool tls_was_logged(const char *text)
{
    pthread_mutex_lock(&logged.lock);
    bool found = strstr(logged.text, text) != NULL;
    pthread_mutex_unlock(&logged.lock);
    return found;
}

void tls_expect_logged(const char *text)
{
    if (!tls_was_logged(text)) {
        fail_msg("not logged: %s; but: %s", text, logged.text);
    }
}

/* ---- fixture ---- */

static void write_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    (void)fputs(text, file);
    (void)fclose(file);
}

int tls_make_shared(void **state)
{
    (void)state;
    char why[NV_PKI_WHY_SIZE];
    temp_dir_make(tls_shared.root, sizeof(tls_shared.root), NULL);
    (void)snprintf(tls_shared.dir, sizeof(tls_shared.dir), "%s/tls", tls_shared.root);
    nv_pki_config config = {.dir = tls_shared.dir};
    if (nv_pki_open(&config, &tls_shared.pki, why) != NV_OK ||
        nv_device_cert_new("device-1", 30, NULL, &tls_shared.device) != NV_OK) {
        return -1;
    }
    (void)snprintf(tls_shared.device_pem, sizeof(tls_shared.device_pem), "%s/device.pem", tls_shared.root);
    (void)snprintf(tls_shared.device_key, sizeof(tls_shared.device_key), "%s/device.key", tls_shared.root);
    write_text(tls_shared.device_pem, tls_shared.device.cert_pem);
    write_text(tls_shared.device_key, tls_shared.device.key_pem);
    nv_diag_set_sink(take_line, NULL);
    return 0;
}

int tls_remove_shared(void **state)
{
    (void)state;
    temp_dir_remove(tls_shared.root);
    nv_pki_deinit(&tls_shared.pki);
    nv_device_cert_deinit(&tls_shared.device);
    return 0;
}

nv_tls_server *tls_shared_server(void)
{
    char why[NV_NET_WHY_SIZE] = "";
    nv_tls_server_config config = {
        .cert_file = tls_shared.pki.cert_file, .key_file = tls_shared.pki.key_file, .ca_file = tls_shared.pki.ca_file};
    nv_tls_server *server = NULL;
    if (nv_tls_server_new(&config, &server, why) != NV_OK) {
        fail_msg("%s", why);
    }
    return server;
}

nv_tls_client *tls_shared_client(nv_tls_client_config config)
{
    char why[NV_NET_WHY_SIZE] = "";
    nv_tls_client *client = NULL;
    if (!config.ca_file) {
        config.ca_file = tls_shared.pki.ca_file;
    }
    if (nv_tls_client_new(&config, &client, why) != NV_OK) {
        fail_msg("%s", why);
    }
    return client;
}

void tls_hub_init(tls_hub *t)
{
    hub_init(&t->h);
    t->server = tls_shared_server();
    tls_forget_log();
}

void tls_hub_start(tls_hub *t, unsigned loops, const nv_clock *clock)
{
    hub_start(&t->h, loops, clock, t->server);
}

void tls_hub_stop(tls_hub *t)
{
    hub_stop(&t->h);
    nv_tls_server_free(t->server);
}

/* ---- a client of OpenSSL's own, blocking ---- */

void tls_raw_init(tls_raw *r, const tls_hub *t)
{
    r->fd = dial_tcp("127.0.0.1", hub_port(&t->h));
    r->ctx = SSL_CTX_new(TLS_client_method());
    r->ssl = SSL_new(r->ctx);
    assert_int_equal(SSL_set_fd(r->ssl, r->fd), 1);
}

void tls_raw_deinit(tls_raw *r)
{
    SSL_free(r->ssl);
    SSL_CTX_free(r->ctx);
    (void)close(r->fd);
    ERR_clear_error();
}

void tls_raw_say(tls_raw *r, const char *text)
{
    assert_int_equal(SSL_write(r->ssl, text, (int)strlen(text)), (int)strlen(text));
}

void tls_raw_expect(tls_raw *r, const char *text)
{
    char got[256] = "";
    size_t len = strlen(text);
    for (size_t have = 0; have < len;) {
        int n = SSL_read(r->ssl, got + have, (int)(len - have));
        assert_true(n > 0);
        have += (size_t)n;
    }
    assert_string_equal(got, text);
}
