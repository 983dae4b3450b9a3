/* Counts and bytes on a command line: units, decimals, exponents; what is none. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "common/args.h"

/* What the option takes from `text`; -1: it is refused. */
static int64_t read_as(args_type type, const char *text)
{
    int64_t value = -1;
    args_option option = {
        .name = "n", .type = type, .value = &value, .meta = "N", .doc = "a number"};
    const args_program program = {
        .usage = "", .doc = "", .options = &option, .option_count = 1, .max_words = 0};
    char line[64];
    char *argv[] = {"program", line, NULL};
    snprintf(line, sizeof line, "-n=%s", text);
    return args_parse(&program, 2, argv, NULL) == ARGS_GO ? value : -1;
}

Test(args, counts)
{
    static const struct {
        const char *text;
        int64_t wants;
    } cases[] = {{"0", 0},
                 {"1000", 1000},
                 {"+5", 5},
                 {"64k", 64000},
                 {"64K", 64000},
                 {"64Ki", 65536},
                 {"64mi", 64ll << 20},
                 {"3M", 3000000},
                 {"3G", 3000000000},
                 {"2T", 2000000000000},
                 {"2Ti", 2ll << 40},
                 {"7B", 7000000000}, /* as parameters are counted */
                 {"1.5B", 1500000000},
                 {"7e9", 7000000000},
                 {"7E+9", 7000000000},
                 {"1.25e3", 1250},
                 {"12500e-2", 125},
                 {"0.5Mi", 1ll << 19},
                 {"0.7M", 700000}, /* a double times a million is 699999.99 */
                 {"1_000_000", -1},
                 {"9223372036854775807", INT64_MAX},
                 {"9223372036854775808", -1},
                 {"9e18", 9000000000000000000},
                 {"1e19", -1},
                 {"1e999999999999", -1},
                 {"1e-999999999999", -1},
                 {"0e999999999999", 0},
                 {"0.1", -1},
                 {"0.3Ki", -1},
                 {"1.5e", -1},
                 {"1e5.5", -1},
                 {".5k", 500},
                 {"5.k", 5000},
                 {".", -1},
                 {"", -1},
                 {"-1", -1},
                 {" 1", -1},
                 {"1 ", -1},
                 {"1kB", -1},
                 {"1KiB", -1},
                 {"k", -1},
                 {"0x10", -1},
                 {"nan", -1},
                 {"inf", -1},
                 {"11111111111111111111111111111111111111111111111111", -1},
                 {"1000000000000000000000000000000e-30", 1},
                 {"0.00000000000000000000000000000000000001e38", 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        cr_expect_eq(read_as(ARGS_COUNT, cases[i].text), cases[i].wants, "%s is %lld",
                     cases[i].text, (long long)read_as(ARGS_COUNT, cases[i].text));
}

Test(args, bytes)
{
    static const struct {
        const char *text;
        int64_t wants;
    } cases[] = {{"1000", 1000},        {"7B", 7},
                 {"40GiB", 40ll << 30}, {"40Gi", 40ll << 30},
                 {"40GB", 40000000000}, {"40G", 40000000000},
                 {"40gb", 40000000000}, {"1.5TiB", 3ll << 39},
                 {"0.5kB", 500},        {"2e9", 2000000000},
                 {"2e9B", 2000000000},  {"1iB", -1},
                 {"19.4MiB", 20342374}, {"0.001B", -1},
                 {"1e-999", -1},        {"0.0", 0},
                 {"1Bi", -1},           {"1GBi", -1},
                 {"40 GiB", -1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        cr_expect_eq(read_as(ARGS_BYTES, cases[i].text), cases[i].wants, "%s is %lld",
                     cases[i].text, (long long)read_as(ARGS_BYTES, cases[i].text));
}
