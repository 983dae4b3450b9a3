/* What a device's tier does to bytes for the host: fill, convert, accumulate, sums of chunks. */
#include <math.h>
#include <string.h>

#include "numbers.h"
#include "offload.h"
#include "plugin/descriptor.h"
#include "plugin/fault.h"
#include "plugin/registry.h"

enum { COUNT = 3001, CHUNK = 1024, LARGEST = 8 };

static const zds_dtype all[] = {ZDS_F32, ZDS_F16, ZDS_BF16, ZDS_F64,
                                ZDS_I8,  ZDS_U8,  ZDS_I32,  ZDS_I64};
static const zds_dtype passed[] = {ZDS_F32, ZDS_F16, ZDS_BF16, ZDS_I8, ZDS_U8};

/* The number as an element of the dtype keeps it, rounded as zds_pass says. */
static double kept(double value, zds_dtype dtype)
{
    unsigned char room[LARGEST];
    if (dtype == ZDS_I8 || dtype == ZDS_U8) {
        const double low = dtype == ZDS_I8 ? -128 : 0, high = dtype == ZDS_I8 ? 127 : 255;
        value = isnan(value) ? 0 : round(value < low ? low : value > high ? high : value);
    }
    number_write(room, dtype, 0, value);
    return number_read(room, dtype, 0);
}

static bool alike(double a, double b)
{
    return number_same(a, b) || (isnan(a) && isnan(b));
}

/* === fill === */

static char *fill_once(const tier *t, const zds_block *block, area *memory, zds_dtype dtype,
                       double value)
{
    enum { FIRST = 3, FILLED = 2500 };
    const uint64_t size = zds_dtype_size(dtype), bytes = COUNT * size;
    memset(memory->data, 0x5c, (size_t)bytes);
    char *fault = tier_put(t, block, 0, memory->data, bytes);
    const zds_fill fill = {.struct_size = sizeof fill,
                           .to = tier_there(block, FIRST * size),
                           .dtype = dtype,
                           .value = value,
                           .count = FILLED};
    zds_event *done = NULL;
    bench_clear(t->b);
    zds_status status = fault ? ZDS_OK : t->ops.fill(t->self, &fill, &done);
    if (!fault)
        fault = tier_finish(t, "fill", status, done);
    if (!fault)
        fault = tier_get(t, block, 0, memory->data, bytes);
    unsigned char room[LARGEST];
    memset(room, 0x5c, sizeof room);
    const double untouched = number_read(room, dtype, 0), wanted = kept(value, dtype);
    for (uint64_t i = 0; i < COUNT && !fault; i++) {
        double got = number_read(memory->data, dtype, i);
        double want = i < FIRST || i >= FIRST + FILLED ? untouched : wanted;
        if (!alike(got, want))
            fault = fault_format("fill of elements %d to %d of %s with %g: element %llu is %.9g, "
                                 "not %.9g",
                                 FIRST, FIRST + FILLED - 1, dtype_name(dtype), value,
                                 (unsigned long long)i, got, want);
    }
    return fault;
}

static char *run_fill(tier *t)
{
    static const double values[] = {0, 1, 7, 1.5, -2.25, 1.0 / 3};
    enum { WHOLE = 3 };
    zds_block block;
    char *fault = tier_take(t, COUNT * LARGEST, &block);
    if (fault)
        return fault;
    area *memory = tier_buffer(COUNT * LARGEST);
    for (size_t d = 0; d < sizeof all / sizeof *all; d++) {
        const bool whole = all[d] >= ZDS_I8;
        for (size_t v = 0; v < (whole ? WHOLE : sizeof values / sizeof *values) && !fault; v++)
            fault = fill_once(t, &block, memory, all[d], values[v]);
    }
    t->ops.free(t->self, &block);
    area_free(memory);
    return fault;
}

/* === convert and accumulate === */

/* Numbers of few bits, odd ones among them. */
static double operand(uint64_t stream, uint64_t i, zds_dtype dtype, bool odd)
{
    static const double odds[] = {-0.0,    INFINITY,     -INFINITY,   NAN,          70000,
                                  -3e38,   0x1p-20,      0x1.01p-24,  1.00390625,   1.01171875,
                                  126.5,   127.5,        254.5,       -128.5,       0x1p-140,
                                  65519.9, 1.0004882812, 1.001464844, 0x1.8000001p0};
    const size_t count = sizeof odds / sizeof *odds;
    const double value = odd && i % 50 < count ? odds[i % 50] : 8 * number_random(stream, i);
    return kept((double)(float)value, dtype);
}

