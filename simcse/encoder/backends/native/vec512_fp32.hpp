// Sixteen float32 lanes by AVX-512, kept in memory as float32: the words that layer.cpp and panels.hpp are written in.

#pragma once

#include "lanes512.hpp"

namespace {

typedef float number;  // of states and weights in memory

inline void store(number *to, lanes low, lanes high) { store(to, low), store(to + 16, high); }

// a row of 32 numbers, null for zeros -> 16 columns, and 16 more
inline void interleave(const number *const *rows, char *left, char *right) {
  store((float *)left, rows[0] ? load(rows[0]) : all(0));
  store((float *)right, rows[0] ? load(rows[0] + 16) : all(0));
}

}  // namespace
