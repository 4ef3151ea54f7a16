/**
 * For tests: one hub and one connection to its service API, requests on it, and what is expected of the answers. The
 * answer of the last request stands in nv_rig_said.
 */
#ifndef NV_SESSION_HTTP_RIG_ASK_H
#define NV_SESSION_HTTP_RIG_ASK_H

#include "session/http_rig.h"

#define NV_RIG_V "?api-version=2021-04-12"

extern nv_rig_hub nv_rig_on;
extern nv_rig nv_rig_line;
extern nv_answer nv_rig_said;
/** The Authorization of the next requests. */
extern char nv_rig_token[1024];

/** For cmocka: make and unmake the three. */
int nv_rig_setup(void **state);
int nv_rig_teardown(void **state);
/** The same with a device "d" in the hub; the token is a service's. */
int nv_rig_setup_device(void **state);
/** Of the three the hub alone. */
int nv_rig_setup_hub(void **state);
int nv_rig_teardown_hub(void **state);

/** What goes to nv_rig_token. */
void nv_use_token(const char *text);
void nv_use_policy(const char *policy);
/** If-Match of the next request only. */
void nv_use_if_match(const char *value);
/** Further header lines of the next request only, each with CRLF. */
void nv_use_headers(const char *lines);

/** Send one request; do not wait. @p body may be NULL. */
void nv_ask_only(const char *method, const char *target, const char *body);
/** Wait for its answer, which has the form that every answer has. @return the status */
unsigned nv_hear(void);
unsigned nv_ask(const char *method, const char *target, const char *body);
void nv_expect(const char *method, const char *target, const char *body, unsigned status);
/** An error in shape E1, which Node and C# understand. */
void nv_expect_error(const char *method, const char *target, const char *body, unsigned status, const char *name);
/** The last answer is an error in shape E3, as of methods. */
void nv_said_e3(unsigned status, const char *name, unsigned number);

/** The value at a dotted path of the last answer, numbers for elements of arrays. Static storage, a few at a time. */
const char *nv_said_at(const char *path);

/** Wait until what was asked before has found what it looks for in the store: reads are answered in order. */
void nv_settle(void);

/** PUT a device as iothubowner, whose token stays in use. @p body NULL: {} */
void nv_make_device(const char *id, const char *body);
void nv_make_module(const char *device, const char *module);

#endif
