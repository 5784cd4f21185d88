// The kernels' one template. Included by the kernel_<isa>.cpp files alone, which choose the vectors (common/simd.hpp).
#pragma once

#include "cluster_infonce/exp2.hpp"
#include "cluster_infonce/finish.hpp"
#include "cluster_infonce/kernel.hpp"
#include "common/half.hpp"
#include "common/multiply.hpp"

namespace tmor::cluster_infonce {
namespace {

constexpr float kMinusInfinity = -__builtin_inff();

template <typename Vector>
typename Vector::Register exp2(typename Vector::Register x) {
  using Register = typename Vector::Register;
  const Register n = Vector::nearest(x);
  const Register f = Vector::subtract(x, n);
  Register p = Vector::broadcast(kExp2[5]);
#pragma GCC unroll 5
  for (int i = 4; i >= 0; --i) p = Vector::multiply_add(p, f, Vector::broadcast(kExp2[i]));
  p = Vector::multiply_add(p, f, Vector::broadcast(1.0F));
  return Vector::select(Vector::at_least(x, kSmallestExponent), Vector::scale(p, n), Vector::broadcast(0.0F));
}

// Who is compared: A, the other rows of the query's cluster, and N, the negatives.
template <typename Vector>
struct Pairs {
  typename Vector::Mask aligned;
  typename Vector::Mask dropped;  // neither A nor N
};

template <typename Vector>
Pairs<Vector> pairs_of(const Tile& tile, int64_t key, int lane) {
  const auto same_id = Vector::equal(tile.query_id + lane, tile.key_id[key]);
  const auto cluster = Vector::equal(tile.query_cluster + lane, tile.key_cluster[key]);
  Pairs<Vector> pairs{Vector::without(cluster, same_id), same_id};
  if (tile.query_caption != nullptr) {
    const auto caption = Vector::equal(tile.query_caption + lane, tile.key_caption[key]);
    pairs.dropped = Vector::either(pairs.dropped, Vector::without(caption, pairs.aligned));
  }
  return pairs;
}

template <typename Vector>
bool mask(const Tile& tile, bool whole, float* maximum, float* aligned_maximum) {
  using Register = typename Vector::Register;
  constexpr int kLanes = Vector::kLanes;
  const Register excluded = Vector::broadcast(kMinusInfinity);
  const bool wanted = tile.aligned_lanes != nullptr;
  uint64_t any = 0;
  if (wanted) {
    for (int64_t key = 0; key < tile.keys; ++key) tile.aligned_lanes[key] = 0;
  }
  for (int lane = 0; lane < tile.width; lane += kLanes) {
    Register high = Vector::load(maximum + lane);
    for (int64_t key = 0; key < tile.keys; ++key) {
      float* place = tile.logits + key * tile.width + lane;
      Register logit = Vector::load(place);
      if (tile.key_weight != nullptr) logit = Vector::add(logit, Vector::broadcast(tile.key_weight[key]));
      const Pairs<Vector> pairs = pairs_of<Vector>(tile, key, lane);
      if (wanted) {
        const uint64_t lanes = Vector::bits(pairs.aligned);
        if (lanes != 0) {
          const Register kept = Vector::select(pairs.aligned, logit, excluded);
          Vector::store(aligned_maximum + lane, Vector::maximum(Vector::load(aligned_maximum + lane), kept));
          // Vectors of this row without a pair hold something old until now.
          if (tile.aligned_lanes[key] == 0) {
            for (int other = 0; other < tile.width; other += kLanes) {
              Vector::store(tile.aligned + key * tile.width + other, excluded);
            }
          }
          Vector::store(tile.aligned + key * tile.width + lane, kept);
          tile.aligned_lanes[key] |= lanes << lane;
          any |= lanes;
        }
      }
      const auto out = whole ? pairs.dropped : Vector::either(pairs.dropped, pairs.aligned);
      logit = Vector::select(out, excluded, logit);
      high = Vector::maximum(high, logit);
      Vector::store(place, logit);
    }
    Vector::store(maximum + lane, high);
  }
  return any != 0;
}

template <typename Vector>
void weigh(const Tile& tile, const float* maximum, float* total) {
  using Register = typename Vector::Register;
  for (int lane = 0; lane < tile.width; lane += Vector::kLanes) {
    const Register high = Vector::load(maximum + lane);
    Register even = Vector::broadcast(0.0F);
    Register odd = Vector::broadcast(0.0F);
    float* place = tile.logits + lane;
    int64_t key = 0;
    for (; key + 1 < tile.keys; key += 2, place += 2 * tile.width) {
      const Register first = exp2<Vector>(Vector::subtract(Vector::load(place), high));
      const Register second = exp2<Vector>(Vector::subtract(Vector::load(place + tile.width), high));
      Vector::store(place, first);
      Vector::store(place + tile.width, second);
      even = Vector::add(even, first);
      odd = Vector::add(odd, second);
    }
    if (key < tile.keys) {
      const Register last = exp2<Vector>(Vector::subtract(Vector::load(place), high));
      Vector::store(place, last);
      even = Vector::add(even, last);
    }
    Vector::store(total + lane, Vector::add(even, odd));
  }
}

template <typename Vector>
void weigh_aligned(const Tile& tile, const float* maximum, bool plain, float* total) {
  using Register = typename Vector::Register;
  const Register zero = Vector::broadcast(0.0F);
  for (int lane = 0; lane < tile.width; lane += Vector::kLanes) Vector::store(total + lane, zero);
  for (int64_t key = 0; key < tile.keys; ++key) {
    if (tile.aligned_lanes[key] == 0) continue;
    for (int lane = 0; lane < tile.width; lane += Vector::kLanes) {
      float* place = tile.aligned + key * tile.width + lane;
      const Register logit = Vector::load(place);
      Register weight;
      Register term;
      if (plain) {
        const auto member = Vector::at_least(logit, kNone);
        weight = Vector::select(member, Vector::broadcast(1.0F), zero);
        term = Vector::select(member, logit, zero);
      } else {
        weight = term = exp2<Vector>(Vector::subtract(logit, Vector::load(maximum + lane)));
      }
      Vector::store(place, weight);
      Vector::store(total + lane, Vector::add(Vector::load(total + lane), term));
    }
  }
}

template <typename Vector>
void derive(const Tile& tile, bool drop_aligned, const float* denominator, const float* upstream, const float* positive,
            const float* softmax, const float* plain) {
  using Register = typename Vector::Register;
  const Register zero = Vector::broadcast(0.0F);
  for (int64_t key = 0; key < tile.keys; ++key) {
    for (int lane = 0; lane < tile.width; lane += Vector::kLanes) {
      float* place = tile.logits + key * tile.width + lane;
      Register logit = Vector::load(place);
      if (tile.key_weight != nullptr) logit = Vector::add(logit, Vector::broadcast(tile.key_weight[key]));
      const Pairs<Vector> pairs = pairs_of<Vector>(tile, key, lane);
      Register value = exp2<Vector>(Vector::subtract(logit, Vector::load(denominator + lane)));
      value = Vector::multiply(value, Vector::load(upstream + lane));
      if (Vector::bits(pairs.aligned) != 0) {
        Register of_aligned = zero;
        if (!drop_aligned) {
          const Register share = exp2<Vector>(Vector::subtract(logit, Vector::load(positive + lane)));
          of_aligned = Vector::multiply(share, Vector::load(softmax + lane));
          of_aligned = Vector::subtract(of_aligned, Vector::load(plain + lane));
        }
        value = Vector::select(pairs.aligned, of_aligned, value);
      }
      Vector::store(place, Vector::select(pairs.dropped, zero, value));
    }
  }
}

template <typename Vector>
void add_scaled(float* y, const float* x, float w, int64_t n) {
  const auto factor = Vector::broadcast(w);
  int64_t i = 0;
  for (; i + Vector::kLanes <= n; i += Vector::kLanes) {
    Vector::store(y + i, Vector::multiply_add(factor, Vector::load(x + i), Vector::load(y + i)));
  }
  for (; i < n; ++i) y[i] += w * x[i];
}

template <typename Vector>
void exp2_array(const float* x, float* result, int64_t n) {
  for (int64_t i = 0; i < n; i += Vector::kLanes) Vector::store(result + i, exp2<Vector>(Vector::load(x + i)));
}

template <typename Vector>
Kernel kernel_of() {
  static_assert(Vector::kLanes * Vector::kVectors <= kMaxWidth, "a panel has a bit for each query");
  return {Vector::kLanes,        Vector::kVectors,  Vector::kSums / Vector::kVectors,
          multiply<Vector>,      mask<Vector>,      weigh<Vector>,
          weigh_aligned<Vector>, derive<Vector>,    add_scaled<Vector>,
          Vector::from_half,     from_bfloat_plain, exp2_array<Vector>};
}

}  // namespace
}  // namespace tmor::cluster_infonce
