/* For unit tests of plugins: loads one as the core does, but alone, with a host that remembers what
 * was asked of it. Included by one file a program. */
#ifndef TESTS_PLUGIN_HARNESS_H
#define TESTS_PLUGIN_HARNESS_H

#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <unistd.h>

#include "plugin/options.h"
#include "zds/plugin.h"

#define HARNESS_FN static __attribute__((unused))

/* === the host === */

typedef struct harness {
    zds_host host;
    char error[1024]; /* the last failure's text */
    char logged[1024];
    int failures, live; /* calls of fail; allocations not freed */
} harness;

HARNESS_FN __attribute__((format(printf, 3, 4))) zds_status harness_fail(const zds_host *host,
                                                                         zds_status status,
                                                                         const char *format, ...)
{
    harness *h = host->context;
    va_list args;
    va_start(args, format);
    vsnprintf(h->error, sizeof h->error, format, args);
    va_end(args);
    h->failures++;
    return status;
}

HARNESS_FN __attribute__((format(printf, 3, 4))) void harness_log(const zds_host *host,
                                                                  int32_t level, const char *format,
                                                                  ...)
{
    harness *h = host->context;
    va_list args;
    (void)level;
    va_start(args, format);
    vsnprintf(h->logged, sizeof h->logged, format, args);
    va_end(args);
}

HARNESS_FN void *harness_alloc(const zds_host *host, size_t bytes, size_t align)
{
    harness *h = host->context;
    size_t unit = align ? align : 64;
    size_t rounded = (bytes + unit - 1) / unit * unit;
    void *p = aligned_alloc(unit, rounded ? rounded : unit);
    cr_assert_not_null(p);
    memset(p, 0, rounded);
    h->live++;
    return p;
}

HARNESS_FN void *harness_alloc_in(const zds_host *host, zds_device device, size_t bytes,
                                  size_t align)
{
    return device.space == ZDS_SPACE_HOST ? harness_alloc(host, bytes, align) : NULL;
}

HARNESS_FN void harness_free(const zds_host *host, void *pointer)
{
    harness *h = host->context;
    h->live -= pointer != NULL;
    free(pointer);
}

HARNESS_FN void harness_parallel_for(const zds_host *host, size_t n,
                                     void (*body)(void *arg, size_t i), void *arg)
{
    (void)host;
    for (size_t i = 0; i < n; i++)
        body(arg, i);
}

HARNESS_FN void harness_init(harness *h)
{
    *h = (harness){.host = {.struct_size = sizeof h->host,
                            .abi_minor = ZDS_ABI_MINOR,
                            .threads = 1,
                            .context = h,
                            .log = harness_log,
                            .fail = harness_fail,
                            .alloc = harness_alloc,
                            .free = harness_free,
                            .parallel_for = harness_parallel_for,
                            .alloc_in = harness_alloc_in}};
}

/* === loading === */

/* `file`: "optim_adamw"; `name`: as ds_config says it. Stays loaded. */
HARNESS_FN const zds_plugin *plugin_open(const char *file, const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/lib/zds/plugins/%s.so", TEST_BINARY_DIR, file);
    void *so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    cr_assert_not_null(so, "%s", dlerror());
    const zds_plugin *const *list = dlsym(so, "zds_plugin_v1");
    cr_assert_not_null(list, "%s exports no zds_plugin_v1", path);
    for (; *list; list++)
        if (strcasecmp((*list)->name, name) == 0)
            return *list;
    cr_assert_fail("%s has no plugin %s", path, name);
    return NULL;
}

HARNESS_FN void option_problem(void *user, const char *key, const char *message)
{
    (void)user;
    cr_assert_fail("option %s %s", key, message);
}

/* The options struct for JSON text, which must be right; free with options_destroy. */
HARNESS_FN void *options_from(const zds_plugin *plugin, const char *json)
{
    cJSON *tree = cJSON_Parse(json);
    cr_assert_not_null(tree, "not JSON: %s", json);
    void *options = options_create(plugin, tree, option_problem, NULL);
    cJSON_Delete(tree);
    cr_assert_not_null(options);
    return options;
}

/* === memory with guards === */

typedef struct guarded {
    void *map, *data;
    size_t map_bytes;
} guarded;

