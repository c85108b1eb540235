// SPDX-License-Identifier: MIT
#include "diffusion/time_sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <utility>

#include "base/random.h"
#include "diffusion/normal.h"

namespace diffuse {
namespace {

/// Bins in proportion to `weights` (>= 0), mixed with a uniform share so that none is left out and
/// no weight of the loss is above 1 / share.
std::vector<double> mixed(std::vector<double> weights, double share) {
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  const auto n = static_cast<double>(weights.size());
  for (double& w : weights) w = total > 0 ? (1 - share) * w / total + share / n : 1 / n;
  return weights;
}

/// The bins' probabilities under a density of log SNR with distribution function `cdf`.
std::vector<double> masses(const ProposalQuery& q, const std::function<double(double)>& cdf) {
  std::vector<double> out;
  for (size_t i = 0; i + 1 < q.edges.size(); ++i)
    out.push_back(std::max(0.0, cdf(q.edges[i]) - cdf(q.edges[i + 1])));
  return out;
}

struct Uniform {
  void fields(Fields&) {}
  Proposal operator()(const ProposalQuery&) const { return {}; }
};

struct Stratified {  // u_i = (u + i / B) mod 1: Kingma et al. 2021 (VDM), appendix I.1
  void fields(Fields&) {}
  Proposal operator()(const ProposalQuery&) const {
    return {.probability = {}, .stratified = true};
  }
};

/// Options of every proposal with a density of its own.
struct Mixture {
  double uniform_share = 0.05;
  bool stratified = false;
  void mixture_fields(Fields& f) {
    f(uniform_share,
      "uniform_share",
      "share of uniform draws; the loss of a level counts at most 1 / uniform_share times")
        .above(0)
        .at_most(1);
    f(stratified, "stratified", "spread a batch evenly over the density");
  }
  Proposal proposal(std::vector<double> weights) const {
    return {.probability = mixed(std::move(weights), uniform_share), .stratified = stratified};
  }
};

/// ln(sigma / alpha) ~ N(mean, std^2).
struct LogNormal : Mixture {  // Karras et al. 2022, Table 1
  double mean = -1.2;
  double std = 1.2;
  void fields(Fields& f) {
    f(mean, "mean", "of ln(sigma / alpha); larger: more noise").at_least(-20).at_most(20);
    f(std, "std", "of ln(sigma / alpha)").above(0).at_most(20);
    mixture_fields(f);
  }
  Proposal operator()(const ProposalQuery& q) const {
    return proposal(
        masses(q, [this](double logsnr) { return normal_cdf((0.5 * logsnr + mean) / std); }));
  }
};

/// The time of the straight path has logit(t) = ln(sigma / alpha): the same family.
struct LogitNormal : LogNormal {  // Esser et al. 2024, eq. 19
  LogitNormal() {
    mean = 0;
    std = 1;
  }
};

struct LogLogistic : Mixture {  // sigma / alpha, as k-diffusion can draw it
  double mean = -1.2;
  double scale = 0.6;
  void fields(Fields& f) {
    f(mean, "mean", "of ln(sigma / alpha)").at_least(-20).at_most(20);
    f(scale, "scale", "of ln(sigma / alpha)").above(0).at_most(20);
    mixture_fields(f);
  }
  Proposal operator()(const ProposalQuery& q) const {
    return proposal(
        masses(q, [this](double logsnr) { return logistic((0.5 * logsnr + mean) / scale); }));
  }
};

struct Importance {  // p_t ~ sqrt(E[L_t^2]): Nichol & Dhariwal 2021, eq. 18
  double uniform_share = 0.001;
  void fields(Fields& f) {
    f(uniform_share, "uniform_share", "share of uniform draws").above(0).at_most(1);
  }
  Proposal operator()(const ProposalQuery& q) const {
    if (q.history == nullptr || !q.history->full()) return {};  // uniform until all are known
    std::vector<double> weights;
    for (int64_t bin = 0; bin < q.history->bins(); ++bin)
      weights.push_back(std::sqrt(q.history->mean_square(bin)));
    return {.probability = mixed(std::move(weights), uniform_share), .stratified = false};
  }
};

}  // namespace

void LossHistory::add(int64_t bin, double loss) {
  if (!std::isfinite(loss)) return;  // the update is skipped, too
  int64_t& n = count[static_cast<size_t>(bin)];
  losses[static_cast<size_t>(bin * kLength + n % kLength)] = loss;
  ++n;
}

bool LossHistory::full() const {
  return std::all_of(count.begin(), count.end(), [](int64_t n) { return n >= kLength; });
}

double LossHistory::mean_square(int64_t bin) const {
  double sum = 0;
  for (int64_t i = 0; i < kLength; ++i) {
    const double loss = losses[static_cast<size_t>(bin * kLength + i)];
    sum += loss * loss;
  }
  return sum / static_cast<double>(kLength);
}

const TimeSampler::Table& time_samplers() {
  static const TimeSampler::Table table{
      TimeSampler::row<Uniform>(
          "uniform", "every t equally likely, independently", "Ho et al. 2020, algorithm 1"),
      TimeSampler::row<Stratified>("stratified",
                                   "a batch spread evenly over t: less noise in the loss",
                                   "Kingma et al. 2021, appendix I.1"),
      TimeSampler::row<LogNormal>(
          "lognormal", "sigma / alpha log-normal", "Karras et al. 2022, Table 1"),
      TimeSampler::row<LogitNormal>(
          "logit_normal", "the straight path's t logit-normal", "Esser et al. 2024, eq. 19"),
      TimeSampler::row<LogLogistic>("log_logistic", "sigma / alpha log-logistic", "k-diffusion"),
      TimeSampler::row<Importance>("importance",
                                   "in proportion to the root mean square of the last 10 losses",
                                   "Nichol & Dhariwal 2021, eq. 18"),
  };
  return table;
}

bool needs_history(const TimeSampler& sampler) { return sampler.name() == "importance"; }

TimeDraw::TimeDraw(TimeSampler sampler, std::vector<double> edges)
    : sampler_(std::move(sampler)), edges_(std::move(edges)), fixed_(drawable(nullptr)) {}

TimeDraw::Drawable TimeDraw::drawable(const LossHistory* history) const {
  Drawable out{.proposal = sampler_(ProposalQuery{edges_, history}), .cumulative = {}};
  const std::vector<double>& probability = out.proposal.probability;
  out.cumulative.resize(probability.size());
  std::partial_sum(probability.begin(), probability.end(), out.cumulative.begin());
  return out;
}

std::vector<double> TimeDraw::probabilities(const LossHistory* history) const {
  const auto n = edges_.size() - 1;
  const Proposal now = history ? drawable(history).proposal : fixed_.proposal;
  return now.probability.empty() ? std::vector<double>(n, 1 / static_cast<double>(n))
                                 : now.probability;
}

std::vector<Time> TimeDraw::operator()(const TimeQuery& q, const LossHistory* history) const {
  const auto bins = static_cast<double>(edges_.size() - 1);
  const bool adaptive = needs_history(sampler_);
  const Drawable now = adaptive ? drawable(history) : Drawable{};
  const auto& [proposal, cumulative] = adaptive ? now : fixed_;
  const auto stream = [&](int64_t position) {
    return Stream{q.seed, Purpose::timestep, q.step, static_cast<uint64_t>(position)};
  };
  const double start = proposal.stratified ? random_uniform(stream(0)) : 0;
  std::vector<Time> out(static_cast<size_t>(q.batch));
  for (int64_t i = 0; i < q.batch; ++i) {
    double p = proposal.stratified ? start + static_cast<double>(i) / static_cast<double>(q.batch)
                                   : random_uniform(stream(i));
    p -= std::floor(p);
    Time& time = out[static_cast<size_t>(i)];
    if (cumulative.empty()) {
      time.u = p;
      time.bin = std::min(static_cast<int64_t>(p * bins), static_cast<int64_t>(bins) - 1);
      continue;
    }
    // The bin by the inverse distribution function; within it, u is uniform.
    p *= cumulative.back();
    const auto at =
        std::min(std::upper_bound(cumulative.begin(), cumulative.end(), p), cumulative.end() - 1);
    time.bin = at - cumulative.begin();
    const double probability = proposal.probability[static_cast<size_t>(time.bin)];
    const double within = std::clamp((p - (*at - probability)) / probability, 0x1p-20, 1 - 0x1p-20);
    time.u = (static_cast<double>(time.bin) + within) / bins;  // well inside of its bin
    time.weight = 1 / (bins * probability);
  }
  return out;
}

}  // namespace diffuse
