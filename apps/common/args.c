/* Command lines from a table of options. */
#include "common/args.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "zds/zds.h"

int args_wrong(const char *format, ...)
{
    va_list args;
    fprintf(stderr, "%s: ", program_invocation_short_name);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "; see %s --help\n", program_invocation_short_name);
    return 2;
}

static void print_usage(const args_program *program)
{
    const char *line = program->usage, *end;
    const char *lead = "usage:";
    do {
        end = strchr(line, '\n');
        printf("%s %s %.*s\n", lead, program_invocation_short_name,
               (int)(end ? (size_t)(end - line) : strlen(line)), line);
        lead = "      ";
        line = end ? end + 1 : line;
    } while (end);
    printf("\n%s\n\n", program->doc);
    for (size_t i = 0; i < program->option_count; i++) {
        const args_option *option = &program->options[i];
        if (!option->doc)
            continue;
        char left[64];
        snprintf(left, sizeof left, "%s%s %s", option->name[1] ? "--" : "-", option->name,
                 option->meta ? option->meta : "");
        printf("  %-28s %s\n", left, option->doc);
    }
    printf("  %-28s %s\n  %-28s %s\n", "--help", "print this text", "--version",
           "print the version");
}

static bool same_name(const char *given, size_t length, const char *name)
{
    if (strlen(name) != length)
        return false;
    for (size_t i = 0; i < length; i++)
        if ((given[i] == '-' ? '_' : given[i]) != (name[i] == '-' ? '_' : name[i]))
            return false;
    return true;
}

static bool parse_bool(const char *text, bool *value)
{
    static const char *const yes[] = {"true", "1", "yes"}, *const no[] = {"false", "0", "no"};
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) {
        *value = strcasecmp(text, yes[i]) == 0;
        if (*value || strcasecmp(text, no[i]) == 0)
            return true;
    }
    return false;
}

static bool parse_int(const char *text, int64_t *value)
{
    char *end;
    errno = 0;
    *value = strtoll(text, &end, 10);
    return end != text && *end == '\0' && !errno && !isspace((unsigned char)text[0]);
}

/* The factor of a unit in any case: "", k, M, G, T, and Ki, Mi, Gi, Ti; of bytes a B may follow,
 * else B alone is a billion, as parameters are counted. 0: no unit. */
static int64_t unit_factor(const char *unit, bool bytes)
{
    static const char letters[] = "kmgt";
    int64_t factor = 1;
    const char *letter = *unit ? strchr(letters, tolower((unsigned char)*unit)) : NULL;
    if (letter) {
        bool binary = tolower((unsigned char)unit[1]) == 'i';
        for (const char *p = letters; p <= letter; p++)
            factor *= binary ? 1024 : 1000;
        unit += 1 + binary;
    } else if (!bytes && strcasecmp(unit, "b") == 0) {
        return 1000000000;
    }
    return !*unit || (bytes && strcasecmp(unit, "b") == 0) ? factor : 0;
}

/* A whole number that is not negative: digits, a point, an exponent, a unit; exactly, but of bytes
 * parts are cut off. */
static bool parse_count(const char *text, bool bytes, int64_t *value)
{
    enum { FAR = 1000 }; /* more than any number of digits that is left */
    __int128 number = 0;
    bool any = false, point = false, large = false;
    long power = 0;
    const char *p = text + (*text == '+');
    for (; isdigit((unsigned char)*p) || (*p == '.' && !point); p++) {
        point |= *p == '.';
        if (*p == '.')
            continue;
        any = true;
        power -= point;
        large |= __builtin_mul_overflow(number, 10, &number) ||
                 __builtin_add_overflow(number, *p - '0', &number);
    }
    if ((*p == 'e' || *p == 'E') && any) {
        char *end;
        bool digit = isdigit((unsigned char)p[1 + (p[1] == '-' || p[1] == '+')]);
        long exponent = digit ? strtol(p + 1, &end, 10) : 0;
        any = digit;
        power += exponent > FAR ? FAR : exponent < -FAR ? -FAR : exponent;
        p = digit ? end : p;
    }
    int64_t factor = any ? unit_factor(p, bytes) : 0;
    large |= __builtin_mul_overflow(number, factor, &number);
    for (; power > 0 && number && !large; power--)
        large = __builtin_mul_overflow(number, 10, &number);
    bool some = number > 0;
    for (; power < 0 && number && (bytes || number % 10 == 0); power++)
        number /= 10;
    large |= some && !number;
    *value = (int64_t)number;
    return factor && !large && number <= INT64_MAX && (power >= 0 || !number);
}

