// An order of the points that puts near ones into the same panels, so that balls around panels are small (walk.hpp).
// Any order gives the same labels; it only decides how much work can be left out.
#pragma once

#include <cstdint>
#include <vector>

#include "dbscan/job.hpp"

namespace tmor::dbscan {

struct Order {
  std::vector<uint32_t> places;  // a multiple of kWidth, kNobody where a panel has gaps
  bool sorted = false;           // false: the caller's order, because sorting would gain nothing
  uint64_t checksum = 0;
};

// `arithmetic` is what leaders are compared in.
Order choose_order(Job* job, Arithmetic arithmetic);

}  // namespace tmor::dbscan