static void write_operand(area *memory, uint64_t stream, zds_dtype dtype, bool odd)
{
    for (uint64_t i = 0; i < COUNT; i++)
        number_write(memory->data, dtype, i, operand(stream, i, dtype, odd));
}

typedef zds_status (*pass_fn)(void *self, const zds_pass *pass, zds_event **done);

/* From the first half of a block to the second, whose content is stream 2 before. */
static char *pass_once(const tier *t, const char *name, pass_fn function, const zds_block *block,
                       area *memory, zds_pass pass, bool odd)
{
    const uint64_t from_bytes = COUNT * zds_dtype_size(pass.from_dtype),
                   to_bytes = COUNT * zds_dtype_size(pass.to_dtype), half = block->bytes / 2;
    write_operand(memory, 1, pass.from_dtype, odd);
    char *fault = tier_put(t, block, 0, memory->data, from_bytes);
    write_operand(memory, 2, pass.to_dtype, false);
    if (!fault)
        fault = tier_put(t, block, half, memory->data, to_bytes);
    zds_event *done = NULL;
    pass.struct_size = sizeof pass;
    pass.from = tier_there(block, 0);
    /* An operand may be given by its address as well. */
    pass.to = (zds_end){.pointer = block->pointer, .offset = half, .device = block->device};
    pass.count = COUNT - 1;
    bench_clear(t->b);
    zds_status status = fault ? ZDS_OK : function(t->self, &pass, &done);
    if (!fault)
        fault = tier_finish(t, name, status, done);
    if (!fault)
        fault = tier_get(t, block, half, memory->data, to_bytes);
    return fault;
}

static char *element_fault(const char *name, const zds_pass *pass, uint64_t i, double got,
                           double want)
{
    return fault_format("%s of %d elements from %s to %s%s: element %llu is %.9g, not %.9g", name,
                        COUNT - 1, dtype_name(pass->from_dtype), dtype_name(pass->to_dtype),
                        pass->add ? ", added" : "", (unsigned long long)i, got, want);
}

static char *each_pair(tier *t, char *(*body)(const tier *t, const zds_block *block, area *memory,
                                              zds_pass pass))
{
    const size_t count = sizeof passed / sizeof *passed;
    zds_block block;
    char *fault = tier_take(t, 2 * ((COUNT * sizeof(float) + 63) / 64 * 64), &block);
    if (fault)
        return fault;
    area *memory = tier_buffer(COUNT * sizeof(float));
    for (size_t i = 0; i < count * count && !fault; i++)
        fault = body(
            t, &block, memory,
            (zds_pass){.from_dtype = passed[i / count], .to_dtype = passed[i % count], .scale = 1});
    t->ops.free(t->self, &block);
    area_free(memory);
    return fault;
}

static char *convert_pair(const tier *t, const zds_block *block, area *memory, zds_pass pass)
{
    char *fault = pass_once(t, "convert", t->ops.convert, block, memory, pass, true);
    for (uint64_t i = 0; i < COUNT && !fault; i++) {
        double got = number_read(memory->data, pass.to_dtype, i);
        double want = i == COUNT - 1 ? operand(2, i, pass.to_dtype, false)
                                     : kept(operand(1, i, pass.from_dtype, true), pass.to_dtype);
        if (!alike(got, want))
            fault = element_fault("convert", &pass, i, got, want);
    }
    return fault;
}

static char *run_convert(tier *t)
{
    return each_pair(t, convert_pair);
}

static char *accumulate_pair(const tier *t, const zds_block *block, area *memory, zds_pass pass)
{
    char *fault = NULL;
    pass.scale = 0.3; /* its fp32 has many bits: product and sum are rounded */
    for (pass.add = 0; pass.add < 2 && !fault; pass.add++) {
        fault = pass_once(t, "accumulate", t->ops.accumulate, block, memory, pass, false);
        for (uint64_t i = 0; i < COUNT && !fault; i++) {
            double got = number_read(memory->data, pass.to_dtype, i);
            double before = operand(2, i, pass.to_dtype, false);
            volatile float product = (float)pass.scale;
            product = product * (float)operand(1, i, pass.from_dtype, false);
            volatile float sum = pass.add ? (float)before + product : product;
            double want = i == COUNT - 1 ? before : kept((double)sum, pass.to_dtype);
            if (!alike(got, want))
                fault = element_fault("accumulate", &pass, i, got, want);
        }
    }
    return fault;
}

static char *run_accumulate(tier *t)
{
    return each_pair(t, accumulate_pair);
}

