// exp2 and gelu on lanes, for layer.cpp and training.cpp, which include lanes first.

#pragma once

namespace {

constexpr bool EXACT = sizeof(number) == 4;  // float32: functions to its precision, not to that of bfloat16

// sum of c[i] * x^i
template <int count>
inline lanes polynomial(const float (&c)[count], lanes x) {
  lanes sum = all(c[count - 1]);
#pragma GCC unroll 8
  for (int i = count - 2; i >= 0; i--) sum = fused(sum, x, all(c[i]));
  return sum;
}

// 2^x for x <= 0, to 4e-6 of itself, or 2e-7
inline lanes exp2(lanes x) {
  x = larger(all(-126.0f), x);
  lanes whole = nearest(x), rest = x - whole;
  lanes power = EXACT ? polynomial({1.0f, 0.693147181f, 0.240226507f, 0.0555041087f, 0.00961812911f, 0.00133335581f,
                                    0.000154035304f}, rest)
                      : polynomial({1.0f, 0.69314718f, 0.24022651f, 0.05550411f, 0.009618129f}, rest);
  return times_power_of_2(power, whole);
}

// x * (1/2 and an odd polynomial with the least error on [-4, 4], exact at its ends): off by 0.00013 at most
inline lanes near_gelu(lanes x) {
  lanes near = smaller(all(4.0f), larger(all(-4.0f), x));
  lanes sum = polynomial({0.39818633f, -0.06506377f, 0.0090395929f, -0.00088275902f, 5.7392581e-5f, -2.3095048e-6f,
                          5.0507778e-8f, -4.3768257e-10f}, near * near);
  return x * fused(sum, near, all(0.5f));
}

// with erfc to 1.5e-7 (Abramowitz and Stegun, 7.1.26)
inline lanes exact_gelu(lanes x) {
  lanes size = magnitude(x), t = all(1.0f) / fused(size, all(0.3275911f * 0.70710678f), all(1.0f));
  lanes sum = polynomial({0.254829592f, -0.284496736f, 1.421413741f, -1.453152027f, 1.061405429f}, t);
  return larger(all(0), x) - all(0.5f) * size * t * sum * exp2(x * x * all(-0.5f * 1.44269504f));
}

inline lanes gelu(lanes x) { return EXACT ? exact_gelu(x) : near_gelu(x); }

}  // namespace
