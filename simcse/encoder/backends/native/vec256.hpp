// Sixteen float32 lanes by AVX2, eight and eight, kept in memory as float32: the words that layer.cpp and panels.hpp are
// written in, as vec512.hpp has them.
//
// NaN stays NaN: `larger` and `smaller` return their second argument for it.

#pragma once

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

namespace {

typedef float number;  // of states and weights in memory
struct lanes { __m256 low, high; };

inline lanes operator+(lanes a, lanes b) { return {a.low + b.low, a.high + b.high}; }
inline lanes operator-(lanes a, lanes b) { return {a.low - b.low, a.high - b.high}; }
inline lanes operator*(lanes a, lanes b) { return {a.low * b.low, a.high * b.high}; }
inline lanes operator/(lanes a, lanes b) { return {a.low / b.low, a.high / b.high}; }

inline lanes all(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
inline lanes load(const float *from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
inline lanes load(const int32_t *from) {
  return {_mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i *)from)),
          _mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i *)(from + 8)))};
}
inline void store(float *to, lanes value) {
  _mm256_storeu_ps(to, value.low);
  _mm256_storeu_ps(to + 8, value.high);
}
inline void store(number *to, lanes low, lanes high) { store(to, low), store(to + 16, high); }

// all bits of the first `count` lanes; none for a count below 1
inline lanes first_of(long count) {
  const __m256i place = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), eight = _mm256_set1_epi32(8);
  __m256i counts = _mm256_set1_epi32(count > 16 ? 16 : (int)count);
  return {(__m256)_mm256_cmpgt_epi32(counts, place), (__m256)_mm256_cmpgt_epi32(_mm256_sub_epi32(counts, eight), place)};
}
// the first `count` lanes, others from `rest`; all 16 can be read
inline lanes load_first(const float *from, long count, lanes rest) {
  lanes mask = first_of(count), value = load(from);
  return {_mm256_blendv_ps(rest.low, value.low, mask.low), _mm256_blendv_ps(rest.high, value.high, mask.high)};
}
inline lanes keep_first(lanes value, long count) {
  lanes mask = first_of(count);
  return {_mm256_and_ps(value.low, mask.low), _mm256_and_ps(value.high, mask.high)};
}

// a * b + c
inline lanes fused(lanes a, lanes b, lanes c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline lanes larger(lanes a, lanes b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
inline lanes smaller(lanes a, lanes b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
inline lanes magnitude(lanes a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}
inline lanes nearest(lanes a) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.low, mode), _mm256_round_ps(a.high, mode)};
}
// for whole numbers from -126 to 127
inline lanes times_power_of_2(lanes a, lanes whole) {
  auto power = [](__m256 half) {
    return (__m256)_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(half), _mm256_set1_epi32(127)), 23);
  };
  return {a.low * power(whole.low), a.high * power(whole.high)};
}
inline float total(lanes a) {
  __m256 both = a.low + a.high;
  __m128 sum = _mm256_castps256_ps128(both) + _mm256_extractf128_ps(both, 1);
  sum = sum + _mm_movehl_ps(sum, sum);
  return _mm_cvtss_f32(sum) + _mm_cvtss_f32(_mm_movehdup_ps(sum));
}
inline float largest(lanes a) {
  __m256 both = _mm256_max_ps(a.low, a.high);
  __m128 most = _mm_max_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1));
  most = _mm_max_ps(most, _mm_movehl_ps(most, most));
  return _mm_cvtss_f32(_mm_max_ss(most, _mm_movehdup_ps(most)));
}

// 16 rounded to 16-bit integers
inline __m256i shorts(lanes value) {
  __m256i packed = _mm256_packs_epi32(_mm256_cvtps_epi32(value.low), _mm256_cvtps_epi32(value.high));
  return _mm256_permute4x64_epi64(packed, 0xd8);
}

// 16 rounded to -128..127, the bits of `flipped` turned over
inline void store_signed(int8_t *to, lanes value, char flipped) {
  __m256i two = shorts(value);
  __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(two), _mm256_extracti128_si256(two, 1));
  _mm_storeu_si128((__m128i *)to, _mm_xor_si128(bytes, _mm_set1_epi8(flipped)));
}

// 16 rounded to 0..255
inline void store_unsigned(uint8_t *to, lanes value) {
  __m256i two = shorts(value);
  _mm_storeu_si128((__m128i *)to, _mm_packus_epi16(_mm256_castsi256_si128(two), _mm256_extracti128_si256(two, 1)));
}

// 8 rows of 32 bytes -> 8 columns of four bytes each, `apart` bytes from one to the next
inline void transpose_eight(const char *rows, long stride, char *out, long apart) {
  __m256 r[8], t[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps((const float *)(rows + i * stride));
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]), t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44), r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44), r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    _mm256_storeu_ps((float *)(out + i * apart), _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
    _mm256_storeu_ps((float *)(out + (i + 4) * apart), _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
  }
}

// 16 rows of 64 bytes -> 16 columns of four bytes each
inline void transpose(const char *rows, long stride, char *out, long apart) {
  for (int row = 0; row < 16; row += 8)
    for (int column = 0; column < 16; column += 8)
      transpose_eight(rows + row * stride + column * 4, stride, out + column * apart + row * 4, apart);
}

// a row of 32 numbers, null for zeros -> 16 columns, and 16 more
inline void interleave(const number *const *rows, char *left, char *right) {
  store((float *)left, rows[0] ? load(rows[0]) : all(0));
  store((float *)right, rows[0] ? load(rows[0] + 16) : all(0));
}

}  // namespace
