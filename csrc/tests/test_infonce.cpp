// The CPU kernels of cluster_infonce against its definition in float64, for .ci/check_sanitizers.sh: no Python, so
// sanitizers see nothing but our code. Also the error of the kernels' exponential.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cluster_infonce/exp2.hpp"
#include "cluster_infonce/params.hpp"
#include "common/isa.hpp"
#include "infonce_cases.hpp"

namespace {

using namespace infonce_cases;

int failures = 0;

void fill(const Case& c, tmor::Isa isa, int threads, tmor::cluster_infonce::Params* params) {
  params->batch = c.batch;
  params->bank = c.bank;
  params->dimensions = c.dimensions;
  params->key_stride = c.key_stride;
  params->has_chosen = c.listed;
  params->chosen_count = c.chosen_count;
  params->form = c.form;
  params->denominator = c.denominator;
  params->temperature = c.temperature;
  params->query = c.query.data();
  params->keys = c.keys.data();
  params->positive = pointer(c.positive);
  params->query_id = c.query_id.data();
  params->key_id = c.key_id.data();
  params->query_cluster = c.query_cluster.data();
  params->key_cluster = c.key_cluster.data();
  params->query_caption = pointer(c.query_caption);
  params->key_caption = pointer(c.key_caption);
  params->key_log_weight = pointer(c.key_log_weight);
  params->chosen = pointer(c.chosen);
  params->threads = threads;
  params->isa = isa;
}

Result kernel(const Case& c, tmor::Isa isa, int threads) {
  std::vector<float> loss(at(c.batch)), own(at(c.batch)), statistics(at(4 * c.batch));
  std::vector<float> gradient(at(c.batch * c.dimensions)), keys(at(c.bank * c.dimensions)), upstream;
  tmor::cluster_infonce::ForwardParams forward;
  fill(c, isa, threads, &forward);
  forward.loss = loss.data();
  forward.own_gradient = own.data();
  forward.statistics = statistics.data();
  tmor::cluster_infonce::forward_cpu(forward);  // without a gradient, which must not change the loss
  const std::vector<float> alone = loss;
  forward.gradient = gradient.data();
  tmor::cluster_infonce::forward_cpu(forward);
  if (loss != alone) {
    ++failures;
    std::printf("FAILED: the loss depends on whether a gradient is asked for\n");
  }

  // The listed pairs as the Python side makes them.
  std::vector<std::pair<int64_t, int64_t>> pairs;
  for (int64_t i = 0; i < c.batch; ++i) {
    for (int64_t k = 0; k < c.chosen_count; ++k) {
      if (c.chosen[at(i * c.chosen_count + k)] >= 0) pairs.emplace_back(c.chosen[at(i * c.chosen_count + k)], i);
    }
    upstream.push_back(upstream_of(i));
  }
  std::sort(pairs.begin(), pairs.end());
  std::vector<int64_t> pair_key, pair_query;
  std::vector<float> pair_value;
  std::vector<double> derivative;
  for (const auto& [key, query] : pairs) {
    define(c, query, &derivative);
    pair_key.push_back(key);
    pair_query.push_back(query);
    pair_value.push_back(static_cast<float>(derivative[at(key)]));
  }
  tmor::cluster_infonce::KeyGradientParams backward;
  fill(c, isa, threads, &backward);
  backward.upstream = upstream.data();
  backward.statistics = statistics.data();
  backward.pair_key = pointer(pair_key);
  backward.pair_query = pointer(pair_query);
  backward.pair_value = pointer(pair_value);
  backward.pairs = static_cast<int64_t>(pairs.size());
  backward.key_gradient = keys.data();
  tmor::cluster_infonce::key_gradient_cpu(backward);
  return {{loss.begin(), loss.end()}, {gradient.begin(), gradient.end()}, {keys.begin(), keys.end()}};
}

void check(const Case& c) {
  const Result exact = define(c);
  const double logit = 1.0 / c.temperature + 3.0;
  // Rounded logits move every term by this share of it at most; a key's terms are those of all queries.
  const double allowed = 1e-6 * logit;
  double terms = 0.0;
  for (int64_t i = 0; i < c.batch; ++i) terms += static_cast<double>(upstream_of(i));
  for (const tmor::Isa isa : tmor::supported_isas()) {
    Result first;
    for (const int threads : {1, 3}) {
      const Result ours = kernel(c, isa, threads);
      const double errors[] = {error(ours.loss, exact.loss, logit),
                               error(ours.query_gradient, exact.query_gradient, 1.0 / c.temperature),
                               error(ours.key_gradient, exact.key_gradient, terms / c.temperature)};
      const bool same = threads == 1 || (ours.loss == first.loss && ours.query_gradient == first.query_gradient &&
                                         ours.key_gradient == first.key_gradient);
      if (threads == 1) first = ours;
      if (errors[0] <= allowed && errors[1] <= allowed && errors[2] <= allowed && same) continue;
      ++failures;
      std::printf("FAILED: B %lld, N %lld, d %lld, form %d, denominator %d, %s, %d threads: %.1e %.1e %.1e%s\n",
                  static_cast<long long>(c.batch), static_cast<long long>(c.bank), static_cast<long long>(c.dimensions),
                  static_cast<int>(c.form), static_cast<int>(c.denominator), tmor::isa_name(isa), threads, errors[0],
                  errors[1], errors[2], same ? "" : ", not the bits of one thread");
    }
  }
}

void check_losses() {
  Random random(7);
  for (const int64_t batch : {1, 7, 64, 65, 129}) {
    for (const int64_t bank : {1, 5, 120, 121, 300}) {
      for (const int64_t dimensions : {1, 7, 16, 33}) {
        for (const int64_t clusters : {0, 1, 5}) {
          Case c = make_case(&random, batch, bank, dimensions, clusters);
          c.form = static_cast<Form>(random() % 3);
          c.denominator = static_cast<Denominator>(random() % 2);
          if (random() % 3 == 0) list_positives(&random, &c);
          check(c);
        }
      }
    }
  }
  // Several splits, whose maxima differ: keys grow along the bank.
  Case c = make_case(&random, 9, 6000, 5, 3);
  for (int64_t j = 0; j < c.bank; ++j) {
    for (int64_t k = 0; k < 5; ++k) c.keys[at(j * c.key_stride + k)] *= static_cast<float>(j) / 6000.0F;
  }
  for (const Form form : {Form::sum, Form::mean, Form::supcon}) {
    c.form = form;
    c.temperature = 0.02;
    check(c);
  }
}

// Units in the last place between 2^x and its float64 value, over the whole range and around every integer.
void check_exponential() {
  using tmor::cluster_infonce::kLargestExponent;
  using tmor::cluster_infonce::kSmallestExponent;
  std::vector<float> x{-INFINITY, -1e30F, kSmallestExponent, kLargestExponent, 0.0F, -0.0F, NAN};
  const size_t special = x.size();
  for (float v = kSmallestExponent; v <= kLargestExponent; v += 0.00037F) x.push_back(v);
  for (int n = -100; n < 120; ++n) {
    for (const float f : {-0.5F, -0.25F, 0.25F, 0.4999999F, 0.5F}) x.push_back(static_cast<float>(n) + f);
  }
  std::vector<float> y(x.size());
  for (const tmor::Isa isa : tmor::supported_isas()) {
    tmor::cluster_infonce::exp2_cpu(x.data(), y.data(), static_cast<int64_t>(x.size()), isa);
    bool good = y[0] == 0.0F && y[1] == 0.0F && y[4] == 1.0F && y[5] == 1.0F && std::isnan(y[6]);
    double worst = 0.0;
    for (size_t i = 2; i < x.size(); ++i) {
      if (i == special - 1 || x[i] < kSmallestExponent) continue;
      const double exact = std::exp2(static_cast<double>(x[i]));
      const int exponent = static_cast<int>(std::floor(std::log2(exact)));
      worst = std::max(worst, std::abs(static_cast<double>(y[i]) - exact) / std::ldexp(1.0, exponent - 23));
    }
    good = good && worst <= (isa == tmor::Isa::portable ? 1.3 : 1.02);
    if (good) continue;
    ++failures;
    std::printf("FAILED: 2^x, %s: %.3f units in the last place\n", tmor::isa_name(isa), worst);
  }
}

}  // namespace

int main() {
  check_exponential();
  check_losses();
  if (failures != 0) return EXIT_FAILURE;
  std::printf("all cluster_infonce CPU checks passed, instruction sets:");
  for (const tmor::Isa isa : tmor::supported_isas()) std::printf(" %s", tmor::isa_name(isa));
  std::printf("\n");
  return EXIT_SUCCESS;
}
