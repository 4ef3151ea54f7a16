#include "nave/args.h"

#include "base/span.h"

#include <stdarg.h>
#include <string.h>

const nv_flag nv_client_flags[] = {
    {"data", 0, "DIR", "data folder of a hub on this machine"},
    {"hub", 0, "STRING", "service connection string of a hub anywhere (else NAVE_CONNECTION_STRING)"},
    {"ca", 0, "FILE", "trusted root of that hub, PEM (else that of the data folder, or the system's)"},
    {"output", 'o', "json|table", "form of the answer on stdout (default: table; twins and methods: json)"},
    {NULL, 0, NULL, NULL},
};

static const nv_flag help_flags[] = {{"help", 'h', NULL, "this text"}, {NULL, 0, NULL, NULL}};

static int refuse(char *why, size_t why_size, const char *fmt, ...) NV_PRINTF(3, 4);
static int refuse(char *why, size_t why_size, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(why, why_size, fmt, args);
    va_end(args);
    return NV_EXIT_USAGE;
}

static const nv_command *find(const nv_command *commands, const char *noun, const char *verb)
{
    for (const nv_command *c = commands; c->noun; c++) {
        if (strcmp(c->noun, noun) == 0 && (!c->verb || (verb && strcmp(c->verb, verb) == 0))) {
            return c;
        }
    }
    return NULL;
}

/* The noun as the table has it and, into @p verbs, "get, patch, replace". @return NULL: there is none */
static const char *find_noun(const nv_command *commands, const char *noun, char *verbs, size_t size)
{
    const char *found = NULL;
    size_t len = 0;
    verbs[0] = '\0';
    for (const nv_command *c = commands; c->noun; c++) {
        if (strcmp(c->noun, noun) == 0 && len < size) {
            int more = snprintf(verbs + len, size - len, "%s%s", found ? ", " : "", c->verb ? c->verb : "");
            len += more > 0 ? (size_t)more : 0;
            found = c->noun;
        }
    }
    return found;
}

static const nv_flag *flag_in(const nv_flag *table, const char *name, size_t len, char letter)
{
    for (; table && table->name; table++) {
        if (letter ? table->letter == letter : strlen(table->name) == len && memcmp(table->name, name, len) == 0) {
            return table;
        }
    }
    return NULL;
}

static const nv_flag *flag_of(const nv_command *command, const char *name, size_t len, char letter)
{
    const nv_flag *flag = flag_in(command->flags, name, len, letter);
    if (!flag && command->client) {
        flag = flag_in(nv_client_flags, name, len, letter);
    }
    return flag ? flag : flag_in(help_flags, name, len, letter);
}

typedef struct parse {
    nv_args *args;
    int argc;
    char **argv;
    int at;
    char *why;
    size_t why_size;
} parse;

static int add_flag(parse *p, const nv_flag *flag, const char *value)
{
    if (flag == &help_flags[0]) {
        p->args->help = true;
        return NV_EXIT_OK;
    }
    if (value[0] == 0 && flag->value && (strcmp(flag->value, "DIR") == 0 || strcmp(flag->value, "FILE") == 0)) {
        return refuse(p->why, p->why_size, "--%s is empty: it needs a value (%s)", flag->name, flag->value);
    }
    if (p->args->flag_count == NV_ARGS_MAX) {
        return refuse(p->why, p->why_size, "more than %d flags", NV_ARGS_MAX);
    }
    p->args->flags[p->args->flag_count] = flag;
    p->args->values[p->args->flag_count++] = value;
    return NV_EXIT_OK;
}

/* A value that is one of the command's own long flags is a value forgotten; --name=--value says otherwise. */
static bool is_flag(const parse *p, const char *word)
{
    return strncmp(word, "--", 2) == 0 && word[2] && flag_of(p->args->command, word + 2, strcspn(word + 2, "="), 0);
}

