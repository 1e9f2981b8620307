// Matrix products by AVX-512 with BF16 and VNNI, eight rows by a panel's 32 columns at a time: sixteen sums in registers.
//
// For each pair of numbers of a row (four, of bytes) one broadcast meets two vectors of the panel, so that ten reads feed
// sixteen products. VNNI multiplies unsigned bytes by signed ones: signed rows come with their sign bits turned over,
// which adds 128 to each, and their sums begin at what takes that away again.

#pragma once

#include "panels.hpp"

namespace {

constexpr long LINES = 8;
constexpr char FLIPPED = (char)0x80;  // bits of signed bytes that a product expects turned over

inline bool allow() { return true; }

struct Unit {};  // nothing to turn on

inline __m512 multiply_add(__m512 sum, __m512i columns, __m512i pair) {
  return _mm512_dpbf16_ps(sum, (__m512bh)columns, (__m512bh)pair);
}

inline __m512i multiply_add(__m512i sum, __m512i columns, __m512i four) { return _mm512_dpbusd_epi32(sum, four, columns); }

inline void keep(float *to, __m512 sum) { _mm512_storeu_ps(to, sum); }
inline void keep(int32_t *to, __m512i sum) { _mm512_storeu_si512(to, sum); }

// sums (8, 32) = begin + 8 rows of a times a panel of 32 columns; soon(step) fetches what comes next
template <class Vector, class Number, class Soon>
inline __attribute__((always_inline)) void eight_lines(
    const char *a, long stride, const char *panel, long steps, const Vector *begin, Number *sums, long sums_stride,
    Soon soon) {
  Vector sum[LINES][2];
#pragma GCC unroll 8
  for (int line = 0; line < LINES; line++) sum[line][0] = begin[0], sum[line][1] = begin[1];
  for (long step = 0; step < steps; step++, a += STEP, panel += PAIR) {
    soon(step);
#pragma GCC unroll 4
    for (long i = 0; i < 16; i++) {
      __m512i left = _mm512_loadu_si512(panel + i * 64), right = _mm512_loadu_si512(panel + PAIR / 2 + i * 64);
#pragma GCC unroll 8
      for (int line = 0; line < LINES; line++) {
        __m512i numbers = _mm512_set1_epi32(*(const int32_t *)(a + line * stride + i * 4));
        sum[line][0] = multiply_add(sum[line][0], left, numbers);
        sum[line][1] = multiply_add(sum[line][1], right, numbers);
      }
    }
  }
#pragma GCC unroll 8
  for (int line = 0; line < LINES; line++) {
    keep((Number *)((char *)sums + line * sums_stride), sum[line][0]);
    keep((Number *)((char *)sums + line * sums_stride) + 16, sum[line][1]);
  }
}

// sums (32, 32) = 32 rows of a, of which `rows` are needed, times a panel of 32 columns
inline void square(
    const void *a, long stride, const void *panel, long steps, float *sums, long sums_stride, long rows) {
  const __m512 zeros[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  for (long row = 0; row < rows; row += LINES)
    eight_lines((const char *)a + row * stride, stride, (const char *)panel, steps, zeros,
                (float *)((char *)sums + row * sums_stride), sums_stride, [](long) {});
}

// what the sums of a panel begin at: nothing, or what 128 too much in each signed number adds
template <Kind kind>
inline void beginning(const char *panel, long steps, __m512i *begin) {
  begin[0] = begin[1] = _mm512_setzero_si512();
  if (kind != SIGNED) return;
  const __m512i middle = _mm512_set1_epi8(FLIPPED);
  for (long line = 0; line < steps * 16; line++, panel += line % 16 ? 64 : 64 + PAIR / 2) {
    begin[0] = multiply_add(begin[0], _mm512_loadu_si512(panel), middle);
    begin[1] = multiply_add(begin[1], _mm512_loadu_si512(panel + PAIR / 2), middle);
  }
  for (int i = 0; i < 2; i++) begin[i] = _mm512_sub_epi32(_mm512_setzero_si512(), begin[i]);
}

// a (rows, 64 * steps bytes) times panels that lie `next` bytes apart; finish(line, row, column) takes 32 sums of a row.
// Each panel is fetched from memory while the one before is multiplied.
template <Kind kind, class Finish>
inline void product(
    const void *a, long stride, long rows, const char *panel, long next, long steps, long columns, Finish finish) {
  alignas(64) typename Sum<kind>::type sums[LINES * SIDE];
  long fetched = up_to(PAIR / ((rows + LINES - 1) / LINES), 64);
  for (long column = 0; column < columns; column += SIDE, panel += next) {
    __m512i begin[2];
    beginning<kind>(panel, steps, begin);
    for (long row = 0; row < rows; row += LINES) {
      const char *soon = panel + next + row / LINES * fetched;
      auto fetch = [&](long step) {
        for (long byte = 0; byte < fetched; byte += 64) _mm_prefetch(soon + step * PAIR + byte, _MM_HINT_T1);
      };
      const char *lines = (const char *)a + row * stride;
      if constexpr (kind == FLOATS)
        eight_lines(lines, stride, panel, steps, (const __m512 *)begin, sums, SIDE * 4, fetch);
      else
        eight_lines(lines, stride, panel, steps, begin, sums, SIDE * 4, fetch);
      for (long line = 0; line < LINES && row + line < rows; line++) finish(sums + line * SIDE, row + line, column);
    }
  }
}

}  // namespace
