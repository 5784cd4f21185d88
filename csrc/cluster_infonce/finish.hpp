// The loss of one query from its sums, and what its gradients need: shared by the CPU and CUDA backends.
#pragma once

#include <cmath>

#include "common/host_device.hpp"

namespace tmor::cluster_infonce {

enum class Form : int { sum = 0, mean = 1, supcon = 2 };
enum class Denominator : int { all = 0, negatives = 1 };

// log(sum of e^s) and the value that stands for it: sum = total * 2^maximum, in base 2 as the kernels count.
// A maximum of kNone is that of no logit at all: finite, so that no inf - inf is ever computed.
constexpr float kNone = -1.7e38F;
constexpr double kLog2E = 1.4426950408889634;
constexpr double kLn2 = 0.6931471805599453;

TMOR_HOST_DEVICE double log_sum(double maximum, double total) {
  return total > 0.0 ? (maximum + log2(total)) * kLn2 : -INFINITY;
}

// log(e^a + e^b), -inf where both are.
TMOR_HOST_DEVICE double log_add(double a, double b) {
  const double high = a > b ? a : b;
  const double low = a > b ? b : a;
  return low == -INFINITY ? high : high + log1p(exp(low - high));
}

// With LN and LP the log-sum-exps over the negatives N and the positives P of a query and D the log of its denominator,
// the derivative of its loss by the logit s is
//   exp(s - D)            of a negative,
//   a exp(s - LP) - u     of a positive.
// A query whose loss is not defined has D = LP = inf and a = u = 0: no gradient anywhere.
struct Finished {
  double loss = 0.0;
  double denominator = INFINITY;  // D
  double positive = INFINITY;     // LP
  double softmax_share = 0.0;     // a
  double plain_share = 0.0;       // u
};

// `negative` and `positive` are LN and LP, `count` the size of P, `logit_sum` the sum of its logits (for supcon).
// With some_negative = false N is empty.
TMOR_HOST_DEVICE Finished finish(Form form, Denominator denominator, double negative, double positive, double count,
                                 double logit_sum, bool some_negative) {
  Finished result;
  const bool all = denominator == Denominator::all;
  if (count <= 0.0 || (!all && !some_negative)) return result;
  const double total = form == Form::mean ? positive - log(count) : positive;
  const double whole = all ? log_add(total, negative) : negative;
  result.denominator = whole;
  result.positive = positive;
  if (form == Form::supcon) {
    result.loss = whole - logit_sum / count;
    result.softmax_share = all ? exp(positive - whole) : 0.0;
    result.plain_share = 1.0 / count;
  } else if (all) {
    // log(P + N) - log(P), and P / (P + N) - 1, without the cancellation.
    result.loss = log_add(0.0, negative - total);
    result.softmax_share = -exp(negative - whole);
  } else {
    result.loss = negative - total;
    result.softmax_share = -1.0;
  }
  return result;
}

}  // namespace tmor::cluster_infonce
