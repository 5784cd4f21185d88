#include "cluster_infonce/codes.hpp"

namespace tmor::cluster_infonce {

Codes::Codes(const int64_t* ids, int64_t n, bool negative_is_none) : negative_is_none_(negative_is_none) {
  int bits = 4;
  while ((int64_t{1} << bits) < 2 * n) ++bits;
  shift_ = 64 - bits;
  slots_.assign(std::size_t{1} << bits, Slot{0, kKeyNone});
  queries_.resize(static_cast<std::size_t>(n), kQueryNone);
  int32_t next = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (negative_is_none && ids[i] < 0) continue;
    Slot& slot = slots_[place(ids[i])];
    if (slot.code == kKeyNone) slot = Slot{ids[i], next++};
    queries_[static_cast<std::size_t>(i)] = slot.code;
  }
}

// The slot of `id`, or the free one where it would be. At most half of the slots are taken, so there is one.
std::size_t Codes::place(int64_t id) const {
  constexpr uint64_t kGolden = 0x9E3779B97F4A7C15U;
  const std::size_t mask = slots_.size() - 1;
  std::size_t at = static_cast<std::size_t>((static_cast<uint64_t>(id) * kGolden) >> shift_);
  while (slots_[at].code != kKeyNone && slots_[at].id != id) at = (at + 1) & mask;
  return at;
}

void Codes::of_keys(const int64_t* ids, int64_t n, int32_t* codes) const {
  for (int64_t j = 0; j < n; ++j) {
    codes[j] = negative_is_none_ && ids[j] < 0 ? kKeyNone : slots_[place(ids[j])].code;
  }
}

}  // namespace tmor::cluster_infonce