/* argv[at] begins with '-': "--name", "--name=value", "-o", "-ovalue". */
static int parse_flag(parse *p)
{
    const char *word = p->argv[p->at];
    bool is_long = word[1] == '-';
    const char *name = word + (is_long ? 2 : 1);
    size_t len = is_long ? strcspn(name, "=") : 1;
    const nv_flag *flag = flag_of(p->args->command, name, len, is_long ? 0 : *name);
    if (!flag) {
        return refuse(p->why, p->why_size, "%s is not a flag of this command", word);
    }
    const char *inline_value = is_long ? (name[len] == '=' ? name + len + 1 : NULL) : (name[1] ? name + 1 : NULL);
    if (!flag->value) {
        return inline_value ? refuse(p->why, p->why_size, "--%s takes no value", flag->name) : add_flag(p, flag, "");
    }
    if (inline_value) {
        return add_flag(p, flag, inline_value);
    }
    if (p->at + 1 >= p->argc || is_flag(p, p->argv[p->at + 1])) {
        return refuse(p->why, p->why_size, "--%s needs a value (%s)", flag->name, flag->value);
    }
    return add_flag(p, flag, p->argv[++p->at]);
}

static int add_operand(parse *p, char *word)
{
    const nv_command *command = p->args->command;
    if (p->args->operand_count == command->max_operands || p->args->operand_count == NV_ARGS_MAX) {
        return refuse(p->why, p->why_size, "\"%s\" is one word too many", word);
    }
    p->args->operands[p->args->operand_count++] = word;
    return NV_EXIT_OK;
}

static int parse_rest(parse *p)
{
    bool flags_end = p->args->command->raw;
    for (; p->at < p->argc; p->at++) {
        char *word = p->argv[p->at];
        int code = NV_EXIT_OK;
        if (!flags_end && strcmp(word, "--") == 0) {
            flags_end = true;
        } else if (!flags_end && word[0] == '-' && word[1]) {
            code = parse_flag(p);
        } else {
            code = add_operand(p, word);
        }
        if (code != NV_EXIT_OK) {
            return code;
        }
    }
    if (!p->args->help && p->args->operand_count < p->args->command->min_operands) {
        return refuse(p->why, p->why_size, "%s is missing", p->args->command->operands);
    }
    return NV_EXIT_OK;
}

/* A noun without one of its verbs is told which there are. */
static int without_command(nv_args *out, const nv_command *commands, const char *noun, const char *verb, char *why,
                           size_t why_size)
{
    char verbs[128];
    out->noun = find_noun(commands, noun, verbs, sizeof(verbs));
    if (!out->noun) {
        return refuse(why, why_size, "there is no command \"%s\"", noun);
    }
    return verb && verb[0] != '-' ? refuse(why, why_size, "\"%s\" has no \"%s\", but %s", noun, verb, verbs)
                                  : refuse(why, why_size, "\"%s\" needs a verb: %s", noun, verbs);
}

int nv_args_parse(nv_args *out, const nv_command *commands, int argc, char **argv, char *why, size_t why_size)
{
    memset(out, 0, sizeof(*out));
    if (argc < 2) {
        return refuse(why, why_size, "a command is missing");
    }
    const char *verb = argc > 2 ? argv[2] : NULL;
    out->command = find(commands, argv[1], verb);
    if (!out->command) {
        return without_command(out, commands, argv[1], verb, why, why_size);
    }
    out->noun = out->command->noun;
    parse p = {out, argc, argv, out->command->verb ? 3 : 2, why, why_size};
    return parse_rest(&p);
}

const char *nv_args_next(const nv_args *args, const char *flag, size_t *at)
{
    while (*at < args->flag_count) {
        size_t i = (*at)++;
        if (strcmp(args->flags[i]->name, flag) == 0) {
            return args->values[i];
        }
    }
    return NULL;
}

const char *nv_args_get(const nv_args *args, const char *flag)
{
    const char *last = NULL;
    size_t at = 0;
    for (const char *value = nv_args_next(args, flag, &at); value; value = nv_args_next(args, flag, &at)) {
        last = value;
    }
    return last;
}

bool nv_args_has(const nv_args *args, const char *flag)
{
    return nv_args_get(args, flag) != NULL;
}
