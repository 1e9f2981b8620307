// The products of registers.hpp by AVX-512 in float32: eight rows by 32 columns, ten reads for sixteen products.
//
// For processors without the BF16 instructions. Integers need VNNI: see microkernel_avx2.hpp.

#pragma once

#include "vec512_fp32.hpp"

namespace {

constexpr long LINE = 128, HALF = 64;  // one after the other, as the registers read them: memory comes faster in order
constexpr long BLOCK = 384;  // rows that pass a layer together: more read the weights less often, but leave the cache
constexpr long CHUNK = 1536;  // bytes of a row of the inner width, or of queries, keys and values, at a time
constexpr long LINES = 8;

typedef __m512 floats;
typedef __m512i integers;

inline void broadcast(const char *from, floats &to) { to = _mm512_set1_ps(*(const float *)from); }
inline void broadcast(const char *from, integers &to) { to = _mm512_set1_epi32(*(const int32_t *)from); }
inline floats multiply_add(floats sum, floats columns, floats same) { return _mm512_fmadd_ps(columns, same, sum); }
inline integers multiply_add(integers sum, integers columns, integers four) {
  return _mm512_dpbusd_epi32(sum, four, columns);
}

}  // namespace

#include "panels.hpp"

#include "registers.hpp"
