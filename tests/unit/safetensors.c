/* safetensors: what is written is read back; every lie of a header is refused by name. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/floats.h"
#include "common/safetensors.h"

static char folder[] = "/tmp/zds-safetensors-XXXXXX";

static const char *in_folder(const char *name)
{
    static char path[2][256];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static void make_folder(void)
{
    cr_assert(mkdtemp(folder));
}

static void remove_folder(void)
{
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", folder);
    cr_assert_eq(system(command), 0);
}

TestSuite(safetensors, .init = make_folder, .fini = remove_folder);

static void write_file(const char *name, const void *bytes, size_t size)
{
    FILE *f = fopen(in_folder(name), "wb");
    cr_assert(f && fwrite(bytes, 1, size, f) == size && fclose(f) == 0);
}

/* A file with this header and so many bytes of data. */
static void write_raw(const char *name, const char *header, uint64_t said, size_t data)
{
    size_t length = strlen(header), size = 8 + length + data;
    unsigned char *bytes = calloc(1, size);
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(said >> (8 * i));
    memcpy(bytes + 8, header, length);
    write_file(name, bytes, size);
    free(bytes);
}

static void refused(const char *name, zds_status status, const char *word, const char *word2)
{
    safetensors *file = NULL;
    zds_error error = ZDS_ERROR_INIT;
    zds_status got = safetensors_open(in_folder(name), &file, &error);
    cr_expect_eq(got, status, "\"%s\": status %d, not %d (%s)", word2, got, status, error.text);
    cr_expect(got && strstr(error.text, name) && strstr(error.text, word) &&
                  strstr(error.text, word2),
              "does not name %s, \"%s\" and \"%s\": %s", name, word, word2, error.text);
    if (!got)
        safetensors_close(file);
    zds_error_clear(&error);
}

/* Refused, naming the tensor and what is wrong with it. */
static void lies(const char *header, size_t data, const char *tensor, const char *what)
{
    write_raw("lie.safetensors", header, strlen(header), data);
    refused("lie.safetensors", ZDS_ERR_FORMAT, tensor, what);
}

Test(safetensors, round_trip)
{
    static const float values[6] = {1, -2.5f, 3e-8f, 65504, 1.00390625f, INFINITY};
    static const zds_dtype dtypes[3] = {ZDS_F32, ZDS_F16, ZDS_BF16};
    const safetensors_entry entries[] = {{"b", ZDS_F32, 2, {2, 3}},
                                         {"none", ZDS_F32, 2, {0, 3}},
                                         {"a", ZDS_F16, 1, {6}},
                                         {"c", ZDS_BF16, 3, {1, 6, 1}},
                                         {"scalar", ZDS_F32, 0, {0}}};
    const safetensors_note notes[] = {{"format", "pt"}, {"version.a", "1"}, {NULL, NULL}};
    safetensors_writer *writer;
    safetensors *file;
    zds_error error = ZDS_ERROR_INIT;
    const char *path = in_folder("model.safetensors");
    cr_assert_eq(safetensors_create(path, entries, 5, notes, &writer, &error), ZDS_OK);
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(safetensors_write(writer, values, 2, &error), ZDS_OK);
        cr_assert_eq(safetensors_write(writer, values + 2, 4, &error), ZDS_OK);
    }
    cr_expect_eq(safetensors_write(writer, values, 2, &error), ZDS_ERR_INVALID);
    cr_expect_eq(safetensors_commit(writer, &error), ZDS_ERR_INVALID);
    cr_assert_eq(safetensors_write(writer, values, 1, &error), ZDS_OK);
    cr_expect_neq(access(path, F_OK), 0, "there before it is whole");
    cr_assert_eq(safetensors_commit(writer, &error), ZDS_OK);
    safetensors_destroy(writer);

    cr_assert_eq(safetensors_open(path, &file, &error), ZDS_OK, "%s", error.text);
    cr_expect_eq(safetensors_count(file), 5);
    cr_expect_str_eq(safetensors_at(file, 0)->name, "a");
    cr_expect_null(safetensors_at(file, 5));
    cr_expect_null(safetensors_find(file, "__metadata__"));
    const char *names[3] = {"b", "a", "c"};
    for (int i = 0; i < 3; i++) {
        const safetensors_tensor *t = safetensors_find(file, names[i]);
        float out[6];
        cr_assert(t && t->dtype == dtypes[i] && t->count == 6);
        cr_expect_eq((uintptr_t)t->data % zds_dtype_size(t->dtype), 0);
        cr_assert_eq(safetensors_read(t, 0, 6, out, &error), ZDS_OK);
        cr_expect_eq(safetensors_read(t, 5, 2, out, &error), ZDS_ERR_INVALID);
        for (int k = 0; k < 6; k++) /* 2^-10 and 2^-8: half a unit in the last place */
            cr_expect(out[k] == values[k] ||
                          fabsf(out[k] - values[k]) <= fabsf(values[k]) * (i == 1   ? 0x1p-11f
                                                                           : i == 2 ? 0x1p-8f
                                                                                    : 0) +
                                                           (i == 1 ? 0x1p-25f : 0),
                      "%s[%d] = %g", names[i], k, (double)out[k]);
    }
    safetensors_close(file);
    zds_error_clear(&error);
}

