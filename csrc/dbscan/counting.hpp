// The sweeps beside the one pass: who is core where that takes more than short lists (more than 64 samples, weights),
// and which cluster a border point then takes.
#pragma once

#include <cstdint>
#include <vector>

#include "dbscan/components.hpp"
#include "dbscan/walk.hpp"

namespace tmor::dbscan {

// Each returns the core lanes of every panel; the sweep is the part `first` to `last` of the run.
std::vector<uint64_t> count_core(Job* job, const Field& field, double first, double last);
std::vector<uint64_t> weigh_core(Job* job, const Field& field, double first, double last);

// Labels the points that are not core but reached from a core point. `components` are finished.
void reach_borders(Job* job, const Field& field, const std::vector<uint64_t>& core, const Components& components,
                   double first, double last);

}  // namespace tmor::dbscan
