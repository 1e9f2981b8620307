// Matrix products by AMX tiles, square by square (32 x 32 sums: two tiles by two).
//
// What follows a product (bias, gelu, rounding) is done to one square while the tiles multiply the next.

#pragma once

#include <sys/syscall.h>
#include <unistd.h>

#include "vec512.hpp"

namespace {

constexpr long LINE = 64, HALF = 1024;  // a tile reads 16 lines of 16 columns

}  // namespace

#include "panels.hpp"

namespace {

constexpr long BLOCK = 384;  // rows that pass a layer together: more read the weights less often, but leave the cache
constexpr long CHUNK = 768;  // bytes of a row of the inner width, or of queries, keys and values, at a time

struct alignas(64) TileShapes {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// whether the system lets this process use tiles; asking is what turns them on
inline bool allow() { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

// the tiles, while it lives
struct Unit {
  Unit() { TileShapes shapes; _tile_loadconfig(&shapes); }
  ~Unit() { _tile_release(); }
};

constexpr char FLIPPED = 0;  // bits of signed bytes that a product expects turned over

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

inline void square(
    const void *a, long stride, const void *panel, long steps, float *sums, long sums_stride, long /* rows */) {
  square<FLOATS>(a, stride, panel, steps, sums, sums_stride, [](long) {});
}

// a (rows, 64 * steps bytes) times panels that lie `next` bytes apart; finish(line, row, column) takes 32 sums of a row.
// Each panel is fetched from memory while the one before is multiplied.
template <Kind kind, class Finish>
inline void product(
    const void *a, long stride, long rows, const char *panel, long next, long steps, long columns,
    const int32_t * /* begins: nothing is turned over */, Finish finish) {
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

}  // namespace