Test(safetensors, nothing_is_left_of_what_was_not_committed)
{
    const safetensors_entry entry = {"a", ZDS_F32, 1, {4}};
    safetensors_writer *writer;
    write_file("model.safetensors", "old", 3);
    cr_assert_eq(safetensors_create(in_folder("model.safetensors"), &entry, 1, NULL, &writer, NULL),
                 ZDS_OK);
    safetensors_destroy(writer);
    struct stat info;
    cr_expect(stat(in_folder("model.safetensors"), &info) == 0 && info.st_size == 3);
    cr_expect_eq(unlink(in_folder("model.safetensors")), 0);
    cr_expect_eq(rmdir(folder), 0, "a temporary file is left");
    cr_assert_eq(mkdir(folder, 0700), 0);
}

Test(safetensors, files_that_are_none)
{
    refused("missing.safetensors", ZDS_ERR_NOT_FOUND, "", "No such file");
    write_file("empty.safetensors", "", 0);
    refused("empty.safetensors", ZDS_ERR_FORMAT, "empty", "");
    write_file("short.safetensors", "1234567", 7);
    refused("short.safetensors", ZDS_ERR_FORMAT, "truncated", "7");
    write_raw("huge.safetensors", "{}", UINT64_MAX, 0);
    refused("huge.safetensors", ZDS_ERR_FORMAT, "18446744073709551615", "header");
    write_raw("cut.safetensors", "{}", 1000, 0);
    refused("cut.safetensors", ZDS_ERR_FORMAT, "truncated", "1000");
    write_raw("list.safetensors", "[1]", 3, 0);
    refused("list.safetensors", ZDS_ERR_FORMAT, "not a JSON object", "");
    write_raw("junk.safetensors", "{\"a\":", 5, 0);
    refused("junk.safetensors", ZDS_ERR_FORMAT, "not valid JSON", "");
    write_raw("tail.safetensors", "{}x", 3, 0);
    refused("tail.safetensors", ZDS_ERR_FORMAT, "not valid JSON", "");
    cr_assert_eq(mkdir(in_folder("folder.safetensors"), 0700), 0);
    refused("folder.safetensors", ZDS_ERR_FORMAT, "not a regular file", "");
    char *deep = malloc(200001);
    memset(deep, '[', 200000);
    memcpy(deep, "{\"a\":", 5);
    deep[200000] = '\0';
    write_raw("deep.safetensors", deep, 200000, 0);
    refused("deep.safetensors", ZDS_ERR_FORMAT, "not valid JSON", "");
    free(deep);
}

#define F32(shape, begin, end)                                                                     \
    "{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

