#include "nave/args.h"

#include <string.h>

static void write_name(FILE *out, const nv_command *command)
{
    fprintf(out, "%s%s%s", command->noun, command->verb ? " " : "", command->verb ? command->verb : "");
}

static int name_width(const nv_command *command)
{
    size_t len =
        strlen(command->noun) + (command->verb ? 1 + strlen(command->verb) : 0) + 1 + strlen(command->operands);
    return (int)len;
}

void nv_help_overview(FILE *out, const nv_command *commands)
{
    fputs("Nave: your own IoT hub.\n\nUsage: nave COMMAND [WORDS] [FLAGS]\n\n", out);
    for (const nv_command *c = commands; c->noun; c++) {
        fputs("  ", out);
        write_name(out, c);
        fprintf(out, " %s%*s%s\n", c->operands, name_width(c) < 26 ? 26 - name_width(c) : 1, "", c->summary);
    }
    fputs("\n`nave help COMMAND` has flags and examples. Exit code: 0 done, 1 refused (stderr says why), 2 usage.\n",
          out);
}

static void write_flags(FILE *out, const nv_flag *flag)
{
    for (; flag && flag->name; flag++) {
        char left[48];
        char letter[8] = "    ";
        if (flag->letter) {
            (void)snprintf(letter, sizeof(letter), "-%c, ", flag->letter);
        }
        (void)snprintf(left, sizeof(left), "%s--%s%s%s", letter, flag->name, flag->value ? " " : "",
                       flag->value ? flag->value : "");
        fprintf(out, "  %-28s %s\n", left, flag->help);
    }
}

void nv_help_command(FILE *out, const nv_command *command)
{
    fputs("Usage: nave ", out);
    write_name(out, command);
    fprintf(out, "%s%s%s\n\n%s.\n", command->operands[0] ? " " : "", command->operands,
            command->flags || command->client ? " [FLAGS]" : "", command->summary);
    if (command->details[0]) {
        fprintf(out, "\n%s\n", command->details);
    }
    if (command->flags || command->client) {
        fputs("\nFlags:\n", out);
        write_flags(out, command->flags);
        write_flags(out, command->client ? nv_client_flags : NULL);
    }
    fprintf(out, "\nExamples:\n%s", command->examples);
}

int nv_help_words(FILE *out, const nv_command *commands, char *const *words, size_t count)
{
    if (count == 0) {
        nv_help_overview(out, commands);
        return NV_EXIT_OK;
    }
    int found = 0;
    for (const nv_command *c = commands; c->noun; c++) {
        if (strcmp(c->noun, words[0]) == 0 && (count == 1 || !c->verb || strcmp(c->verb, words[1]) == 0)) {
            if (found++) {
                fputs("\n", out);
            }
            nv_help_command(out, c);
        }
    }
    return found ? NV_EXIT_OK : NV_EXIT_USAGE;
}

static void write_words(FILE *out, const nv_flag *flag)
{
    for (; flag && flag->name; flag++) {
        fprintf(out, " --%s", flag->name);
    }
}

static void write_verbs(FILE *out, const nv_command *commands, const nv_command *first)
{
    fprintf(out, "    %s) words=\"", first->noun);
    for (const nv_command *c = commands; c->noun; c++) {
        if (c->verb && strcmp(c->noun, first->noun) == 0) {
            fprintf(out, "%s ", c->verb);
        }
    }
    fputs("\" ;;\n", out);
}

static int is_first(const nv_command *commands, const nv_command *command)
{
    for (const nv_command *c = commands; c != command; c++) {
        if (strcmp(c->noun, command->noun) == 0) {
            return 0;
        }
    }
    return 1;
}

void nv_help_completion(FILE *out, const nv_command *commands)
{
    fputs("# bash completion for nave: source <(nave completion bash)\n"
          "_nave() {\n  local cur=${COMP_WORDS[COMP_CWORD]} words=\"\"\n"
          "  if [ \"$COMP_CWORD\" -eq 1 ]; then\n    words=\"",
          out);
    for (const nv_command *c = commands; c->noun; c++) {
        if (is_first(commands, c)) {
            fprintf(out, "%s ", c->noun);
        }
    }
    fputs("\"\n  elif [[ \"$cur\" == -* ]]; then\n    case \"${COMP_WORDS[1]} ${COMP_WORDS[2]}\" in\n", out);
    for (const nv_command *c = commands; c->noun; c++) {
        fprintf(out, "    \"%s %s\"*) words=\"--help", c->noun, c->verb ? c->verb : "");
        write_words(out, c->flags);
        write_words(out, c->client ? nv_client_flags : NULL);
        fputs("\" ;;\n", out);
    }
    fputs("    esac\n  elif [ \"$COMP_CWORD\" -eq 2 ]; then\n    case \"${COMP_WORDS[1]}\" in\n", out);
    for (const nv_command *c = commands; c->noun; c++) {
        if (c->verb && is_first(commands, c)) {
            write_verbs(out, commands, c);
        }
    }
    fputs("    esac\n  fi\n"
          "  if [ -n \"$words\" ]; then\n    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n"
          "  else\n    mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n  fi\n}\ncomplete -F _nave nave\n",
          out);
}
