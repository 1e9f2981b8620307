// The products of registers.hpp by AVX2 and FMA alone; those of integers with sums of a few of them in 16 bits.
//
// AVX2 adds two products of bytes in 16 bits and takes a second multiplication to bring them to 32: no more than twice
// what floats do. So the products of IN_16_BITS lines of a panel are added up before it. Nothing overflows, as weights
// are rounded to numbers whose products fit: `quantize_weight` of int8.py.

#pragma once

#include "floats256.hpp"

namespace {

static_assert(16 % IN_16_BITS == 0, "a step has 16 lines");
constexpr int TRIPLE = 3;  // rows at a time: two sums of each in 16 and in 32 bits are what the registers hold

// sum (two registers of each row) += three rows of a times IN_16_BITS lines of a panel's two registers
inline __attribute__((always_inline)) void add_lines(
    const char *a, long stride, const char *columns, integers (*sum)[2]) {
  integers few[TRIPLE][2];
#pragma GCC unroll 16
  for (int line = 0; line < IN_16_BITS; line++) {
    integers left, right, same;
    memcpy(&left, columns + line * LINE, sizeof left);
    memcpy(&right, columns + line * LINE + sizeof left, sizeof right);
#pragma GCC unroll 4
    for (int row = 0; row < TRIPLE; row++) {
      broadcast(a + row * stride + line * 4, same);
      integers first = _mm256_maddubs_epi16(same, left), second = _mm256_maddubs_epi16(same, right);
      few[row][0] = line ? _mm256_add_epi16(few[row][0], first) : first;
      few[row][1] = line ? _mm256_add_epi16(few[row][1], second) : second;
      // a compiler that adds in another order needs more registers than there are
      asm("" : "+x"(few[row][0]), "+x"(few[row][1]));
    }
  }
  const integers ones = _mm256_set1_epi16(1);
#pragma GCC unroll 4
  for (int row = 0; row < TRIPLE; row++)
    for (int half = 0; half < 2; half++)
      sum[row][half] = _mm256_add_epi32(sum[row][half], _mm256_madd_epi16(few[row][half], ones));
}

// as `tile` of registers.hpp, which takes it for integers
template <int lines, class Soon>
inline __attribute__((always_inline)) void tile(
    const char *a, long stride, const char *panel, long part, long steps, const integers *begin, char *sums,
    long sums_stride, Soon soon) {
  static_assert(lines % TRIPLE == 0, "rows in threes");
  panel += part * 2 * sizeof(integers);
  for (long row = 0; row < lines; row += TRIPLE) {
    integers sum[TRIPLE][2];
#pragma GCC unroll 4
    for (int i = 0; i < TRIPLE; i++) sum[i][0] = begin[0], sum[i][1] = begin[1];
    for (long step = 0; step < steps; step++) {
      if (row == 0) soon(step);
#pragma GCC unroll 16
      for (long line = 0; line < 16; line += IN_16_BITS)
        add_lines(a + row * stride + step * STEP + line * 4, stride, panel + step * PAIR + line * LINE, sum);
    }
#pragma GCC unroll 4
    for (int i = 0; i < TRIPLE; i++) memcpy(sums + (row + i) * sums_stride, sum[i], sizeof sum[i]);
  }
}

}  // namespace

#include "registers.hpp"
