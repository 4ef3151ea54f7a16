/** `nave twin get|patch|replace`: twins over the public REST API (http-hub.md section 8). */
#include "nave/client.h"
#include "nave/commands.h"
#include "nave/input.h"

#include <stdlib.h>
#include <string.h>

/* A twin is a document: JSON unless a table is asked for. */
static void print_twin(const nv_args *args, struct json_object *twin)
{
    const char *output = nv_args_get(args, "output");
    if (output && strcmp(output, "table") == 0) {
        nv_print_members(twin);
    } else {
        nv_print_json(twin);
    }
}

/* "*" and "" stay; anything else is put into the quotes that HTTP wants. */
static const char *quoted(const char *etag, char out[256])
{
    if (!etag) {
        return NULL;
    }
    bool bare = etag[0] != '"' && strcmp(etag, "*") != 0;
    (void)snprintf(out, 256, bare ? "\"%s\"" : "%s", etag);
    return out;
}

static int run(const nv_args *args, const char *method, const char *body)
{
    char etag[256];
    nv_client client = {0};
    nv_answer answer = {0};
    char *path = nv_path_of("twins", args->operands[0], nv_args_get(args, "module"), "");
    int code = nv_client_open(&client, args);
    if (code == NV_EXIT_OK) {
        code = nv_client_do(&client, method, path, body, quoted(nv_args_get(args, "if-match"), etag), &answer);
    }
    if (code == NV_EXIT_OK) {
        print_twin(args, answer.body);
    }
    free(path);
    nv_answer_deinit(&answer);
    nv_client_close(&client);
    return code;
}

static int change(const nv_args *args, const char *method)
{
    nv_buf body;
    int code = nv_input_read_json(args->operands[1], &body);
    if (code == NV_EXIT_OK) {
        code = run(args, method, nv_input_text(&body));
    }
    nv_buf_deinit(&body);
    return code;
}

int nv_cmd_twin_get(const nv_args *args)
{
    return run(args, "GET", NULL);
}

int nv_cmd_twin_patch(const nv_args *args)
{
    return change(args, "PATCH");
}

int nv_cmd_twin_replace(const nv_args *args)
{
    return change(args, "PUT");
}
