// The products of registers.hpp by AVX2 and FMA; of integers by AVX-VNNI.

#pragma once

#include "floats256.hpp"

namespace {

inline integers multiply_add(integers sum, integers columns, integers four) {
  return _mm256_dpbusd_epi32(sum, four, columns);
}

}  // namespace

#include "registers.hpp"
