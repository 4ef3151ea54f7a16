#include "nave/input.h"

#include "codec/json.h"
#include "nave/args.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define JSON_VALUES_MAX 1000000u

static int refuse(const char *name, const char *why)
{
    fprintf(stderr, "nave: %s cannot be read: %s\n", name, why);
    return NV_EXIT_REFUSED;
}

static int read_all(FILE *file, const char *name, nv_buf *out)
{
    uint8_t part[16384];
    size_t len = 0;
    while ((len = fread(part, 1, sizeof(part), file)) > 0) {
        if (nv_buf_append(out, nv_span_of(part, len)) != NV_OK) {
            return refuse(name, "it is larger than 8 MiB");
        }
    }
    return ferror(file) ? refuse(name, strerror(errno)) : NV_EXIT_OK;
}

int nv_input_read(const char *word, nv_buf *out)
{
    nv_buf_init(out, NV_INPUT_MAX + 1);
    if (strcmp(word, "-") == 0) {
        return read_all(stdin, "stdin", out);
    }
    if (word[0] != '@') {
        return nv_buf_append_str(out, word) == NV_OK ? NV_EXIT_OK : refuse("the text", "it is larger than 8 MiB");
    }
    FILE *file = fopen(word + 1, "rbe");
    if (!file) {
        return refuse(word + 1, strerror(errno));
    }
    int code = read_all(file, word + 1, out);
    (void)fclose(file);
    return code;
}

int nv_input_read_json(const char *word, nv_buf *out)
{
    nv_buf raw;
    int code = nv_input_read(word, &raw);
    nv_buf_init(out, NV_INPUT_MAX + 1);
    if (code == NV_EXIT_OK && (nv_json_compact(nv_buf_span(&raw), NV_JSON_MAX_DEPTH, JSON_VALUES_MAX, out) != NV_OK ||
                               nv_buf_append(out, nv_span_of("", 1)) != NV_OK)) {
        fprintf(stderr, "nave: \"%.60s\" is not JSON; text needs its own quotes, as in '\"text\"'\n", word);
        code = NV_EXIT_USAGE;
    }
    nv_buf_deinit(&raw);
    return code;
}
