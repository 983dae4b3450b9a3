/* The passes over gradients and parameters that the core makes itself: where a comm plugin is not
 * FUSED, where micro steps accumulate in another type than backward leaves, and when values go in
 * and out. */
#ifndef CORE_HOST_KERNELS_H
#define CORE_HOST_KERNELS_H

#include "zds/plugin.h"

/* to[i] = from[i] in the other type, rounded to nearest even. Types F32, BF16, F16, and I8 and U8,
 * which keep to their range, round halves away from zero and take NaN for 0. May be in place if
 * both types are equal in size. */
void kernel_convert(void *to, zds_dtype to_dtype, const void *from, zds_dtype from_dtype,
                    uint64_t count);

/* to[i] = round(accumulate ? to[i] + scale * from[i] : scale * from[i]), in fp32. */
void kernel_accumulate(void *to, zds_dtype to_dtype, const void *from, zds_dtype from_dtype,
                       double scale, bool accumulate, uint64_t count);

/* to[i] = value: of any dtype; by way of fp32 but for F64, I32 and I64. */
void kernel_fill(void *to, zds_dtype dtype, double value, uint64_t count);

/* Sum of squares of up to 1024 elements, in sixteen partial sums as zds_fused says; adds to
 * *non_finite. */
double kernel_chunk_sum(const void *from, zds_dtype dtype, uint64_t count, uint64_t *non_finite);
/* That for each chunk of 1024 elements of each segment of `from`, counted from the segment's first;
 * sums: one a chunk. Returns how many elements are not finite. */
uint64_t kernel_chunk_sums(const void *from, zds_dtype dtype, const zds_segment *segments,
                           size_t segment_count, double *sums);

#endif
