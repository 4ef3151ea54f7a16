/** `nave consumer-group ...`: readers of the built-in endpoint side by side, each with a position of its own. */
#include "codec/json.h"
#include "nave/client.h"
#include "nave/commands.h"
#include "nave/table.h"

#include <json-c/json.h>
#include <stdlib.h>

static char *path_of(const char *name)
{
    return nv_path_of("nave/v1/consumer-groups", name, NULL, "");
}

int nv_cmd_group_add(const nv_args *args)
{
    const char *name = args->operands[0];
    nv_client client = {0};
    nv_answer answer = {0};
    char *path = path_of(name);
    int code = nv_client_open(&client, args);
    if (code == NV_EXIT_OK) {
        code = nv_client_do(&client, "PUT", path, "{}", NULL, &answer);
    }
    if (code == NV_EXIT_OK && client.json) {
        nv_print_json(answer.body);
    } else if (code == NV_EXIT_OK) {
        fprintf(stderr, "consumer group %s %s\n", nv_json_text(answer.body, "name"),
                answer.status == 201 ? "is made" : "was there already");
    }
    free(path);
    nv_answer_deinit(&answer);
    nv_client_close(&client);
    return code;
}

static void print_table(struct json_object *groups)
{
    static const char *const headings[] = {"name", "created"};
    nv_table table;
    nv_table_init(&table, headings, NV_COUNT_OF(headings));
    size_t count = json_object_is_type(groups, json_type_array) ? json_object_array_length(groups) : 0;
    for (size_t i = 0; i < count; i++) {
        struct json_object *group = json_object_array_get_idx(groups, i);
        nv_table_add(&table, nv_json_text(group, "name"));
        nv_table_add(&table, nv_json_text(group, "createdTime"));
    }
    nv_table_finish(&table, stdout);
}

int nv_cmd_group_list(const nv_args *args)
{
    nv_client client = {0};
    nv_answer answer = {0};
    int code = nv_client_open(&client, args);
    if (code == NV_EXIT_OK) {
        code = nv_client_do(&client, "GET", "/nave/v1/consumer-groups", NULL, NULL, &answer);
    }
    if (code == NV_EXIT_OK) {
        struct json_object *groups = nv_json_member(answer.body, "consumerGroups");
        if (client.json) {
            nv_print_json(groups);
        } else {
            print_table(groups);
        }
    }
    nv_answer_deinit(&answer);
    nv_client_close(&client);
    return code;
}

int nv_cmd_group_rm(const nv_args *args)
{
    nv_client client = {0};
    nv_answer answer = {0};
    char *path = path_of(args->operands[0]);
    int code = nv_client_open(&client, args);
    if (code == NV_EXIT_OK) {
        code = nv_client_do(&client, "DELETE", path, NULL, NULL, &answer);
    }
    free(path);
    nv_answer_deinit(&answer);
    nv_client_close(&client);
    return code;
}