/* Zeroed bytes whose end (`at_end`) or beginning touches a page that faults. */
HARNESS_FN guarded guarded_alloc(size_t bytes, bool at_end)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), inner = (bytes + page - 1) / page * page;
    guarded g = {.map_bytes = inner + 2 * page};
    g.map = mmap(NULL, g.map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert(g.map != MAP_FAILED);
    char *start = (char *)g.map + page;
    cr_assert(inner == 0 || mprotect(start, inner, PROT_READ | PROT_WRITE) == 0);
    g.data = at_end ? start + inner - bytes : start;
    return g;
}

HARNESS_FN void guarded_free(guarded *g)
{
    munmap(g->map, g->map_bytes);
}

/* === numbers === */

/* x rounded to nearest even with `bits` bits of fraction and exponents of at least `least`. */
HARNESS_FN double round_to(double x, int bits, int least, double largest)
{
    if (x == 0 || !isfinite(x))
        return x;
    int exponent = ilogb(x) < least ? least : ilogb(x);
    double unit = ldexp(1, exponent - bits), rounded = nearbyint(x / unit) * unit;
    return fabs(rounded) > largest ? copysign(INFINITY, x) : rounded;
}

/* What storing x as `dtype` keeps of it. */
HARNESS_FN double round_dtype(double x, zds_dtype dtype)
{
    switch (dtype) {
    case ZDS_F16:
        return round_to(x, 10, -14, 65504);
    case ZDS_BF16:
        return round_to(x, 7, -126, 0x1.fep127);
    default:
        return (double)(float)x;
    }
}

/* Element i of an array, exactly. */
HARNESS_FN double read_at(const void *array, zds_dtype dtype, size_t i)
{
    if (dtype == ZDS_F32)
        return (double)((const float *)array)[i];
    if (dtype == ZDS_U8)
        return ((const uint8_t *)array)[i];
    uint16_t h = ((const uint16_t *)array)[i];
    int fraction_bits = dtype == ZDS_F16 ? 10 : 7, exponent_bits = 15 - fraction_bits;
    int fraction = h & ((1 << fraction_bits) - 1), top = (1 << exponent_bits) - 1;
    int exponent = h >> fraction_bits & top, bias = top / 2;
    double sign = h & 0x8000 ? -1 : 1;
    if (exponent == top)
        return fraction ? NAN : sign * INFINITY;
    if (exponent == 0)
        return sign * ldexp(fraction, 1 - bias - fraction_bits);
    return sign * ldexp(fraction | 1 << fraction_bits, exponent - bias - fraction_bits);
}

/* Writes x, which must not need rounding (see round_dtype), or is NaN. */
HARNESS_FN void write_at(void *array, zds_dtype dtype, size_t i, double x)
{
    if (dtype == ZDS_F32) {
        ((float *)array)[i] = (float)x;
        return;
    }
    if (dtype == ZDS_U8) {
        ((uint8_t *)array)[i] = (uint8_t)x;
        return;
    }
    int fraction_bits = dtype == ZDS_F16 ? 10 : 7, exponent_bits = 15 - fraction_bits;
    int top = (1 << exponent_bits) - 1, bias = top / 2;
    unsigned bits = signbit(x) ? 0x8000u : 0;
    if (isnan(x)) {
        bits |= (unsigned)top << fraction_bits | 1u << (fraction_bits - 1);
    } else if (isinf(x)) {
        bits |= (unsigned)top << fraction_bits;
    } else if (x != 0) {
        int exponent = ilogb(x) < 1 - bias ? 1 - bias : ilogb(x);
        unsigned units = (unsigned)ldexp(fabs(x), fraction_bits - exponent);
        bits |= units + ((unsigned)(exponent + bias - 1) << fraction_bits);
    }
    ((uint16_t *)array)[i] = (uint16_t)bits;
}

/* Repeatable numbers: uniform in [0, 1), and about normal. */
HARNESS_FN double random_uniform(uint64_t *seed)
{
    uint64_t z = (*seed += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

HARNESS_FN double random_normal(uint64_t *seed)
{
    double u = 1 - random_uniform(seed), v = random_uniform(seed);
    return sqrt(-2 * log(u)) * cos(2 * M_PI * v);
}

#endif
