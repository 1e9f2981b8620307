// What both micro-kernels of 256 bits share: products of float32 by FMA, six rows by 16 columns, eight reads for twelve.

#pragma once

#include "vec256.hpp"

namespace {

constexpr long LINE = 128, HALF = 64;  // one after the other, as the registers read them: memory comes faster in order
constexpr long BLOCK = 192;  // rows that pass a layer together: more read the weights less often, but leave the cache
constexpr long CHUNK = 1536;  // bytes of a row of the inner width, or of queries, keys and values, at a time
constexpr long LINES = 6;

typedef __m256 floats;
typedef __m256i integers;

inline void broadcast(const char *from, floats &to) { to = _mm256_broadcast_ss((const float *)from); }
inline void broadcast(const char *from, integers &to) { to = _mm256_set1_epi32(*(const int32_t *)from); }
inline floats multiply_add(floats sum, floats columns, floats same) { return _mm256_fmadd_ps(columns, same, sum); }

}  // namespace

#include "panels.hpp"
