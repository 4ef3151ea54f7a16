/** The `nave` program: find the command, run it. The hub itself is nave/up.c. */
#include "nave/commands.h"

#include <stdlib.h>
#include <string.h>

static int usage(const nv_args *args, const char *why)
{
    fprintf(stderr, "nave: %s\n", why);
    if (args->noun) {
        const char *verb = args->command ? args->command->verb : NULL;
        fprintf(stderr, "`nave help %s%s%s` says more.\n", args->noun, verb ? " " : "", verb ? verb : "");
    } else {
        fputs("`nave help` lists the commands.\n", stderr);
    }
    return NV_EXIT_USAGE;
}

static bool is_help(const char *word)
{
    return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && is_help(argv[1])) {
        nv_help_overview(stdout, nv_commands);
        return NV_EXIT_OK;
    }
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        return nv_cmd_version(NULL);
    }
    char why[512] = "";
    nv_args args;
    int code = nv_args_parse(&args, nv_commands, argc, argv, why, sizeof(why));
    if (code != NV_EXIT_OK) {
        /* of a noun without its verb: the help of all of them */
        bool is_nouns = !args.command && argc == 3 && is_help(argv[2]);
        return is_nouns && nv_help_words(stdout, nv_commands, argv + 1, 1) == NV_EXIT_OK ? NV_EXIT_OK
                                                                                         : usage(&args, why);
    }
    if (args.help) {
        nv_help_command(stdout, args.command);
        return NV_EXIT_OK;
    }
    code = args.command->run(&args);
    /* A full disk or a closed pipe behind stdout is a failure of the command. */
    if (fflush(stdout) != 0 && code == NV_EXIT_OK) {
        code = NV_EXIT_REFUSED;
    }
    return code;
}
