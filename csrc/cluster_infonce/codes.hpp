// Row, cluster and caption ids as small numbers that compare in one 32-bit operation.
//
// A query's code is the place of its id among the distinct ids of the queries; a key's is that of the equal one, so two
// codes are equal where the ids are. What equals nothing (noise, no caption, an id that no query has) gets a code of
// its side: kQueryNone and kKeyNone differ.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tmor::cluster_infonce {

constexpr int32_t kQueryNone = -1;
constexpr int32_t kKeyNone = -2;

class Codes {
 public:
  // `ids` (n,); where `negative_is_none`, a negative id equals nothing.
  Codes(const int64_t* ids, int64_t n, bool negative_is_none);

  int32_t of_query(int64_t place) const { return queries_[static_cast<std::size_t>(place)]; }
  void of_keys(const int64_t* ids, int64_t n, int32_t* codes) const;

 private:
  struct Slot {
    int64_t id;
    int32_t code;  // kKeyNone: free
  };
  std::size_t place(int64_t id) const;

  bool negative_is_none_;
  int shift_ = 0;
  std::vector<Slot> slots_;
  std::vector<int32_t> queries_;
};

}  // namespace tmor::cluster_infonce
