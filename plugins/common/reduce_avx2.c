/* Reduction kernels for processors with AVX2 and F16C. */
#include <immintrin.h>
#include <stdint.h>

#define SET           reduce_avx2
#define SET_NAME      "avx2"
#define VECTOR_F16    8
#define VECTOR_STREAM 64

static inline void widen_f16(float *out, const uint16_t *in)
{
    _mm256_storeu_ps(out, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)in)));
}

static inline void narrow_f16(uint16_t *out, const float *in)
{
    _mm_storeu_si128((__m128i *)(void *)out,
                     _mm256_cvtps_ph(_mm256_loadu_ps(in), _MM_FROUND_TO_NEAREST_INT));
}

static inline void stream_vector(char *out, const char *in)
{
    __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)in);
    __m256i high = _mm256_loadu_si256((const __m256i *)(const void *)(in + 32));
    _mm256_stream_si256((__m256i *)(void *)out, low);
    _mm256_stream_si256((__m256i *)(void *)(out + 32), high);
}

static void stream_end(void)
{
    _mm_sfence();
}

#include "common/reduce_body.h"
