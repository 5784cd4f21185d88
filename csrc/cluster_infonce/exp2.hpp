// 2^x in float32, the one exponential of the CPU kernels.
//
// x is split into the nearest integer n and f = x - n in [-1/2, 1/2], both exact; 2^f is a polynomial of degree 6 in
// Horner's form and 2^n an exponent. Below kSmallestExponent the result is 0: next to the largest term of a softmax,
// 2^0, nothing there can be seen in float32, and no denormal number ever slows a product down. NaN stays NaN.
//
// Error, for kSmallestExponent <= x <= kLargestExponent: at most 1.02 units in the last place with fused multiply-add,
// 1.3 without. It depends on f alone, and 1.015 and 1.292 are the largest over every float32 f; csrc/tests and
// python_tests/ops/test_cluster_infonce_cpu.py sample the whole range.
#pragma once

namespace tmor::cluster_infonce {

constexpr float kSmallestExponent = -100.0F;
constexpr float kLargestExponent = 120.0F;

// Minimax of (2^f - 1) / f weighted by f / 2^f on [-1/2, 1/2]; the constant term is 1.
constexpr float kExp2[] = {0.693147242F, 0.240226522F, 0.0555031039F, 0.00961769279F, 0.00134066434F, 0.000155946764F};

}  // namespace tmor::cluster_infonce
