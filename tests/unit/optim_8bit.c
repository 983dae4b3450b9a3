/* The codes of AdamW8bit against the dynamic map, whose nearest value is searched for here, and
 * which parameters have them. */
#define SIMD_LEVEL 0
#include "optim/adamw/adamw8bit_kernel.c"

#include "optim_harness.h"

/* bitsandbytes' create_dynamic_map: the values in ascending order. */
static void make_map(bool is_signed, double *map)
{
    size_t n = 0;
    double negative[127];
    for (int decade = 0; decade < 7; decade++) {
        int cells = is_signed ? 1 << decade : 2 << decade;
        for (int j = 0; j < cells; j++)
            map[n++] = pow(10, decade - 6) * (0.1 + 0.9 * (j + 0.5) / cells);
    }
    size_t positive = n;
    if (is_signed) {
        memcpy(negative, map, sizeof negative);
        for (size_t i = 0; i < positive; i++)
            map[128 + i] = negative[i];
        for (size_t i = 0; i < positive; i++)
            map[126 - i] = -negative[i];
        map[127] = 0;
    } else {
        memmove(map + 1, map, positive * sizeof *map);
        map[0] = 0;
    }
    map[255] = 1;
}

static float decode(bool is_signed, uint8_t code, float scale)
{
    line l = is_signed ? (line){vec_table_scaled(signed_slope, scale),
                                vec_table_scaled(signed_offset, scale)}
                       : (line){vec_table_scaled(unsigned_slope, scale),
                                vec_table_scaled(unsigned_offset, scale)};
    return is_signed ? signed_value(&code, &l) : unsigned_value(&code, &l);
}

static uint8_t encode_one(bool is_signed, float value, float scale)
{
    classes c[2] = {classes_of(signed_least, signed_scale, scale, 7),
                    classes_of(unsigned_least, unsigned_scale, scale, 8)};
    block b = {.m = {is_signed ? value : 0}, .v = {is_signed ? 0 : value}};
    uint8_t m[BYTES], v[BYTES];
    encode(b.m, b.v, c, m, v);
    return is_signed ? m[0] : v[0];
}

Test(optim_8bit, every_code_is_the_maps_value)
{
    static const float scales[] = {1, 1e-30f, 3.7e-5f, 6e10f};
    for (int is_signed = 0; is_signed < 2; is_signed++) {
        double map[256];
        make_map(is_signed, map);
        for (size_t s = 0; s < 4; s++)
            for (int code = 0; code < 256; code++) {
                double value = map[code] * (double)scales[s];
                double got = (double)decode(is_signed, (uint8_t)code, scales[s]);
                cr_assert(fabs(got - value) <= 2e-6 * fabs(value),
                          "code %d of %s map, scale %g: %.9g, expected %.9g", code,
                          is_signed ? "the signed" : "the unsigned", (double)scales[s], got, value);
            }
    }
}

/* The two values around x, and where x lies between them: 0 to 1. */
static int below(const double *map, double x, double *share)
{
    int i = 0;
    while (i < 254 && map[i + 1] <= x)
        i++;
    *share = (x - map[i]) / (map[i + 1] - map[i]);
    return i;
}

static void check_value(bool is_signed, const double *map, double x, float scale)
{
    float value = (float)(x * (double)scale);
    double share;
    int lower = below(map, (double)value / (double)scale, &share);
    int code = encode_one(is_signed, value, scale);
    int nearest = share < 0.5 ? lower : lower + 1;
    if (fabs(share - 0.5) < 3e-5 && (code == lower || code == lower + 1))
        return;
    cr_assert_eq(code, nearest, "%.9g of %g becomes code %d, expected %d", (double)value,
                 (double)scale, code, nearest);
}

Test(optim_8bit, every_value_goes_to_the_nearest)
{
    static const float scales[] = {1, 1e-30f, 1.99f, 3.7e-5f, 6e10f};
    for (int is_signed = 0; is_signed < 2; is_signed++) {
        double map[256];
        make_map(is_signed, map);
        uint64_t seed = 5;
        for (size_t s = 0; s < 5; s++) {
            for (int i = 0; i < 255; i++) /* around each boundary, and each value itself */
                for (int k = -3; k <= 3; k++) {
                    double middle = (map[i] + map[i + 1]) / 2;
                    check_value(is_signed, map, middle + k * 1e-3 * (map[i + 1] - map[i]),
                                scales[s]);
                    check_value(is_signed, map, map[i], scales[s]);
                }
            for (int i = 0; i < 20000; i++) {
                double x = pow(10, -8 * random_uniform(&seed));
                check_value(is_signed, map, x, scales[s]);
                if (is_signed)
                    check_value(is_signed, map, -x, scales[s]);
            }
            check_value(is_signed, map, 0, scales[s]);
        }
    }
}

/* `states`: [ZDS_MAX_STATES] */
static void describe(const char *options, uint64_t count, int32_t role, zds_param_needs *needs,
                     zds_state_spec *states)
{
    optim o;
    optim_setup s = {.file = "optim_adamw", .name = "AdamW8bit", .options = options};
    cr_assert_eq(optim_try(&o, &s), ZDS_OK);
    zds_param param = {.struct_size = sizeof param, .name = "w", .numel = count, .role = role};
    *needs = (zds_param_needs){.struct_size = sizeof *needs,
                               .states = states,
                               .state_stride = sizeof *states,
                               .hyper = &o.hyper};
    cr_assert_eq(o.ops->describe(o.self, &param, needs), ZDS_OK);
    optim_close(&o);
}

