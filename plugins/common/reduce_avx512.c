/* Reduction kernels for processors with AVX-512. */
#include <immintrin.h>
#include <stdint.h>

#define SET           reduce_avx512
#define SET_NAME      "avx512"
#define VECTOR_F16    16
#define VECTOR_STREAM 64

static inline void widen_f16(float *out, const uint16_t *in)
{
    _mm512_storeu_ps(out, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)in)));
}

static inline void narrow_f16(uint16_t *out, const float *in)
{
    _mm256_storeu_si256((__m256i *)(void *)out,
                        _mm512_cvtps_ph(_mm512_loadu_ps(in), _MM_FROUND_TO_NEAREST_INT));
}

static inline void stream_vector(char *out, const char *in)
{
    _mm512_stream_si512((__m512i *)(void *)out, _mm512_loadu_si512(in));
}

static void stream_end(void)
{
    _mm_sfence();
}

#include "common/reduce_body.h"
