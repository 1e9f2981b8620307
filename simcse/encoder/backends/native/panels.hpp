// Operands of products laid out for the micro-kernels: panels of 32 columns, a step of 64 bytes of each row after another.
//
// Rows and panels are counted in bytes, for bfloat16 and 8-bit integers alike: a step of a product takes 64 bytes of each
// row, and of a panel 16 lines of 16 columns, four bytes each, twice.

#pragma once

#include "vec.hpp"

namespace {

constexpr long SIDE = 32;
constexpr long STEP = 64;           // bytes of a row in a step
constexpr long PAIR = 2 * 16 * 64;  // bytes of a panel in a step: 16 columns, and 16 more

// bytes from row to row: an odd number of cache lines, so that neighbouring rows fall into different sets
inline long stride_of(long bytes) { return (bytes / 64 | 1) * 64; }

enum Kind { FLOATS, SIGNED, UNSIGNED };  // bfloat16, or 8-bit integers times signed ones

template <Kind kind>
struct Sum { typedef int32_t type; };
template <>
struct Sum<FLOATS> { typedef float type; };

// 16 rows of 64 bytes -> 16 columns of four bytes each
inline void transpose(const char *rows, long stride, char *out) {
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
    _mm512_storeu_si512(out + i * 64, _mm512_shuffle_i32x4(low, high, 0x88));
    _mm512_storeu_si512(out + (i + 4) * 64, _mm512_shuffle_i32x4(low_odd, high_odd, 0x88));
    _mm512_storeu_si512(out + (i + 8) * 64, _mm512_shuffle_i32x4(low, high, 0xdd));
    _mm512_storeu_si512(out + (i + 12) * 64, _mm512_shuffle_i32x4(low_odd, high_odd, 0xdd));
  }
}

// (rows, width bytes) -> panels of 32 rows each, over the width
void panels_of_rows(const void *from, long stride, long rows, long width, void *to) {
  char *out = (char *)to;
  for (long row = 0; row < rows; row += SIDE)
    for (long column = 0; column < width; column += STEP)
      for (long half = 0; half < 32; half += 16, out += PAIR / 2)
        transpose((const char *)from + (row + half) * stride + column, stride, out);
}

// (rows, columns) -> panels of 32 columns each, over the rows; rows up to the next multiple of 32 are zeros
void panels_of_columns(const bf16 *from, long stride, long rows, long columns, bf16 *to) {
  alignas(64) uint16_t order[2][32];
  for (int i = 0; i < 32; i++) order[0][i] = i / 2 + i % 2 * 32, order[1][i] = order[0][i] + 16;
  const __m512i left = _mm512_load_si512(order[0]), right = _mm512_load_si512(order[1]), zero = _mm512_setzero_si512();
  char *out = (char *)to;
  for (long column = 0; column < columns; column += SIDE)
    for (long row = 0; row < up_to(rows, SIDE); row += 2, out += row % SIDE ? 64 : 64 + PAIR / 2) {
      const char *at = (const char *)(from + column) + row * stride;
      __m512i even = row < rows ? _mm512_loadu_si512(at) : zero;
      __m512i odd = row + 1 < rows ? _mm512_loadu_si512(at + stride) : zero;
      _mm512_storeu_si512(out, _mm512_permutex2var_epi16(even, left, odd));
      _mm512_storeu_si512(out + PAIR / 2, _mm512_permutex2var_epi16(even, right, odd));
    }
}

}  // namespace