Test(optim_8bit, small_parameters_and_embeddings_keep_32_bits)
{
    static const struct {
        const char *options;
        uint64_t count;
        int32_t role;
        bool in_blocks;
    } cases[] = {
        {"{}", 4095, ZDS_ROLE_MATRIX, false},
        {"{}", 4096, ZDS_ROLE_MATRIX, true},
        {"{}", 4096, ZDS_ROLE_HEAD, true},
        {"{}", 100000, ZDS_ROLE_EMBEDDING, false},
        {"{\"stable_embedding\": false}", 100000, ZDS_ROLE_EMBEDDING, true},
        {"{\"min_8bit_size\": 10}", 10, ZDS_ROLE_BIAS, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        zds_param_needs needs;
        zds_state_spec states[ZDS_MAX_STATES] = {{0}};
        describe(cases[i].options, cases[i].count, cases[i].role, &needs, states);
        size_t bytes = 0;
        for (uint32_t s = 0; s < needs.state_count; s++)
            bytes += state_bytes(&needs.states[s], cases[i].count);
        if (cases[i].in_blocks) /* two bytes an element, two scales a block of 256 */
            cr_assert_eq(bytes, 2 * cases[i].count + (cases[i].count + 255) / 256 * 8);
        else
            cr_assert_eq(bytes, 8 * cases[i].count);
        cr_assert_eq(needs.granularity, cases[i].in_blocks ? 256 : 0);
    }
}

Test(optim_8bit, a_bad_gradient_stays_in_its_block)
{
    optim clean, dirty;
    optim_setup s = {.file = "optim_adamw",
                     .name = "AdamW8bit",
                     .options = "{\"min_8bit_size\": 0}",
                     .count = 700};
    optim_open(&clean, &s);
    optim_open(&dirty, &s);
    for (uint64_t round = 0; round < 3; round++) {
        optim_random_grad(&clean, round);
        optim_random_grad(&dirty, round);
        write_at(dirty.grad.data, ZDS_F32, 300, round == 0 ? NAN : INFINITY);
        optim_step(&clean, 0);
        optim_step(&dirty, 0);
    }
    for (uint64_t i = 0; i < 700; i++)
        if (i < 256 || i >= 512)
            cr_assert(optim_weight(&clean, i) == optim_weight(&dirty, i));
    cr_assert(isnan(optim_weight(&dirty, 300)));
    optim_close(&clean);
    optim_close(&dirty);
}

/* A first step of Adam moves each weight by about the rate, however large the gradient was that
 * clipping made small. */
Test(optim_8bit, a_clipped_huge_gradient_moves_weights_by_the_rate)
{
    optim o;
    optim_setup s = {.file = "optim_adamw",
                     .name = "AdamW8bit",
                     .options = "{\"min_8bit_size\": 0, \"lr\": 0.01, \"weight_decay\": 0}",
                     .count = 700};
    optim_open(&o, &s);
    o.grad_scale = 1e-20;
    double before[700];
    for (uint64_t i = 0; i < 700; i++) {
        before[i] = optim_weight(&o, i);
        write_at(o.grad.data, ZDS_F32, i, i % 2 ? 1e19 : -3e18);
    }
    optim_step(&o, 0);
    for (uint64_t i = 0; i < 700; i++) {
        double moved = optim_weight(&o, i) - before[i];
        cr_assert(fabs(fabs(moved) - 0.01) < 1e-4 && (moved < 0) == (i % 2 == 1),
                  "weight %d moved by %g, expected %g", (int)i, moved, i % 2 ? -0.01 : 0.01);
    }
    optim_close(&o);
}

/* A first step of Adam is the rate: a quarter of bfloat16's step below 1. */
Test(optim_8bit, small_steps_are_kept_on_average)
{
    optim_setup s = {.file = "optim_adamw",
                     .name = "AdamW8bit",
                     .options = "{\"weight_decay\": 0, \"lr\": 0.001}",
                     .count = 100001,
                     .master = ZDS_BF16,
                     .grad = ZDS_BF16,
                     .output = ZDS_BF16,
                     .state = ZDS_BF16,
                     .stochastic = true};
    optim o;
    optim_open(&o, &s);
    for (uint64_t i = 0; i < s.count; i++) {
        write_at(o.master.data, ZDS_BF16, i, 1);
        write_at(o.grad.data, ZDS_BF16, i, 1);
    }
    optim_step(&o, 0);
    double mean = 0;
    for (uint64_t i = 0; i < s.count; i++)
        mean += optim_weight(&o, i) / (double)s.count;
    double deviation = 0x1p-8 * sqrt(0.256 * 0.744 / (double)s.count);
    cr_assert(fabs(mean - 0.999) < 4 * deviation, "%.9g, expected 0.999", mean);
    optim_close(&o);
}

Test(optim_8bit, what_bitsandbytes_refuses)
{
    optim o;
    optim_setup s = {.file = "optim_adamw", .name = "AdamW8bit", .options = "{\"amsgrad\": true}"};
    cr_assert_eq(optim_try(&o, &s), ZDS_ERR_CONFIG);
    cr_assert(strstr(o.h.error, "amsgrad"));
    optim_close(&o);
}
