// SPDX-License-Identifier: MIT
#include "diffusion/options.h"

#include <algorithm>

#include "base/error.h"

namespace diffuse {

void DiffusionOptions::fields(Fields& f) {
  f(steps, "steps", "T, the length of the chain that is trained")
      .at_least(1)
      .at_most(1'000'000)
      .also_called({"timesteps", "num_timesteps", "num_train_timesteps", "T"});
  f.choice(schedule, "schedule", "how noise grows along the chain")
      .also_called({"beta_schedule", "noise_schedule"});
  f(zero_terminal_snr,
    "zero_terminal_snr",
    "rescale so that the last step holds no signal (Lin et al. 2023)")
      .also_called({"rescale_betas_zero_snr"});
  f.choice(target, "target", "what the network predicts")
      .also_called({"prediction_type", "objective", "prediction", "parameterization"});
  f.choice(weighting, "weighting", "weight of each step's loss")
      .also_called({"loss_weight", "loss_weighting", "min_snr_gamma", "snr_gamma"});
  f.one_of(weight_on,
           "weight_on",
           {{WeightOn::epsilon, "epsilon"}, {WeightOn::network, "network"}},
           "epsilon: the paper's weight on the epsilon loss, converted exactly to the target; "
           "network: the same number on the network's own loss, as some public code does");
  f.choice(variance, "variance", "variance of p(x_{t-1} | x_t)")
      .also_called({"variance_type", "sigma"});
  f.choice(time_sampler, "time_sampler", "how t is drawn")
      .also_called({"timestep_sampler", "schedule_sampler"});
}

Chain make_chain(const DiffusionOptions& options) {
  auto beta = options.schedule(options.steps);
  if (options.zero_terminal_snr) beta = zero_terminal_snr(beta);
  return make_chain(beta);
}

std::vector<Finding> check(const DiffusionOptions& options) {
  std::vector<Finding> out;
  Chain chain;
  try {
    chain = make_chain(options);
  } catch (const Error& e) {
    out.push_back({.error = true, .key = "schedule", .message = e.what(), .code = "no-such-chain"});
    return out;
  }
  const std::string target = options.target.name();
  const bool zero = chain.alpha_bar.back() == 0;
  if (zero && (target == "epsilon" || target == "score")) {
    out.push_back(
        {.error = true,
         .key = "target",
         .message = "target '" + target +
                    "' cannot work at zero terminal SNR: the last step holds no signal, so x0 "
                    "cannot be found from it (division by alpha = 0); use target: velocity or "
                    "x0, or zero_terminal_snr: false",
         .code = "no-signal-to-divide-by"});
    return out;
  }
  std::vector<double> weights;
  try {
    weights = network_weights(
        chain, options.target, options.weighting, options.weight_on, options.variance);
  } catch (const Error& e) {
    out.push_back(
        {.error = true, .key = "weighting", .message = e.what(), .code = "weight-not-finite"});
    return out;
  }
  if (*std::max_element(weights.begin(), weights.end()) == 0)
    out.push_back({.error = true,
                   .key = "weighting",
                   .message = "every step has weight 0",
                   .code = "no-weight"});
  else if (weights.back() == 0)
    out.push_back(
        {.error = false,
         .key = "weighting",
         .message = "weighting '" + options.weighting.name() +
                    "' gives the last step (SNR 0) weight 0, so the step that sampling starts "
                    "from is never trained; use weighting: simple, or zero_terminal_snr: false",
         .code = "start-not-trained"});
  // With SNR_T above 0.01 the start of sampling (pure noise) is not what the last step was trained
  // on.
  if (chain.snr(chain.steps() - 1) > 0.01)
    out.push_back(
        {.error = false,
         .key = "schedule",
         .message = "the last step still holds signal (SNR " +
                    std::to_string(chain.snr(chain.steps() - 1)) +
                    "), but sampling starts from pure noise; use more steps, rescale: true, or "
                    "zero_terminal_snr: true with target: velocity",
         .code = "terminal-snr"});
  const bool capped = chain.steps() > 1 && chain.beta.back() >= 0.5;
  if (capped && options.weighting.name() == "vlb" && !zero)
    out.push_back(
        {.error = false,
         .key = "weighting",
         .message = "the schedule's last beta is " + std::to_string(chain.beta.back()) +
                    ": with weighting 'vlb' that one step dominates the loss; use schedule: "
                    "linear, or weighting: min_snr",
         .code = "capped-beta"});
  return out;
}

}  // namespace diffuse
