// Sixteen float32 lanes by AVX-512, kept in memory as bfloat16 or bytes: the words that layer.cpp and panels.hpp are written in.

#pragma once

#include "lanes512.hpp"

namespace {

typedef uint16_t number;  // of states and weights in memory: bfloat16

inline lanes load(const number *from) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16));
}
inline void store(number *to, lanes low, lanes high) {
  _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

// rows of 32 numbers, as many as share a column's four bytes (two), null for zeros -> 16 columns, and 16 more
inline void interleave(const number *const *rows, char *left, char *right) {
  alignas(64) uint16_t order[2][32];
  for (int i = 0; i < 32; i++) order[0][i] = i / 2 + i % 2 * 32, order[1][i] = order[0][i] + 16;
  __m512i even = rows[0] ? _mm512_loadu_si512(rows[0]) : _mm512_setzero_si512();
  __m512i odd = rows[1] ? _mm512_loadu_si512(rows[1]) : _mm512_setzero_si512();
  _mm512_storeu_si512(left, _mm512_permutex2var_epi16(even, _mm512_load_si512(order[0]), odd));
  _mm512_storeu_si512(right, _mm512_permutex2var_epi16(even, _mm512_load_si512(order[1]), odd));
}

}  // namespace