Test(safetensors, headers_that_lie)
{
    lies("{\"t\":5}", 0, "tensor t", "not an object");
    lies("{\"t\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "tensor t", "no dtype");
    lies("{\"t\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "tensor t", "no shape");
    lies("{\"t\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "tensor t", "data_offsets");
    lies("{\"t\":" F32("[2]", 0, 4) "}", 4, "tensor t", "2 x 4 bytes");
    lies("{\"t\":" F32("[1]", 0, 8) "}", 8, "tensor t", "1 x 4 bytes");
    lies("{\"t\":" F32("[2]", 0, 8) "}", 4, "tensor t", "truncated");
    lies("{\"t\":" F32("[2]", 8, 0) "}", 8, "tensor t", "ascending");
    lies("{\"t\":" F32("[-1]", 0, 4) "}", 4, "tensor t", "non-negative");
    lies("{\"t\":" F32("[1.5]", 0, 6) "}", 6, "tensor t", "non-negative");
    lies("{\"t\":" F32("[1]", -4, 0) "}", 4, "tensor t", "data_offsets");
    lies("{\"t\":" F32("[1]", 0, 1e300) "}", 4, "tensor t", "data_offsets");
    lies("{\"t\":" F32("[9007199254740992,9007199254740992]", 0, 4) "}", 4, "tensor t", "too many");
    lies("{\"t\":" F32("[4611686018427387904]", 0, 4) "}", 4, "tensor t", "non-negative");
    lies("{\"t\":" F32("[1,1,1,1,1,1,1,1,1]", 0, 4) "}", 4, "tensor t", "8 dimensions");
    lies("{\"t\":" F32("[2]", 0, 8) ",\"u\":" F32("[2]", 4, 12) "}", 12, "tensor u", "overlap");
    lies("{\"t\":" F32("[1]", 0, 4) ",\"u\":" F32("[1]", 8, 12) "}", 12, "tensor u", "hole");
    lies("{\"t\":" F32("[1]", 4, 8) "}", 8, "tensor t", "hole");
    lies("{\"t\":" F32("[1]", 0, 4) "}", 8, "", "belong to none");
    lies("{\"t\":" F32("[1]", 0, 4) ",\"t\":" F32("[1]", 4, 8) "}", 8, "tensor t", "more than one");
    static const char odd[] = "{\"t\":{\"dtype\":\"F7\",\"shape\":[1],\"data_offsets\":[0,4]}}";
    write_raw("odd.safetensors", odd, sizeof odd - 1, 4);
    refused("odd.safetensors", ZDS_ERR_UNSUPPORTED, "tensor t", "F7");
}

Test(safetensors, types_that_are_no_weights_are_refused_when_read)
{
    static const char header[] = "{\"t\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]}}";
    safetensors *file;
    zds_error error = ZDS_ERROR_INIT;
    float out;
    write_raw("ids.safetensors", header, sizeof header - 1, 8);
    cr_assert_eq(safetensors_open(in_folder("ids.safetensors"), &file, &error), ZDS_OK);
    cr_expect_eq(safetensors_read(safetensors_find(file, "t"), 0, 1, &out, &error),
                 ZDS_ERR_UNSUPPORTED);
    cr_expect(strstr(error.text, "tensor t") && strstr(error.text, "I64"), "%s", error.text);
    safetensors_close(file);
    zds_error_clear(&error);
}

Test(safetensors, shards)
{
    static const char index[] = "{\"metadata\":{},\"weight_map\":{\"a\":\"1.safetensors\",\"b\":"
                                "\"2.safetensors\",\"c\":\"1."
                                "safetensors\"}}";
    static const char one[] = "{\"a\":" F32("[1]", 0, 4) ",\"c\":" F32("[1]", 4, 8) "}";
    static const char two[] = "{\"b\":" F32("[1]", 0, 4) "}";
    safetensors *file;
    zds_error error = ZDS_ERROR_INIT;
    write_file("i.json", index, sizeof index - 1);
    write_raw("1.safetensors", one, sizeof one - 1, 8);
    cr_expect_eq(safetensors_open(in_folder("i.json"), &file, &error), ZDS_ERR_NOT_FOUND);
    cr_expect(strstr(error.text, "2.safetensors"), "%s", error.text);
    write_raw("2.safetensors", two, sizeof two - 1, 4);
    cr_assert_eq(safetensors_open(in_folder("i.json"), &file, &error), ZDS_OK, "%s", error.text);
    cr_expect_eq(safetensors_count(file), 3);
    cr_expect(safetensors_find(file, "b") && safetensors_find(file, "c"));
    safetensors_close(file);
    write_raw("2.safetensors", one, sizeof one - 1, 8);
    zds_status twice = safetensors_open(in_folder("i.json"), &file, &error);
    cr_expect(twice == ZDS_ERR_FORMAT && strstr(error.text, "tensor a: there is more than one"));
    static const char outside[] = "{\"weight_map\":{\"a\":\"../1.safetensors\"}}";
    write_file("i.json", outside, sizeof outside - 1);
    refused("i.json", ZDS_ERR_FORMAT, "tensor a", "beside it");
    write_file("i.json", "[]", 2);
    refused("i.json", ZDS_ERR_FORMAT, "weight_map", "");
    zds_error_clear(&error);
}

/* All 16-bit patterns survive the way to fp32 and back; rounding goes to nearest even. */
Test(floats, conversions)
{
    for (uint32_t half = 0; half < 0x10000; half++) {
        float f = float_from_f16((uint16_t)half), b = float_from_bf16((uint16_t)half);
        cr_assert(isnan(f) ? isnan(float_from_f16(f16_from_float(f))) : f16_from_float(f) == half,
                  "f16 %x", half);
        cr_assert(isnan(b) ? isnan(float_from_bf16(bf16_from_float(b)))
                           : bf16_from_float(b) == half,
                  "bf16 %x", half);
    }
    cr_expect_eq(float_from_f16(0x3c00), 1);
    cr_expect_eq(float_from_f16(0x0001), 0x1p-24f);
    cr_expect_eq(float_from_f16(0x7bff), 65504);
    cr_expect_eq(f16_from_float(65519.9f), 0x7bff);
    cr_expect_eq(f16_from_float(65520), 0x7c00);
    cr_expect_eq(f16_from_float(1 + 0x1p-11f), 0x3c00); /* half way: to even */
    cr_expect_eq(f16_from_float(1 + 3 * 0x1p-11f), 0x3c02);
    cr_expect_eq(f16_from_float(-0x1p-25f), 0x8000);
    cr_expect_eq(f16_from_float(0x1.8p-25f), 0x0001);
    cr_expect_eq(bf16_from_float(1 + 0x1p-8f), 0x3f80);
    cr_expect_eq(bf16_from_float(1 + 3 * 0x1p-8f), 0x3f82);
    cr_expect_eq(bf16_from_float(3.4e38f), 0x7f80);
}
