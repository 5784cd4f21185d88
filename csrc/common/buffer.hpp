// Memory for numbers that starts on a cache line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace tmor {

// Holds nothing in particular at first.
template <typename T>
class RawBuffer {
 public:
  explicit RawBuffer(int64_t n = 0)
      : values_(static_cast<T*>(::operator new[](static_cast<std::size_t>(n > 0 ? n : 1) * sizeof(T), kAlignment))) {}
  T* data() { return values_.get(); }
  const T* data() const { return values_.get(); }
  T& operator[](int64_t i) { return values_.get()[i]; }
  const T& operator[](int64_t i) const { return values_.get()[i]; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Delete {
    void operator()(T* memory) const { ::operator delete[](memory, kAlignment); }
  };
  std::unique_ptr<T, Delete> values_;
};

// Holds zeros at first.
template <typename T>
class Buffer : public RawBuffer<T> {
 public:
  explicit Buffer(int64_t n = 0) : RawBuffer<T>(n) {
    for (int64_t i = 0; i < n; ++i) (*this)[i] = T{};
  }
};

}  // namespace tmor
