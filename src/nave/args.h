/**
 * The command line: one table of commands gives parsing, help and shell completion. `nave NOUN [VERB] OPERAND...
 * --flag value`, flags anywhere, `--flag=value` too, `--` ends them.
 */
#ifndef NV_NAVE_ARGS_H
#define NV_NAVE_ARGS_H

#include "base/attrs.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/** Exit codes of every command (design.md section 5). */
enum { NV_EXIT_OK = 0, NV_EXIT_REFUSED = 1, NV_EXIT_USAGE = 2 };

/** A flag; tables end with a NULL name. */
typedef struct nv_flag {
    const char *name;  /* "device", given as --device */
    char letter;       /* 'o' for -o, or 0 */
    const char *value; /* what stands in help: "ID"; NULL: the flag has no value */
    const char *help;
} nv_flag;

#define NV_ARGS_MAX 64

typedef struct nv_args nv_args;
typedef struct nv_command nv_command;

struct nv_command {
    const char *noun;
    const char *verb;     /* NULL: the noun alone is the command */
    const char *operands; /* "ID", "[ID]..."; "" = none */
    size_t min_operands;
    size_t max_operands;
    const char *summary;  /* one line */
    const char *details;  /* more lines, or "" */
    const char *examples; /* lines */
    const nv_flag *flags; /* NULL: none */
    bool client;          /* takes the flags that say which hub, and -o */
    bool raw;             /* everything behind the noun goes to run unparsed, in args->operands */
    int (*run)(const nv_args *args);
};

struct nv_args {
    const nv_command *command;
    const char *noun; /* also when it has no such verb; NULL: there is none of that name */
    const nv_flag *flags[NV_ARGS_MAX];
    const char *values[NV_ARGS_MAX]; /* "" for a flag without value */
    size_t flag_count;
    char *operands[NV_ARGS_MAX]; /* borrowed from argv */
    size_t operand_count;
    bool help;
};

/** The commands, ending with a NULL noun. */
extern const nv_command nv_commands[];
/** Flags of every command with .client. */
extern const nv_flag nv_client_flags[];

/**
 * Find the command and parse the rest. @return NV_EXIT_OK, or NV_EXIT_USAGE with one sentence in @p why.
 */
int nv_args_parse(nv_args *out, const nv_command *commands, int argc, char **argv, char *why, size_t why_size);

/** The last value of a flag, or NULL. Flags without value: "". */
const char *nv_args_get(const nv_args *args, const char *flag);
/** All values: start with *at = 0. NULL at the end. */
const char *nv_args_next(const nv_args *args, const char *flag, size_t *at);
bool nv_args_has(const nv_args *args, const char *flag);

/** All commands, one line each. */
void nv_help_overview(FILE *out, const nv_command *commands);
void nv_help_command(FILE *out, const nv_command *command);
/** Help for the words after `nave help`. @return an exit code */
int nv_help_words(FILE *out, const nv_command *commands, char *const *words, size_t count);
/** A completion script for bash. */
void nv_help_completion(FILE *out, const nv_command *commands);

#endif
