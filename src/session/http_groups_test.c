/** Consumer groups over REST. */
#include "core/event_hub.h"
#include "session/http_rig_ask.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#define GROUPS "/nave/v1/consumer-groups"

static void groups_come_and_go(void **state)
{
    (void)state;
    nv_use_policy("service");
    nv_expect("GET", GROUPS, NULL, 200);
    assert_string_equal(nv_said_at("eventHub"), "hub");
    assert_string_equal(nv_said_at("consumerGroups.0.name"), "$Default");
    assert_string_equal(nv_said_at("consumerGroups.1"), "(null)");
    nv_expect("PUT", GROUPS "/Web", NULL, 201);
    assert_string_equal(nv_said_at("name"), "Web");
    nv_expect("PUT", GROUPS "/web", "{}", 200);
    nv_expect("PUT", GROUPS "/archive", "{\"name\":\"archive\"}", 201);
    nv_expect("GET", GROUPS "/WEB", NULL, 200);
    assert_string_equal(nv_said_at("name"), "Web");
    assert_true(strlen(nv_said_at("createdTime")) > 20);
    nv_expect("GET", GROUPS "/%24default", NULL, 200);
    assert_string_equal(nv_said_at("name"), "$Default");
    nv_expect("GET", GROUPS, NULL, 200);
    assert_string_equal(nv_said_at("consumerGroups.1.name"), "archive");
    assert_string_equal(nv_said_at("consumerGroups.2.name"), "Web");
    nv_expect("DELETE", GROUPS "/WEB", NULL, 204);
    nv_expect("DELETE", GROUPS "/web", NULL, 404);
    assert_string_equal(nv_said_at("Message"), "There is no consumer group of this name");
    nv_expect("GET", GROUPS "/web", NULL, 404);
    nv_expect("GET", "/nave/v1/hub", NULL, 200);
    assert_string_equal(nv_said_at("eventHub"), "hub");
}

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    nv_use_policy("service");
    nv_expect("DELETE", GROUPS "/$Default", NULL, 400);
    assert_non_null(strstr(nv_said_at("Message"), "cannot be deleted"));
    nv_expect("PUT", GROUPS "/$Default", NULL, 200);
    nv_expect("PUT", GROUPS "/a%20b", NULL, 400);
    assert_non_null(strstr(nv_said_at("Message"), "letters, digits"));
    nv_expect("POST", GROUPS "/web", "{}", 405);
    nv_expect("PUT", GROUPS "/web/more", "{}", 404);
    nv_use_policy("registryReadWrite"); /* lacks ServiceConnect */
    nv_expect("GET", GROUPS, NULL, 401);
    nv_expect("PUT", GROUPS "/web", NULL, 401);
    assert_false(nv_group_exists(nv_rig_on.hub, nv_span_str("web")));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, nv_rig_setup, nv_rig_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(groups_come_and_go), TEST(what_cannot_be_is_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
