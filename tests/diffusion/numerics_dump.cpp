// SPDX-License-Identifier: MIT
// Our numbers for random inputs, as JSON on stdout, for compare_with_numpy.py: every tensor is a
// flat list in row order.
#include <ATen/ATen.h>

#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "diffusion/objective.h"

namespace diffuse {
namespace {

using nlohmann::json;

json values(const at::Tensor& x) {
  const at::Tensor flat = x.detach().to(at::kDouble).contiguous();
  const double* data = flat.const_data_ptr<double>();
  return std::vector<double>(data, data + flat.numel());
}

DiffusionOptions options_of(const std::string& schedule, int64_t steps) {
  DiffusionOptions options;
  options.schedule.select(schedule);
  options.steps = steps;
  return options;
}

json chains() {
  json out = json::array();
  for (const char* schedule : {"linear", "cosine"})
    for (const int64_t steps : {50, 1000, 4000}) {
      const Chain chain = make_chain(options_of(schedule, steps));
      json row{{"schedule", schedule},
               {"steps", steps},
               {"beta", chain.beta},
               {"alpha_bar", chain.alpha_bar},
               {"posterior_variance", chain.posterior_variance},
               {"posterior_mean_x0", chain.posterior_mean_x0},
               {"posterior_mean_xt", chain.posterior_mean_xt}};
      for (const char* name : {"fixed_small", "fixed_large"}) {
        std::vector<double> all;
        for (int64_t t = 0; t < steps; ++t)
          all.push_back(Variance(variances(), name)(chain, t).fixed);
        row[name] = all;
      }
      out.push_back(row);
    }
  return out;
}

/// Loss terms and bound of every target x weighting x variance, at steps of a cosine chain.
json losses() {
  constexpr int64_t kSteps = 400, kPictures = 6;
  const std::vector<int64_t> t{0, 1, 7, 133, 398, 399};
  const at::Tensor x0 = at::randint(0, 256, {kPictures, 3, 2, 2}, at::kDouble).div(127.5).sub(1);
  const at::Tensor eps = at::randn_like(x0);
  const at::Tensor error = at::randn_like(x0), v = at::randn_like(x0);
  json out{{"schedule", "cosine"},
           {"steps", kSteps},
           {"t", t},
           {"pictures", kPictures},
           {"x0", values(x0)},
           {"eps", values(eps)},
           {"v", values(v)},
           {"cases", json::array()}};
  for (const auto& target : predictions())
    for (const auto& variance : variances())
      for (const auto& weighting : weightings()) {
        if (weighting.name == "table") continue;  // needs a file
        DiffusionOptions options = options_of("cosine", kSteps);
        options.target.select(target.name);
        options.weighting.select(weighting.name);
        options.variance.select(variance.name);
        const bool learned = is_learned(options.variance);
        options.loss.select(learned ? "hybrid" : "mse");
        const Objective objective(options, at::kCPU);
        const Objective::Rows rows = objective.rows_of_steps(t);
        const at::Tensor right = objective.target(x0, eps, rows);
        // A tenth of what the target is at its step.
        const at::Tensor f = right + 0.1 * error * right.abs().amax({1, 2, 3}, true);
        // `learned` is log sigma^2 itself: around -6.
        const at::Tensor shown = variance.name == "learned" ? v - 6 : v;
        const Objective::Loss loss =
            objective.loss(learned ? at::cat({f, shown}, 1) : f, x0, eps, rows);
        out["cases"].push_back(
            {{"target", target.name},
             {"weighting", weighting.name},
             {"variance", variance.name},
             {"output", values(f)},
             {"weighted", values(loss.weighted)},
             {"raw", values(loss.raw)},
             {"bound",
              values(objective.bound_bits(f - right, learned ? shown : at::Tensor(), x0, rows))}});
      }
  return out;
}

json importance() {
  constexpr int64_t kBins = 40;
  LossHistory history(kBins);
  std::vector<double> added;  // 13 losses of each bin in turn: three fall out of the ring
  const at::Tensor random = at::rand({13, kBins}, at::kDouble).mul(3).exp();
  for (int64_t i = 0; i < 13; ++i)
    for (int64_t bin = 0; bin < kBins; ++bin) {
      added.push_back(random[i][bin].item<double>());
      history.add(bin, added.back());
    }
  std::vector<double> edges;
  for (int64_t i = 0; i <= kBins; ++i) edges.push_back(static_cast<double>(kBins - i));
  const TimeDraw draw(TimeSampler(time_samplers(), "importance"), edges);
  json out{{"bins", kBins},
           {"losses", added},
           {"probabilities", draw.probabilities(&history)},
           {"draws", json::array()}};
  for (const Time& time : draw({.seed = 1, .step = 1, .batch = 64}, &history))
    out["draws"].push_back({{"bin", time.bin}, {"weight", time.weight}});
  return out;
}

}  // namespace
}  // namespace diffuse

int main() {
  at::manual_seed(20210218);
  std::cout << nlohmann::json{{"chains", diffuse::chains()},
                              {"losses", diffuse::losses()},
                              {"importance", diffuse::importance()}}
            << '\n';
}
