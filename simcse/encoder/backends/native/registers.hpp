// Matrix products by vector registers, LINES rows by two registers of a panel's columns at a time, their sums in registers.
//
// For each four bytes of a row one broadcast meets two registers of the panel. VNNI multiplies unsigned bytes by signed
// ones: signed rows come with their sign bits turned over, which adds 128 to each, and their sums begin at what takes
// that away again. A micro-kernel defines `floats` and `integers`, a register each, broadcast and multiply_add first.

#pragma once

namespace {

constexpr long WIDE = sizeof(floats);         // bytes of a register
constexpr long PARTS = 64 / WIDE;             // of a panel, two registers wide each
constexpr char FLIPPED = (char)0x80;          // bits of signed bytes that a product expects turned over

inline bool allow() { return true; }

struct Unit {};  // nothing to turn on

template <Kind kind>
struct Register { typedef integers type; };
template <>
struct Register<FLOATS> { typedef floats type; };

// register 0 or 1 of a part of a panel's line
inline const char *columns_of(const char *panel, long line, long part, long one) {
  return panel + line * LINE + (2 * part + one) * WIDE;
}

// sums (lines, two registers) = begin + rows of a times a part of a panel; soon(step) fetches what comes next
template <int lines, class Vector, class Soon>
inline __attribute__((always_inline)) void tile(
    const char *a, long stride, const char *panel, long part, long steps, const Vector *begin, char *sums,
    long sums_stride, Soon soon) {
  Vector sum[lines][2];
#pragma GCC unroll 16
  for (int line = 0; line < lines; line++) sum[line][0] = begin[0], sum[line][1] = begin[1];
  for (long step = 0; step < steps; step++, a += STEP, panel += PAIR) {
    soon(step);
#pragma GCC unroll 4
    for (long i = 0; i < 16; i++) {
      Vector left, right, same;
      memcpy(&left, columns_of(panel, i, part, 0), WIDE);
      memcpy(&right, columns_of(panel, i, part, 1), WIDE);
#pragma GCC unroll 16
      for (int line = 0; line < lines; line++) {
        broadcast(a + line * stride + i * 4, same);
        sum[line][0] = multiply_add(sum[line][0], left, same);
        sum[line][1] = multiply_add(sum[line][1], right, same);
      }
    }
  }
#pragma GCC unroll 16
  for (int line = 0; line < lines; line++) memcpy(sums + line * sums_stride, sum[line], 2 * WIDE);
}

// sums of up to LINES rows times a whole panel: of no more lines than `rows` up to a multiple of LINES / 2
template <class Vector, class Soon>
inline __attribute__((always_inline)) void lines_of(
    long rows, const char *a, long stride, const char *panel, long steps, const Vector (*begin)[2], void *sums,
    long sums_stride, Soon soon) {
  for (long part = 0; part < PARTS; part++) {
    auto fetch = [&](long step) { if (part == 0) soon(step); };
    char *to = (char *)sums + part * 2 * WIDE;
    if (rows > LINES / 2) tile<LINES>(a, stride, panel, part, steps, begin[part], to, sums_stride, fetch);
    else tile<LINES / 2>(a, stride, panel, part, steps, begin[part], to, sums_stride, fetch);
  }
}

// sums (32, 32) = 32 rows of a, of which `rows` are needed, times a panel; SPARE more may be written
inline void square(
    const void *a, long stride, const void *panel, long steps, float *sums, long sums_stride, long rows) {
  const floats zeros[PARTS][2] = {};
  for (long row = 0; row < rows; row += LINES)
    lines_of(rows - row, (const char *)a + row * stride, stride, (const char *)panel, steps, zeros,
             (char *)sums + row * sums_stride, sums_stride, [](long) {});
}

// a (rows, 64 * steps bytes) times panels that lie `next` bytes apart; finish(line, row, column) takes 32 sums of a row,
// which begin at those of its column, or at 0 where `begins` is null. Each panel is fetched from memory while the one
// before is multiplied.
template <Kind kind, class Finish>
inline void product(
    const void *a, long stride, long rows, const char *panel, long next, long steps, long columns,
    const int32_t *begins, Finish finish) {
  alignas(64) typename Sum<kind>::type sums[LINES * SIDE];
  typename Register<kind>::type begin[PARTS][2] = {};
  long fetched = up_to(PAIR / ((rows + LINES - 1) / LINES), 64);
  for (long column = 0; column < columns; column += SIDE, panel += next) {
    if (begins) memcpy(begin, begins + column, sizeof begin);
    for (long row = 0; row < rows; row += LINES) {
      const char *soon = panel + next + row / LINES * fetched;
      lines_of(rows - row, (const char *)a + row * stride, stride, panel, steps, begin, sums, SIDE * 4, [&](long step) {
        for (long byte = 0; byte < fetched; byte += 64) _mm_prefetch(soon + step * PAIR + byte, _MM_HINT_T1);
      });
      for (long line = 0; line < LINES && row + line < rows; line++) finish(sums + line * SIDE, row + line, column);
    }
  }
}

}  // namespace
