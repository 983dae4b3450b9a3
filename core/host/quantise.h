/* Numbers as integers of few bits, for their way between ranks: block-based symmetric quantisation
 * (Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization", section 2; Wang et al.
 * 2023, "ZeRO++", sections 3.1 and 3.3).
 *
 * A run of elements is cut into blocks from its first element on, the last of which may be short.
 * With `top` the largest integer (127 of 8 bits, 7 of 4), in fp32:
 *     scale = max |x| / top       of each block
 *     q     = x * (top / max |x|), rounded to nearest, halves away from zero
 *     x'    = q * scale           what comes out, at most scale / 2 and rounding from x
 * A block with a number that is not finite has scale NaN, and comes out as that; one whose largest
 * magnitude is below top * 2^-126 comes out as zeros.
 *
 * As bytes: the integers of all blocks, then, at a multiple of 4, the scales. Of 4 bits the first
 * half of a block is in the low halves of its bytes, the second half in the high ones. */
#ifndef CORE_HOST_QUANTISE_H
#define CORE_HOST_QUANTISE_H

#include "zds/plugin.h"

typedef enum quantised_bits { QUANTISED_8 = 8, QUANTISED_4 = 4 } quantised_bits;

/* Elements of a block: what one scale costs is 0.2 % beside 8 bits each, 6 % beside 4. */
static inline uint64_t quantised_block(quantised_bits bits)
{
    return bits == QUANTISED_8 ? 2048 : 128;
}

/* Of a run of `all` elements. */
static inline uint64_t quantised_bytes(quantised_bits bits, uint64_t all)
{
    const uint64_t block = quantised_block(bits);
    return ((all * bits + 7) / 8 + 3) / 4 * 4 + (all + block - 1) / block * sizeof(float);
}

/* Elements `first` up to first + count of a run of `all`, whose bytes begin at `run`; `first` is a
 * block's, and so is the end but for the run's own. Types F32, BF16 and F16. */
void quantise(void *run, quantised_bits bits, uint64_t all, uint64_t first, uint64_t count,
              const void *from, zds_dtype dtype);
void dequantise(void *to, zds_dtype dtype, const void *run, quantised_bits bits, uint64_t all,
                uint64_t first, uint64_t count);

/* to[i] = round((add ? to[i] : 0) + post * sum over runs r, in order, of (pre * scale_r) * q_r[i]),
 * in fp32; run r begins at runs + r * stride. */
typedef struct quantised_sum {
    uint32_t runs;
    uint64_t stride; /* bytes */
    double pre, post;
    bool add;
} quantised_sum;
void dequantise_sum(void *to, zds_dtype dtype, const void *runs, quantised_bits bits, uint64_t all,
                    uint64_t first, uint64_t count, const quantised_sum *how);
/* The same as integers again: of the sum itself, to which `post` and `add` do nothing. */
void quantise_sum(void *run, const void *runs, quantised_bits bits, uint64_t all, uint64_t first,
                  uint64_t count, const quantised_sum *how);

#endif
