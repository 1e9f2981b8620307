// Sixteen float32 lanes by AVX-512, whatever type they have in memory: vec512.hpp and vec512_fp32.hpp say which.
//
// NaN stays NaN: `larger` and `smaller` return their second argument for it.

#pragma once

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

namespace {

typedef __m512 lanes;  // + - * / work on it

inline lanes all(float value) { return _mm512_set1_ps(value); }
inline lanes load(const float *from) { return _mm512_loadu_ps(from); }
inline lanes load(const int32_t *from) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(from)); }
inline void store(float *to, lanes value) { _mm512_storeu_ps(to, value); }

// the first `count` lanes, others from `rest`; none for a count below 1
inline __mmask16 first_of(long count) { return count >= 16 ? 0xffff : count > 0 ? (1 << count) - 1 : 0; }
inline lanes load_first(const float *from, long count, lanes rest) {
  return _mm512_mask_loadu_ps(rest, first_of(count), from);
}
inline lanes keep_first(lanes value, long count) { return _mm512_maskz_mov_ps(first_of(count), value); }

inline lanes fused(lanes a, lanes b, lanes c) { return _mm512_fmadd_ps(a, b, c); }  // a * b + c
inline lanes larger(lanes a, lanes b) { return _mm512_max_ps(a, b); }
inline lanes smaller(lanes a, lanes b) { return _mm512_min_ps(a, b); }
inline lanes magnitude(lanes a) { return _mm512_abs_ps(a); }
inline lanes nearest(lanes a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline lanes times_power_of_2(lanes a, lanes whole) { return _mm512_scalef_ps(a, whole); }
inline float total(lanes a) { return _mm512_reduce_add_ps(a); }
inline float largest(lanes a) { return _mm512_reduce_max_ps(a); }

// 16 rounded to -128..127, the bits of `flipped` turned over
inline void store_signed(int8_t *to, lanes value, char flipped) {
  __m128i bytes = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(value));
  _mm_storeu_si128((__m128i *)to, _mm_xor_si128(bytes, _mm_set1_epi8(flipped)));
}

// 16 rounded to 0..255
inline void store_unsigned(uint8_t *to, lanes value) {
  __m512i whole = _mm512_max_epi32(_mm512_cvtps_epi32(value), _mm512_setzero_si512());
  _mm_storeu_si128((__m128i *)to, _mm512_cvtusepi32_epi8(whole));
}

// 16 rows of 64 bytes -> 16 columns of four bytes each, `apart` bytes from one to the next
inline void transpose(const char *rows, long stride, char *out, long apart) {
  __m512i r[16], t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_si512(rows + i * stride);
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; j++) {
      r[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
      r[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
    }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    __m512i low = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88), low_odd = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    __m512i high = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    __m512i high_odd = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    _mm512_storeu_si512(out + i * apart, _mm512_shuffle_i32x4(low, high, 0x88));
    _mm512_storeu_si512(out + (i + 4) * apart, _mm512_shuffle_i32x4(low_odd, high_odd, 0x88));
    _mm512_storeu_si512(out + (i + 8) * apart, _mm512_shuffle_i32x4(low, high, 0xdd));
    _mm512_storeu_si512(out + (i + 12) * apart, _mm512_shuffle_i32x4(low_odd, high_odd, 0xdd));
  }
}

}  // namespace
