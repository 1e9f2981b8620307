// Matrix products by AMX tiles, square by square (32 x 32 sums: two tiles by two), and operands laid out for them.
//
// What follows a product (bias, gelu, rounding) is done to one square while the tiles multiply the next. Rows and
// panels are counted in bytes, for bfloat16 and 8-bit integers alike: a step of a product takes 64 bytes of each row.

#pragma once

#include <sys/syscall.h>
#include <unistd.h>

#include "vec.hpp"

namespace {

constexpr long SIDE = 32;
constexpr long STEP = 64;           // bytes of a row of a tile
constexpr long PAIR = 2 * 16 * 64;  // bytes of a step of a panel: two tiles

// bytes from row to row: an odd number of cache lines, so that the rows of a tile fall into different sets
inline long stride_of(long bytes) { return (bytes / 64 | 1) * 64; }

struct alignas(64) TileShapes {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// whether the system lets this process use tiles; asking is what turns them on
inline bool allow_tiles() { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

enum Kind { FLOATS, SIGNED, UNSIGNED };  // bfloat16, or 8-bit integers times signed ones

template <Kind kind>
struct Sum { typedef int32_t type; };
template <>
struct Sum<FLOATS> { typedef float type; };

#define MULTIPLY(c, a, b) \
  if constexpr (kind == FLOATS) _tile_dpbf16ps(c, a, b); \
  else if constexpr (kind == SIGNED) _tile_dpbssd(c, a, b); \
  else _tile_dpbusd(c, a, b);

// sums (32, 32) = 32 rows of a times a panel of 32 columns; meanwhile(step) is for the units that tiles leave idle
template <Kind kind, class Meanwhile>
inline __attribute__((always_inline)) void square(
    const void *a, long stride, const void *panel, long steps, void *sums, long sums_stride, Meanwhile meanwhile) {
  const char *above = (const char *)a, *below = above + 16 * stride;
  const char *left = (const char *)panel, *right = left + PAIR / 2;
  char *out = (char *)sums;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (long step = 0; step < steps; step++) {
    _tile_loadd(4, above + step * STEP, stride);
    _tile_loadd(6, left + step * PAIR, 64);
    MULTIPLY(0, 4, 6)
    _tile_loadd(7, right + step * PAIR, 64);
    MULTIPLY(1, 4, 7)
    _tile_loadd(5, below + step * STEP, stride);
    MULTIPLY(2, 5, 6)
    MULTIPLY(3, 5, 7)
    meanwhile(step);
  }
  _tile_stored(0, out, sums_stride);
  _tile_stored(1, out + 64, sums_stride);
  _tile_stored(2, out + 16 * sums_stride, sums_stride);
  _tile_stored(3, out + 16 * sums_stride + 64, sums_stride);
}

inline void square(const void *a, long stride, const void *panel, long steps, float *sums, long sums_stride) {
  square<FLOATS>(a, stride, panel, steps, sums, sums_stride, [](long) {});
}

// a (rows, 64 * steps bytes) times panels that lie `next` bytes apart; finish(line, row, column) takes 32 sums of a row.
// Each panel is fetched from memory while the one before is multiplied.
template <Kind kind, class Finish>
inline void product(
    const void *a, long stride, long rows, const char *panel, long next, long steps, long columns, Finish finish) {
  alignas(64) typename Sum<kind>::type squares[2][SIDE * SIDE];
  long lines = (SIDE + steps - 1) / steps, done_row = 0, done_column = -1;
  long fetched = up_to(PAIR / ((rows + SIDE - 1) / SIDE), 64);
  int turn = 0;
  for (long column = 0; column < columns; column += SIDE, panel += next) {
    for (long row = 0; row < rows; row += SIDE, turn ^= 1) {
      const auto *done = squares[turn ^ 1];
      const char *soon = panel + next + row / SIDE * fetched;
      square<kind>((const char *)a + row * stride, stride, panel, steps, squares[turn], SIDE * 4, [&](long step) {
        for (long byte = 0; byte < fetched; byte += 64) _mm_prefetch(soon + step * PAIR + byte, _MM_HINT_T1);
        if (done_column < 0) return;
        for (long line = step * lines; line < (step + 1) * lines && line < SIDE; line++)
          finish(done + line * SIDE, done_row + line, done_column);
      });
      done_row = row;
      done_column = column;
    }
  }
  for (long line = 0; line < SIDE; line++) finish(squares[turn ^ 1] + line * SIDE, done_row + line, done_column);
}

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
