// Operands of products laid out for the micro-kernels: panels of 32 columns, a step of 64 bytes of each row after another.
//
// Rows and panels are counted in bytes, for numbers and 8-bit integers alike: a step of a product takes 64 bytes of each
// row, and of a panel 16 lines of 16 columns, four bytes each, twice. A micro-kernel includes a vec*.hpp first, and says
// how lines lie: LINE bytes from one to the next, HALF from its first 16 columns to the others.

#pragma once

namespace {

constexpr long SIDE = 32;
constexpr long SPARE = 8;                     // rows beyond 32 that `square` may read and write
constexpr long STEP = 64;                     // bytes of a row in a step
constexpr long PAIR = 2 * 16 * 64;            // bytes of a panel in a step
constexpr long BYTES = sizeof(number);
constexpr long TOGETHER = 4 / BYTES;          // numbers in a column's four bytes

inline long up_to(long n, long step) { return (n + step - 1) / step * step; }

// bytes from row to row: an odd number of cache lines, so that neighbouring rows fall into different sets
inline long stride_of(long bytes) { return (bytes / 64 | 1) * 64; }

enum Kind { FLOATS, SIGNED, UNSIGNED };  // numbers, or 8-bit integers times signed ones

template <Kind kind>
struct Sum { typedef int32_t type; };
template <>
struct Sum<FLOATS> { typedef float type; };

// (rows, width bytes) -> panels of 32 rows each, over the width
void panels_of_rows(const void *from, long stride, long rows, long width, void *to) {
  char *out = (char *)to;
  for (long row = 0; row < rows; row += SIDE)
    for (long column = 0; column < width; column += STEP, out += PAIR)
      for (long half = 0; half < 2; half++)
        transpose((const char *)from + (row + 16 * half) * stride + column, stride, out + half * HALF, LINE);
}

// (rows, columns) -> panels of 32 columns each, over the rows; rows up to the next multiple of 32 are zeros
void panels_of_columns(const number *from, long stride, long rows, long columns, number *to) {
  char *out = (char *)to;
  for (long column = 0; column < columns; column += SIDE)
    for (long step = 0; step < up_to(rows, SIDE); step += STEP / BYTES, out += PAIR)
      for (long line = 0; line < 16; line++) {
        const number *together[TOGETHER];
        for (long i = 0, row = step + line * TOGETHER; i < TOGETHER; i++, row++)
          together[i] = row < rows ? (const number *)((const char *)(from + column) + row * stride) : nullptr;
        interleave(together, out + line * LINE, out + line * LINE + HALF);
      }
}

}  // namespace
