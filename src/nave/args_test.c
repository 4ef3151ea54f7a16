#include "nave/args.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const nv_flag flags[] = {
    {"device", 0, "ID", "a device"},
    {"dev", 'd', NULL, "no value"},
    {NULL, 0, NULL, NULL},
};
static const nv_command commands[] = {
    {"thing", "add", "ID", 1, 2, "Add", "", "  nave thing add x\n", flags, true, false, NULL},
    {"thing", "list", "", 0, 0, "List", "", "  nave thing list\n", NULL, false, false, NULL},
    {"run", NULL, "", 0, 0, "Run", "", "  nave run\n", flags, false, false, NULL},
    {"raw", NULL, "...", 0, NV_ARGS_MAX, "Raw", "", "  nave raw\n", NULL, false, true, NULL},
    {NULL, NULL, NULL, 0, 0, NULL, NULL, NULL, NULL, false, false, NULL},
};

/* Words of a line, what comes of it: "operands|flags" as written by describe(), or the error. */
static void test_lines(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        int code;
        const char *expect;
    } rows[] = {
        {"thing add x", 0, "x"},
        {"thing add x y --dev", 0, "x y dev="},
        {"thing add --device a x", 0, "x device=a"},
        {"thing add --device=a --device=b x", 0, "x device=a device=b"},
        {"thing add --device= x", 0, "x device="},
        {"thing add -o json x", 0, "x output=json"},
        {"thing add -ojson x", 0, "x output=json"},
        {"thing add -- --device", 0, "--device"},
        {"thing add -", 0, "-"},
        {"run -d", 0, "dev="},
        {"raw --anything -x", 0, "--anything -x"},
        {"thing add --help", 0, "help"},
        {"thing add", 2, "ID is missing"},
        {"thing add x y z", 2, "\"z\" is one word too many"},
        {"thing add x --device", 2, "--device needs a value (ID)"},
        {"thing add x --dev=1", 2, "--dev takes no value"},
        {"thing add x --devic=1", 2, "--devic=1 is not a flag of this command"},
        {"thing add x -z", 2, "-z is not a flag of this command"},
        {"thing list --data x", 2, "--data is not a flag of this command"},
        {"thing add x --device --data d", 2, "--device needs a value (ID)"},
        {"thing add x --device=--data", 0, "x device=--data"},
        {"thing add x --device --nothing", 0, "x device=--nothing"},
        {"thing", 2, "\"thing\" needs a verb: add, list"},
        {"thing --dev", 2, "\"thing\" needs a verb: add, list"},
        {"thing rm", 2, "\"thing\" has no \"rm\", but add, list"},
        {"nothing", 2, "there is no command \"nothing\""},
        {"", 2, "a command is missing"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char line[128];
        (void)snprintf(line, sizeof(line), "%s", rows[i].line);
        char program[] = "nave";
        char *argv[16] = {program};
        int argc = 1;
        char *rest = line;
        for (char *word = strsep(&rest, " "); word && *word; word = strsep(&rest, " ")) {
            argv[argc++] = word;
        }
        nv_args args;
        char got[256] = "";
        char why[256] = "";
        int code = nv_args_parse(&args, commands, argc, argv, why, sizeof(why));
        if (code != 0) {
            (void)snprintf(got, sizeof(got), "%s", why);
        } else {
            size_t len = 0;
            for (size_t j = 0; j < args.operand_count; j++) {
                len += (size_t)snprintf(got + len, sizeof(got) - len, "%s%s", len ? " " : "", args.operands[j]);
            }
            for (size_t j = 0; j < args.flag_count; j++) {
                len += (size_t)snprintf(got + len, sizeof(got) - len, "%s%s=%s", len ? " " : "", args.flags[j]->name,
                                        args.values[j]);
            }
            if (args.help) {
                (void)snprintf(got + len, sizeof(got) - len, "help");
            }
        }
        assert_int_equal(code, rows[i].code);
        assert_string_equal(got, rows[i].expect);
    }
}

static void test_last_value_wins(void **state)
{
    (void)state;
    char *argv[] = {(char[]){"nave"}, (char[]){"run"}, (char[]){"--device=a"}, (char[]){"--device=b"}};
    nv_args args;
    char why[64];
    assert_int_equal(nv_args_parse(&args, commands, 4, argv, why, sizeof(why)), 0);
    assert_string_equal(nv_args_get(&args, "device"), "b");
    assert_null(nv_args_get(&args, "dev"));
    size_t at = 0;
    assert_string_equal(nv_args_next(&args, "device", &at), "a");
    assert_string_equal(nv_args_next(&args, "device", &at), "b");
    assert_null(nv_args_next(&args, "device", &at));
}

static void test_too_many_flags(void **state)
{
    (void)state;
    static char words[NV_ARGS_MAX + 3][12];
    char *argv[NV_ARGS_MAX + 3];
    for (int i = 0; i < NV_ARGS_MAX + 3; i++) {
        (void)snprintf(words[i], sizeof(words[i]), "%s", i == 0 ? "nave" : i == 1 ? "run" : "--device=a");
        argv[i] = words[i];
    }
    nv_args args;
    char why[64];
    assert_int_equal(nv_args_parse(&args, commands, NV_ARGS_MAX + 2, argv, why, sizeof(why)), 0);
    assert_int_equal(nv_args_parse(&args, commands, NV_ARGS_MAX + 3, argv, why, sizeof(why)), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_last_value_wins),
        cmocka_unit_test(test_too_many_flags),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
