// Vectors of AVX-512: sixteen float32 at a time, kept in memory as bfloat16 or bytes, and the functions of a layer on them.
//
// NaN stays NaN: min and max return their second argument for it.

#pragma once

#include <immintrin.h>
#include <stdint.h>

typedef uint16_t bf16;

namespace {

inline long up_to(long n, long step) { return (n + step - 1) / step * step; }

inline __m512 load(const bf16 *from) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16));
}

inline void store(bf16 *to, __m512 low, __m512 high) {
  _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

// x * P(x), 1/2 and an odd polynomial with the least error on [-4, 4], exact at its ends: off by 0.00013 at most
inline __m512 gelu(__m512 x) {
  const float c[] = {0.39818633f, -0.06506377f, 0.0090395929f, -0.00088275902f,
                     5.7392581e-5f, -2.3095048e-6f, 5.0507778e-8f, -4.3768257e-10f};
  __m512 near = _mm512_min_ps(_mm512_set1_ps(4.0f), _mm512_max_ps(_mm512_set1_ps(-4.0f), x));
  __m512 squared = _mm512_mul_ps(near, near), sum = _mm512_set1_ps(c[7]);
#pragma GCC unroll 7
  for (int i = 6; i >= 0; i--) sum = _mm512_fmadd_ps(sum, squared, _mm512_set1_ps(c[i]));
  return _mm512_mul_ps(x, _mm512_fmadd_ps(sum, near, _mm512_set1_ps(0.5f)));
}

// 2^x for x <= 0, to 4e-6 of itself
inline __m512 exp2(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-126.0f), x);
  __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 rest = _mm512_sub_ps(x, whole);
  __m512 sum = _mm512_fmadd_ps(_mm512_set1_ps(0.009618129f), rest, _mm512_set1_ps(0.05550411f));
  sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(0.24022651f));
  sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(0.69314718f));
  sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(sum, whole);
}

// 32 of 0..255
inline void store_bytes(uint8_t *to, __m512 low, __m512 high) {
  auto bytes = [](__m512 value) {
    return _mm512_cvtusepi32_epi8(_mm512_max_epi32(_mm512_cvtps_epi32(value), _mm512_setzero_si512()));
  };
  _mm256_storeu_si256((__m256i *)to, _mm256_set_m128i(bytes(high), bytes(low)));
}

}  // namespace
