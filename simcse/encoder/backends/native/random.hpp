// Random bits by a counter, so that any part of them can be made alone, and again.

#pragma once

#include <stdint.h>
#include <string.h>

namespace {

// the `i`th number of SplitMix64 (Steele, Lea and Flood 2014) behind `seed`
inline uint64_t random_bits(uint64_t seed, long i) {
  uint64_t z = seed + (uint64_t)(i + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// keep (up to 256, a multiple of 4) = one where 16 bits of those from the `i`th number on are at least `drop`, else 0
template <class To>
inline void keep_some(uint64_t seed, long i, uint32_t drop, long count, To one, To *keep) {
  uint64_t draws[64];
  uint16_t bits[256];
  for (long j = 0; j < 64; j++) draws[j] = random_bits(seed, i + j);
  memcpy(bits, draws, sizeof bits);
  if (count >= 256)
    for (long j = 0; j < 256; j++) keep[j] = bits[j] >= drop ? one : 0;
  else
    for (long j = 0; j < count; j++) keep[j] = bits[j] >= drop ? one : 0;
}

}  // namespace
