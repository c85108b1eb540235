// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <vector>

#include "base/choice.h"

// How the noise levels of a batch are drawn. What is minimised does not depend on it: a level that
// is drawn more often than its share counts less, so only the variance of the estimate differs.

namespace diffuse {

/// The last losses at each bin of u, for `importance`. Values, without a tensor: it is in the
/// checkpoint.
struct LossHistory {
  static constexpr int64_t kLength = 10;  // Nichol & Dhariwal 2021, sec. 3.3

  LossHistory() = default;
  explicit LossHistory(int64_t bins)
      : losses(static_cast<size_t>(bins * kLength)), count(static_cast<size_t>(bins)) {}

  std::vector<double> losses;  // [bins][kLength], a ring
  std::vector<int64_t> count;  // losses seen, also those that were overwritten

  int64_t bins() const { return static_cast<int64_t>(count.size()); }
  void add(int64_t bin, double loss);
  bool full() const;                      // every bin has seen kLength losses
  double mean_square(int64_t bin) const;  // of the losses in the ring
};

/// What a proposal may depend on.
struct ProposalQuery {
  const std::vector<double>& edges;  // log SNR at the ends of the bins of u, falling; [bins + 1]
  const LossHistory* history = nullptr;
};

struct Proposal {
  std::vector<double> probability;  // of each bin, positive, of sum 1; empty: all alike
  bool stratified = false;          // a batch is spread evenly instead of independently
};

using TimeSampler = Choice<Proposal(const ProposalQuery&)>;

/// uniform, stratified, lognormal, logit_normal, log_logistic, importance.
const TimeSampler::Table& time_samplers();

bool needs_history(const TimeSampler& sampler);

/// The times of one optimizer step, of which a process may need only a part.
struct TimeQuery {
  uint64_t seed = 0;
  uint64_t step = 0;
  int64_t batch = 1;  // the global batch
};

struct Time {
  double u = 0;       // in [0, 1), see diffusion/process.h
  double weight = 1;  // 1 / (bins x probability): the loss counts so much
  int64_t bin = 0;
};

/// Draws times in the order of samples. A static proposal is worked out once.
class TimeDraw {
 public:
  TimeDraw(TimeSampler sampler, std::vector<double> edges);
  std::vector<Time> operator()(const TimeQuery& query, const LossHistory* history = nullptr) const;
  /// The probabilities of the bins now; [bins].
  std::vector<double> probabilities(const LossHistory* history = nullptr) const;

 private:
  struct Drawable {
    Proposal proposal;
    std::vector<double> cumulative;  // of its probabilities
  };
  Drawable drawable(const LossHistory* history) const;

  TimeSampler sampler_;
  std::vector<double> edges_;
  Drawable fixed_;  // without a history
};

}  // namespace diffuse
