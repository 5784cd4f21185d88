// What a vector type of the CPU kernels has. There is one in each of simd_<isa>.hpp, in an unnamed namespace: the file
// that includes it is compiled for that instruction set, and nothing of it may be shared with other files.
//   kLanes, kVectors, kSums      numbers in a register; registers in a panel; sums that `multiply` keeps in registers
//   kDots                        a side of the square of sums that products of rows keep in registers
//   Register, Mask               float32 numbers; one truth value a lane
//   load, store, broadcast, add, subtract, multiply, multiply_add
//   maximum(a, b)                b where either is NaN
//   sum(x)                       of all lanes
//   equal(codes, code)           which of the kLanes int32 at `codes` are `code`
//   both, either, without        a & b, a | b, a & ~b
//   select(mask, a, b)           a where the mask is set, else b
//   bits(mask)                   lane i as bit i
//   at_least(x, bound)           x >= bound or NaN
//   nearest(x), scale(x, n)      x rounded to an integer; x * 2^n for an integer n
//   from_half, to_half           arrays of float16 to float32 and back
#pragma once
