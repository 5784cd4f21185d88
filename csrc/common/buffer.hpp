// Memory for numbers that starts on a cache line and holds nothing in particular at first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace tmor {

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

}  // namespace tmor