/* === sums of chunks === */

static double chunk_sum(const void *from, zds_dtype dtype, uint64_t first, uint64_t count)
{
    double lanes[16] = {0};
    for (uint64_t i = 0; i < count; i++) {
        double x = number_read(from, dtype, first + i);
        lanes[i % 16] += x * x;
    }
    for (int half = 8; half; half /= 2)
        for (int k = 0; k < half; k++)
            lanes[k] += lanes[k + half];
    return lanes[0];
}

enum { SEGMENTS = 3, CHUNKS = 4, SUMS_AT = 16384, BAD = 3, BAD_BEFORE = 5 };

static char *sums_once(const tier *t, const zds_block *block, area *memory, zds_dtype dtype)
{
    /* Further apart than a zds_segment is long, as a newer host's are. */
    static const struct {
        zds_segment segment;
        uint64_t more;
    } segments[SEGMENTS] = {{{1, 1500}, 9}, {{1501, 40}, 9}, {{1600, 1024}, 9}};
    static const uint64_t at[BAD] = {0, 1400, 2700}; /* the first and the last are in no segment */
    double got[CHUNKS];
    uint64_t bad = BAD_BEFORE;
    for (uint64_t i = 0; i < COUNT; i++)
        number_write(memory->data, dtype, i, number_random(5, i) * 1.000123);
    number_write(memory->data, dtype, 1520, (double)NAN);
    for (size_t i = 0; i < BAD; i++)
        number_write(memory->data, dtype, at[i], i == 1 ? (double)INFINITY : (double)NAN);
    char *fault = tier_put(t, block, 0, memory->data, COUNT * zds_dtype_size(dtype));
    if (!fault)
        fault = tier_put(t, block, SUMS_AT + sizeof got, &bad, sizeof bad);
    const zds_chunk_sums call = {.struct_size = sizeof call,
                                 .from = tier_there(block, 0),
                                 .dtype = dtype,
                                 .segments = &segments[0].segment,
                                 .segment_stride = sizeof *segments,
                                 .segment_count = SEGMENTS,
                                 .sums = tier_there(block, SUMS_AT),
                                 .non_finite = tier_there(block, SUMS_AT + sizeof got)};
    zds_event *done = NULL;
    bench_clear(t->b);
    zds_status status = fault ? ZDS_OK : t->ops.chunk_sums(t->self, &call, &done);
    if (!fault)
        fault = tier_finish(t, "chunk_sums", status, done);
    if (!fault)
        fault = tier_get(t, block, SUMS_AT, got, sizeof got);
    if (!fault)
        fault = tier_get(t, block, SUMS_AT + sizeof got, &bad, sizeof bad);
    size_t chunk = 0;
    for (size_t s = 0; s < SEGMENTS && !fault; s++)
        for (uint64_t i = 0; i < segments[s].segment.count && !fault; i += CHUNK, chunk++) {
            uint64_t left = segments[s].segment.count - i;
            double want = chunk_sum(memory->data, dtype, segments[s].segment.first + i,
                                    left < CHUNK ? left : CHUNK);
            if (!alike(got[chunk], want))
                fault = fault_format("chunk_sums of %s: chunk %zu is %.17g, not %.17g",
                                     dtype_name(dtype), chunk, got[chunk], want);
        }
    if (!fault && bad != BAD_BEFORE + 2)
        fault = fault_format("chunk_sums of %s: non_finite was %d, 2 elements are not finite, and "
                             "it is %llu",
                             dtype_name(dtype), BAD_BEFORE, (unsigned long long)bad);
    return fault;
}

static char *run_sums(tier *t)
{
    static const zds_dtype floats[] = {ZDS_F32, ZDS_BF16, ZDS_F16};
    zds_block block;
    char *fault = tier_take(t, SUMS_AT + CHUNKS * sizeof(double) + sizeof(uint64_t), &block);
    if (fault)
        return fault;
    area *memory = tier_buffer(COUNT * sizeof(float));
    for (size_t i = 0; i < sizeof floats / sizeof *floats && !fault; i++)
        fault = sums_once(t, &block, memory, floats[i]);
    t->ops.free(t->self, &block);
    area_free(memory);
    return fault;
}

char *offload_fill(bench *b)
{
    return tier_on_device(b, run_fill);
}

char *offload_convert(bench *b)
{
    return tier_on_device(b, run_convert);
}

char *offload_accumulate(bench *b)
{
    return tier_on_device(b, run_accumulate);
}

char *offload_sums(bench *b)
{
    return tier_on_device(b, run_sums);
}
