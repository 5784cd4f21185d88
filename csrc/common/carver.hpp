// Pieces of one workspace, each at a multiple of 256 bytes.
#pragma once

#include <cstdint>

#include "common/round_up.hpp"

namespace tmor {

// Hands out pieces of the memory, or adds up their sizes where there is none yet.
class Carver {
 public:
  explicit Carver(void* memory) : memory_(static_cast<unsigned char*>(memory)) {}

  template <typename T>
  T* take(int64_t count) {
    T* piece = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + used_);
    used_ += round_up(count * static_cast<int64_t>(sizeof(T)), 256);
    return piece;
  }

  int64_t used() const { return used_; }

 private:
  unsigned char* memory_;
  int64_t used_ = 0;
};

}  // namespace tmor
