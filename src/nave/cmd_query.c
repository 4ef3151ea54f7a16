/** `nave query`: all pages of a query over twins (http-hub.md section 11). */
#include "base/alloc.h"
#include "codec/json.h"
#include "nave/client.h"
#include "nave/commands.h"
#include "nave/table.h"

#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

/* What a table shows of whole twins. */
static const char *const twin_columns[] = {"deviceId",         "moduleId", "status", "connectionState",
                                           "lastActivityTime", "version",  "tags"};

typedef struct query {
    nv_client client;
    const char *text; /* body of the request */
    unsigned page;
    struct json_object *rows; /* a table needs them all; JSON goes out page by page */
    size_t count;
} query;

/* ---- tables -------------------------------------------------------------------------------------------------- */

static const char *cell(struct json_object *value)
{
    if (!value) {
        return "";
    }
    return json_object_is_type(value, json_type_string)
               ? json_object_get_string(value)
               : json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
}

static bool is_twin(struct json_object *row)
{
    return nv_json_member(row, "deviceEtag") && nv_json_member(row, "properties");
}

typedef struct columns {
    const char *names[NV_TABLE_COLUMNS]; /* borrowed from the rows */
    size_t count;
    bool more; /* than a table has room for */
} columns;

static bool has_column(const columns *c, const char *name)
{
    for (size_t i = 0; i < c->count; i++) {
        if (strcmp(c->names[i], name) == 0) {
            return true;
        }
    }
    return false;
}

/* Every name that some row has, in the order of their first appearance. */
static void collect_columns(columns *c, struct json_object *row)
{
    if (!json_object_is_type(row, json_type_object)) {
        return;
    }
    json_object_object_foreach(row, name, value)
    {
        (void)value;
        if (has_column(c, name)) {
            continue;
        }
        if (c->count < NV_TABLE_COLUMNS) {
            c->names[c->count++] = name;
        } else {
            c->more = true;
        }
    }
}

static void choose_columns(columns *c, struct json_object *rows)
{
    size_t count = json_object_array_length(rows);
    bool modules = count > 0 && nv_json_member(json_object_array_get_idx(rows, 0), "moduleId");
    if (count > 0 && is_twin(json_object_array_get_idx(rows, 0))) {
        for (size_t i = 0; i < NV_COUNT_OF(twin_columns); i++) {
            if (modules || strcmp(twin_columns[i], "moduleId") != 0) {
                c->names[c->count++] = twin_columns[i];
            }
        }
        return;
    }
    for (size_t i = 0; i < count; i++) {
        collect_columns(c, json_object_array_get_idx(rows, i));
    }
}

static void print_table(struct json_object *rows)
{
    columns c = {.count = 0};
    choose_columns(&c, rows);
    if (c.count == 0) {
        return;
    }
    nv_table table;
    nv_table_init(&table, c.names, c.count);
    for (size_t i = 0; i < json_object_array_length(rows); i++) {
        for (size_t j = 0; j < c.count; j++) {
            struct json_object *value = nv_json_member(json_object_array_get_idx(rows, i), c.names[j]);
            bool never = value && strcmp(c.names[j], "lastActivityTime") == 0 && strncmp(cell(value), "0001-", 5) == 0;
            nv_table_add(&table, never ? "never" : cell(value));
        }
    }
    nv_table_finish(&table, stdout);
    if (c.more) {
        fputs("nave: there are more columns; -o json shows all\n", stderr);
    }
}

/* ---- pages --------------------------------------------------------------------------------------------------- */

static void take_page(query *q, struct json_object *page)
{
    size_t count = json_object_is_type(page, json_type_array) ? json_object_array_length(page) : 0;
    for (size_t i = 0; i < count; i++) {
        struct json_object *row = json_object_array_get_idx(page, i);
        if (q->rows) {
            json_object_array_add(q->rows, json_object_get(row));
        } else {
            printf("%s%s", q->count + i > 0 ? ",\n " : "",
                   json_object_to_json_string_ext(row, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
        }
    }
    q->count += count;
}

static int all_pages(query *q)
{
    char *continuation = NULL;
    int code = NV_EXIT_OK;
    bool more = true;
    while (more && code == NV_EXIT_OK) {
        nv_answer answer = {0};
        nv_call call = {
            .method = "POST", .path = "/devices/query", .body = q->text, .continuation = continuation, .page = q->page};
        code = nv_client_must(&q->client, &call, &answer);
        free(continuation);
        continuation = answer.continuation && answer.continuation[0] ? nv_strdup(answer.continuation) : NULL;
        more = continuation != NULL;
        if (code == NV_EXIT_OK) {
            if (!q->rows && q->count == 0) {
                putchar('[');
            }
            take_page(q, answer.body);
        }
        nv_answer_deinit(&answer);
    }
    free(continuation);
    return code;
}

static int run(query *q)
{
    q->rows = q->client.json ? NULL : json_object_new_array();
    int code = all_pages(q);
    if (code == NV_EXIT_OK && q->rows) {
        print_table(q->rows);
    } else if (code == NV_EXIT_OK) {
        puts("]");
    }
    json_object_put(q->rows);
    return code;
}

int nv_cmd_query(const nv_args *args)
{
    query q = {.page = 0};
    const char *page = nv_args_get(args, "page");
    uint64_t number = 0;
    if (page && (!nv_span_to_u64(nv_span_str(page), &number) || number == 0 || number > 1000)) {
        fputs("nave: --page is a number of rows from 1 to 1000\n", stderr);
        return NV_EXIT_USAGE;
    }
    q.page = (unsigned)number;
    struct json_object *body = json_object_new_object();
    json_object_object_add(body, "query", json_object_new_string(args->operands[0]));
    q.text = json_object_to_json_string_ext(body, JSON_C_TO_STRING_PLAIN);
    int code = nv_client_open(&q.client, args);
    if (code == NV_EXIT_OK) {
        code = run(&q);
    }
    nv_client_close(&q.client);
    json_object_put(body);
    return code;
}