static bool parse_float(const char *text, double *value)
{
    char *end;
    *value = strtod(text, &end);
    return end != text && *end == '\0' && !isspace((unsigned char)text[0]) && isfinite(*value);
}

/* Stores `text`; returns 0, or 2 after saying what is wrong with it. */
static int store(args_option *option, const char *shown, const char *text)
{
    const char *wanted = NULL;
    bool flag;
    int64_t integer;
    double number;
    switch (option->type) {
    case ARGS_FLAG:
        if (parse_bool(text, &flag))
            *(bool *)option->value = flag;
        else
            wanted = "true or false";
        break;
    case ARGS_STRING:
        *(const char **)option->value = text;
        break;
    case ARGS_INT:
        if (parse_int(text, &integer))
            *(int64_t *)option->value = integer;
        else
            wanted = "an integer";
        break;
    case ARGS_COUNT:
    case ARGS_BYTES:
        if (parse_count(text, option->type == ARGS_BYTES, &integer))
            *(int64_t *)option->value = integer;
        else
            wanted = option->type == ARGS_BYTES ? "bytes such as 1000000, 1.5e9, 500MB or 40GiB"
                                                : "a count such as 1000, 64k, 64Mi or 7e9";
        break;
    case ARGS_FLOAT:
        if (parse_float(text, &number))
            *(double *)option->value = number;
        else
            wanted = "a number";
        break;
    }
    option->given = true;
    return wanted ? args_wrong("%s wants %s, not \"%s\"", shown, wanted, text) : 0;
}

/* Takes the option at argv[*i] and moves *i to the last argument used. */
static int take(const args_program *program, int argc, char **argv, int *i)
{
    char *shown = argv[*i];
    const char *name = shown + (shown[1] == '-' ? 2 : 1);
    char *equals = strchr(name, '=');
    size_t length = equals ? (size_t)(equals - name) : strlen(name);
    for (size_t k = 0; k < program->option_count; k++) {
        args_option *option = &program->options[k];
        if (!same_name(name, length, option->name) || (shown[1] == '-') != (length > 1))
            continue;
        bool ignored;
        const char *text = equals ? equals + 1 : NULL;
        if (!text && option->type == ARGS_FLAG) {
            bool next_is_bool = !program->stop_at_word && *i + 1 < argc &&
                                isalpha((unsigned char)argv[*i + 1][0]) &&
                                parse_bool(argv[*i + 1], &ignored);
            text = next_is_bool ? argv[++*i] : "true";
        } else if (!text && *i + 1 < argc) {
            text = argv[++*i];
        }
        if (!text)
            return args_wrong("%s wants a value", shown);
        if (equals)
            *equals = '\0'; /* so that messages show the name alone */
        return store(option, shown, text);
    }
    return args_wrong("unknown option %.*s", (int)(name - shown + (ptrdiff_t)length), shown);
}

bool args_trust;

int args_parse(const args_program *program, int argc, char **argv, args_words *words)
{
    int count = 0; /* words found so far; they gather at argv[1..count] */
    int i;
    for (i = 1; i < argc; i++) {
        char *arg = argv[i];
        bool number = arg[0] == '-' && (isdigit((unsigned char)arg[1]) || arg[1] == '.');
        if (strcmp(arg, "--") == 0) {
            i++;
            break;
        }
        if (arg[0] != '-' || arg[1] == '\0' || number) {
            if (program->stop_at_word)
                break;
            argv[1 + count++] = arg;
            continue;
        }
        if (strcmp(arg, "--help") == 0) {
            print_usage(program);
            return fflush(stdout) == 0 ? 0 : 1;
        }
        if (strcmp(arg, "--version") == 0) {
            printf("%s %s\n", program_invocation_short_name, zds_version());
            return fflush(stdout) == 0 ? 0 : 1;
        }
        int code = take(program, argc, argv, &i);
        if (code)
            return code;
    }
    for (; i < argc; i++)
        argv[1 + count++] = argv[i];
    if ((size_t)count < program->min_words)
        return args_wrong("an argument is missing");
    if ((size_t)count > program->max_words)
        return args_wrong("\"%s\" is one argument too many", argv[1 + program->max_words]);
    argv[1 + count] = NULL;
    if (args_trust && setenv("ZDS_TRUST_PLUGINS", "1", 1) != 0)
        return args_wrong("--trust_plugins: there is no memory for the environment");
    if (words)
        *words = (args_words){(size_t)count, argv + 1};
    return ARGS_GO;
}
