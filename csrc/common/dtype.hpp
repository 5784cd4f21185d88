// Number types as tmor_fast/ops/launch.py passes them. Both lists must agree.
#pragma once

namespace tmor {

enum class DType : int {
  float32 = 0,
  float64 = 1,
  float16 = 2,
  bfloat16 = 3,
  int64 = 4,
  int32 = 5,
  uint8 = 6,
  boolean = 7
};

}  // namespace tmor
