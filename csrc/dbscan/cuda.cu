// One CUDA run of dbscan from beginning to end: where everything lies in the workspace, and which kernels run in which
// order. Nothing here waits for the device.
#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "common/carver.hpp"
#include "common/cuda_launch.hpp"
#include "dbscan/cuda_kernels.hpp"
#include "dbscan/cuda_params.hpp"

namespace tmor::dbscan {
namespace {

constexpr int64_t kReorderFrom = 8192;  // points from which sorting by place pays
constexpr int64_t kMostPivots = 8192;
constexpr int kCounters = 16;

// About 4 sqrt(n): with four a cluster, hardly any of sqrt(n) equal clusters goes without.
int64_t pivots_for(int64_t n) {
  const auto wanted = static_cast<int64_t>(4.0 * std::sqrt(static_cast<double>(n)));
  return std::clamp((wanted + kPanel - 1) / kPanel * kPanel, int64_t{kPanel}, kMostPivots);
}

bool takes_lists(int64_t min_samples, bool weighted) { return !weighted && min_samples <= kMaxListSamples; }

// Without lists the capacity is what core points count up to, at least 1 so that a count of 0 is not core.
int64_t capacity_for(int64_t n, int64_t min_samples, bool weighted) {
  const int64_t capacity = std::min(min_samples - 1, n);
  if (weighted) return 1;
  return takes_lists(min_samples, weighted) ? capacity : std::max<int64_t>(1, capacity);
}

struct Workspace {
  Centring centring;
  Panels panels;
  Panels pivots;
  Cells cells;
  Numbering numbering;
  NeighbourLists lists;
  UnionFind sets;
  unsigned long long* zeros = nullptr;  // the counters, then the cells' sizes: cleared together
  unsigned long long* counters = nullptr;
  int64_t zero_bytes = 0;
  int64_t* panel_count = nullptr;
  int64_t* pivot_panel_count = nullptr;
  uint32_t* leader = nullptr;
  uint32_t* finished = nullptr;
  uint32_t* kinds = nullptr;
  uint32_t* best = nullptr;
  int64_t positions = 0;
  int64_t most_panels = 0;
  int64_t pivot_count = 0;
  int64_t bytes = 0;
};

Panels carve_panels(Carver* carver, int64_t positions, int64_t dimensions, bool summary) {
  Panels panels;
  const int64_t count = positions / kPanel;
  panels.padded = (dimensions + kSlice - 1) / kSlice * kSlice;
  panels.order = carver->take<uint32_t>(positions);
  panels.values = carver->take<uint16_t>(positions * panels.padded);
  panels.norm = carver->take<float>(positions);
  panels.residual = carver->take<float>(positions);
  if (!summary) return panels;
  panels.length = carver->take<float>(count);
  panels.slack = carver->take<float>(count);
  panels.radius = carver->take<float>(count);
  panels.centroid = carver->take<float>(count * dimensions);
  return panels;
}

Workspace carve(void* memory, int64_t n, int64_t dimensions, int64_t min_samples, bool weighted) {
  Workspace w;
  Carver carver(memory);
  w.positions = most_positions(n);
  w.most_panels = w.positions / kPanel;
  w.pivot_count = pivots_for(n);
  w.cells.cells = 2 * w.pivot_count;
  w.zero_bytes = (kCounters + w.cells.cells / 2) * 8;
  w.zeros = carver.take<unsigned long long>(kCounters + w.cells.cells / 2);
  w.counters = w.zeros;
  if (memory != nullptr) w.cells.size = reinterpret_cast<uint32_t*>(w.zeros + kCounters);
  w.centring.centre = carver.take<double>(dimensions);
  w.centring.frame = carver.take<Frame>(1);
  w.panel_count = carver.take<int64_t>(2);
  if (memory != nullptr) w.pivot_panel_count = w.panel_count + 1;
  w.panels = carve_panels(&carver, w.positions, dimensions, true);
  w.pivots = carve_panels(&carver, w.pivot_count, dimensions, false);
  w.leader = carver.take<uint32_t>(w.pivot_count);
  w.cells.of_point = carver.take<uint32_t>(n);
  w.cells.next = carver.take<uint32_t>(w.cells.cells);
  w.finished = carver.take<uint32_t>(w.most_panels);
  w.lists.capacity = static_cast<uint32_t>(capacity_for(n, min_samples, weighted));
  w.lists.count = carver.take<uint32_t>(n);
  w.sets.parent = carver.take<uint32_t>(n);
  if (takes_lists(min_samples, weighted)) {
    w.lists.slots = carver.take<uint32_t>(std::max<int64_t>(1, n * w.lists.capacity));
  } else {
    w.kinds = carver.take<uint32_t>(w.most_panels);
    w.best = carver.take<uint32_t>(n);
  }
  w.numbering.number = reinterpret_cast<int32_t*>(w.cells.of_point);  // cells are done with by then
  w.numbering.of_chunk = carver.take<int32_t>(Numbering::chunks(n));
  w.bytes = carver.used();
  return w;
}

Device query_device(int index, uintptr_t stream) {
  Device device;
  device.multiprocessors = device_attribute(index, cudaDevAttrMultiProcessorCount);
  device.shared_per_block = device_attribute(index, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  device.shared_per_multiprocessor = device_attribute(index, cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  device.stream = reinterpret_cast<cudaStream_t>(stream);
  return device;
}

class Run {
 public:
  Run(const CudaParams& params, const Input& input)
      : params_(params),
        device_(query_device(params.device, params.stream)),
        input_(input),
        work_(carve(params.workspace, params.n, params.dimensions, params.min_samples, params.weight != nullptr)) {
    work_.centring.longest = take_counter();
    work_.centring.bad_row = reinterpret_cast<unsigned long long*>(params.status + kStatusBadRow);
    field_.input = input_;
    field_.panels = work_.panels;
    field_.frame = work_.centring.frame;
    field_.panel_count = work_.panel_count;
    field_.lists = work_.lists;
    field_.sets = work_.sets;
    field_.finished = work_.finished;
    field_.kinds = work_.kinds;
    field_.best = work_.best;
    field_.tiles = reinterpret_cast<uint64_t*>(params.status + kStatusTiles);
    field_.rechecked = reinterpret_cast<uint64_t*>(params.status + kStatusRechecked);
    field_.min_samples = params.min_samples;
  }

  void run() {
    clear(work_.zeros, 0, work_.zero_bytes);
    start(device_, params_.n, work_.lists, work_.sets, params_.status);
    centre_points(device_, input_, work_.centring);
    const int64_t panels = (params_.n + kPanel - 1) / kPanel;
    order_as_given(device_, input_, work_.panels.order, panels * kPanel, work_.panel_count, panels);
    pack_panels(device_, input_, work_.centring, work_.panels, work_.panel_count, panels);
    if (params_.weight != nullptr) sweep_once(Mode::weigh, false);
    if (params_.reorder == 1 || (params_.reorder < 0 && params_.n >= kReorderFrom)) sort_by_place(panels);
    if (work_.lists.slots != nullptr) {
      sweep_all(Mode::one_pass);
      unite_lists(device_, field_);
    } else {
      if (params_.weight == nullptr) sweep_all(Mode::count);
      find_kinds(device_, field_, work_.kinds, work_.most_panels);
      sweep_all(Mode::connect);
      clear(work_.best, 0xff, params_.n * 4);
      sweep_all(Mode::border);
    }
    write_labels(device_, field_, work_.numbering, params_.labels, params_.core, params_.status);
  }

 private:
  unsigned long long* take_counter() {
    if (counters_ == kCounters) throw std::logic_error("dbscan: more launches than counters");
    return work_.counters + counters_++;
  }

  void clear(void* memory, int value, int64_t bytes) const {
    check_cuda(cudaMemsetAsync(memory, value, static_cast<size_t>(bytes), device_.stream), "clearing dbscan's memory");
  }

  // A panel in a cell of its own kind, cells of one dense cluster together, noise apart.
  void sort_by_place(int64_t panels) {
    choose_pivots(device_, input_, work_.pivots.order, work_.pivot_count, work_.pivot_panel_count);
    const int64_t pivot_panels = work_.pivot_count / kPanel;
    pack_panels(device_, input_, work_.centring, work_.pivots, work_.pivot_panel_count, pivot_panels);
    AssignTask task;
    task.frame = work_.centring.frame;
    task.pivots = work_.pivots;
    task.pivot_panels = static_cast<int32_t>(pivot_panels);
    task.pivot_count = static_cast<uint32_t>(work_.pivot_count);
    task.rows = work_.pivots;
    task.row_panels = pivot_panels;
    task.points = work_.pivot_count;
    task.answer = work_.leader;
    assign(device_, task, take_counter());
    task.rows = work_.panels;
    task.row_panels = panels;
    task.points = params_.n;
    task.leader = work_.leader;
    task.answer = work_.cells.of_point;
    assign(device_, task, take_counter());
    order_by_cells(device_, work_.centring.frame, params_.n, work_.cells, work_.panels.order, work_.positions,
                   work_.panel_count);
    pack_panels(device_, input_, work_.centring, work_.panels, work_.panel_count, work_.most_panels);
  }

  void sweep_once(Mode mode, bool diagonal) {
    if (diagonal || mode == Mode::weigh) clear(work_.finished, 0, work_.most_panels * 4);
    field_.mode = mode;
    field_.diagonal = diagonal;
    sweep(device_, field_, take_counter());
  }

  void sweep_all(Mode mode) {
    sweep_once(mode, true);
    sweep_once(mode, false);
  }

  const CudaParams& params_;
  const Device device_;
  const Input input_;
  Workspace work_;
  Field field_;
  int counters_ = 0;
};

}  // namespace

int64_t cuda_workspace(int64_t n, int64_t dimensions, int64_t min_samples, bool weighted) {
  return carve(nullptr, n, dimensions, min_samples, weighted).bytes;
}

void run_cuda(const CudaParams& params) {
  const Input input = as_input(params);
  const DeviceGuard guard(params.device);
  Run(params, input).run();
}

}  // namespace tmor::dbscan
