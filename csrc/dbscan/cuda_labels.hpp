// The end of a CUDA run, point by point, once all unions are made. Shared with the host's test.
#pragma once

#include <cstdint>

#include "dbscan/cuda_sweep.hpp"

namespace tmor::dbscan {

// A component's root is its smallest point, so its first core point in the caller's order.
TMOR_HOST_DEVICE bool starts_cluster(const Field& field, uint32_t point) {
  return field.lists.core(point) && field.sets.find(point) == point;
}

// `number` holds the cluster of every root. Borders come from the lists, or from field.best where there are none.
TMOR_HOST_DEVICE int64_t label_of(const Field& field, const int32_t* number, uint32_t point) {
  if (field.lists.slots != nullptr || field.lists.core(point)) {
    return finish_label(field.lists, field.sets, number, point);
  }
  const uint32_t best = shared_load(field.best + point);
  return best == kNobody ? -1 : number[best];
}

// What kind of points a position adds to its panel.
TMOR_HOST_DEVICE uint32_t kind_of(const Field& field, int64_t position) {
  const uint32_t point = field.panels.order[position];
  if (point == kNobody) return 0;
  return field.lists.core(point) ? kHasCore : kHasOther;
}

}  // namespace tmor::dbscan
