// SPDX-License-Identifier: MIT
#include "diffusion/options.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/text.h"

namespace diffuse {

void DiffusionOptions::fields(Fields& f) {
  f(steps, "steps", "T, the length of the chain that is trained")
      .at_least(1)
      .at_most(1'000'000)
      .also_called({"timesteps", "num_timesteps", "num_train_timesteps", "T"});
  f.choice(schedule, "schedule", "how noise grows along the chain")
      .also_called({"beta_schedule", "noise_schedule"});
  f.one_of(
      time,
      "time",
      {{TimeKind::automatic, "auto"},
       {TimeKind::discrete, "discrete"},
       {TimeKind::continuous, "continuous"}},
      "train the steps of a chain, or every noise level of a continuous schedule; auto: as the "
      "schedule is");
  f.one_of(
      path,
      "path",
      {{PathKind::automatic, "auto"},
       {PathKind::vp, "vp"},
       {PathKind::ve, "ve"},
       {PathKind::flow, "flow"}},
      "scale of signal and noise: alpha^2 + sigma^2 = 1 (vp), alpha = 1 (ve), alpha + sigma = 1 "
      "(flow); auto: the schedule's own");
  f(logsnr_shift,
    "logsnr_shift",
    "added to every log SNR; 2 ln(64 / size) makes up for pictures larger than 64")
      .at_least(-40)
      .at_most(40);
  f(input_scale,
    "input_scale",
    "factor of the pictures in z (Chen 2023), with z divided by its standard deviation: log SNR "
    "changes by 2 ln(input_scale)")
      .above(0)
      .at_most(100);
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
  f(learned_weight,
    "learned_weight",
    "a learned u(sigma) makes the loss w exp(-u) + u, so that every level counts alike (Karras et "
    "al. 2024, EDM2)");
  f.choice(loss, "loss", "what is minimised, given target and weights")
      .also_called({"loss_type", "criterion"});
  f.choice(variance, "variance", "variance of p(x_{t-1} | x_t)")
      .also_called({"variance_type", "sigma"});
  f.choice(time_sampler, "time_sampler", "how t is drawn")
      .also_called({"timestep_sampler", "schedule_sampler"});
}

Process make_process(const DiffusionOptions& options) {
  Noising noising = options.schedule(options.steps);
  const bool has_time = noising.continuous.has_value();
  if (options.zero_terminal_snr) {
    if (has_time)
      throw Error(Exit::config,
                  "zero_terminal_snr is for chains; the continuous schedule '" +
                      options.schedule.name() + "' has its end in its own options");
    noising = zero_terminal_snr(noising.beta);
  }
  if (!has_time && options.time == TimeKind::continuous)
    throw Error(
        Exit::config,
        "schedule '" + options.schedule.name() +
            "' is a chain; time: continuous needs a continuous schedule (vp, ve, edm, flow, "
            "shifted_cosine, continuous_sigmoid, laplace)");
  Process::Options process;
  process.steps = options.steps;
  process.logsnr_shift = options.logsnr_shift + 2 * std::log(options.input_scale);
  process.continuous = has_time && options.time != TimeKind::discrete;
  process.path = options.path == PathKind::automatic
                     ? (has_time ? noising.continuous->path : Path::vp)
                 : options.path == PathKind::vp ? Path::vp
                 : options.path == PathKind::ve ? Path::ve
                                                : Path::flow;
  return Process(noising, process);
}

Chain make_chain(const DiffusionOptions& options) { return make_process(options).chain(); }

double network_weight(const DiffusionOptions& options,
                      const Process& process,
                      const NoisePoint& point) {
  return network_weight(
      process, options.target, options.weighting, options.weight_on, options.variance, point);
}

double objective_weight(const DiffusionOptions& options,
                        const Process& process,
                        const NoisePoint& point) {
  const LossTerms terms = options.loss();
  double out = terms.error ? network_weight(options, process, point) : 0;
  if (terms.bound > 0 && terms.bound_of_mean) {
    // T L_{t-1} in bits: L_{t-1} = bound_weight |x0 - x0_hat|^2 + (what does not depend on F)
    const double c_out = options.target(point.level).c_out;
    out += terms.bound * static_cast<double>(process.chain().steps()) / std::numbers::ln2 *
           bound_weight(process, options.variance, point) * c_out * c_out;
  }
  return out;
}

namespace {

Finding error(const char* key, const char* code, std::string message) {
  return {.error = true, .key = key, .message = std::move(message), .code = code};
}

Finding warning(const char* key, const char* code, std::string message) {
  return {.error = false, .key = key, .message = std::move(message), .code = code};
}

/// Combinations that no number has to be looked at for.
void check_combination(const DiffusionOptions& options,
                       const Process& process,
                       std::vector<Finding>& out) {
  const LossTerms loss = options.loss();
  const bool learned = is_learned(options.variance);
  const std::string time_remedy =
      "; use time: discrete, which trains the schedule's chain of steps";
  if (process.continuous() && options.target.name() == "mu")
    out.push_back(error("target",
                        "needs-a-chain",
                        "target 'mu' is the mean of the step before, and continuous time has no "
                        "steps" +
                            time_remedy));
  if (process.continuous() && (learned || loss.bound > 0))
    out.push_back(error(learned ? "variance" : "loss",
                        "needs-a-chain",
                        (learned ? "variance '" + options.variance.name() + "'"
                                 : "loss '" + options.loss.name() + "'") +
                            " belongs to the steps of a chain, and continuous time has none" +
                            time_remedy));
  if (learned && loss.bound == 0)
    out.push_back(error("loss",
                        "variance-not-trained",
                        "loss '" + options.loss.name() + "' does not train the variance that '" +
                            options.variance.name() +
                            "' learns; use loss: hybrid or vlb, or a fixed variance"));
  if (!learned && options.loss.name() == "hybrid")
    out.push_back(error("loss",
                        "nothing-to-learn",
                        "loss 'hybrid' is 'mse' and the bound for a learned variance, but variance "
                        "'" +
                            options.variance.name() +
                            "' is fixed; use variance: learned_range, or loss: mse"));
  if (!loss.error && options.learned_weight)
    out.push_back(error("learned_weight",
                        "bound-not-weighted",
                        "loss '" + options.loss.name() +
                            "' is the bound itself, which a learned weight would change; use "
                            "learned_weight: false, or loss: mse or hybrid"));
  if (!loss.error && options.weighting.name() != "simple")
    out.push_back(warning("weighting",
                          "weighting-not-used",
                          "loss '" + options.loss.name() + "' has its own weights: weighting '" +
                              options.weighting.name() + "' changes nothing"));
}

}  // namespace

std::vector<Finding> check(const DiffusionOptions& options) {
  std::vector<Finding> out;
  std::optional<Process> process;
  try {
    process = make_process(options);
  } catch (const Error& e) {
    out.push_back(error("schedule", "no-such-chain", e.what()));
    return out;
  }
  check_combination(options, *process, out);
  // exp(80 / 2) is far from the ends of float32, and more noise or less is of no use.
  constexpr double kMostLogSnr = 80;
  std::vector<Level> ends{process->chain().levels.front(), process->chain().levels.back()};
  if (process->chain().steps() > 1) ends.push_back(*(process->chain().levels.end() - 2));
  for (const Level& level : ends)
    if (std::isfinite(level.logsnr) && std::abs(level.logsnr) > kMostLogSnr) {
      out.push_back(
          error("schedule",
                "no-such-chain",
                "log SNR reaches " + significant(level.logsnr, 4) + ", beyond " +
                    significant(kMostLogSnr, 3) +
                    " either way, where float32 has no numbers for it; change the options "
                    "of diffusion.schedule"));
      break;
    }
  const Chain& chain = process->chain();
  const std::string target = options.target.name();
  const bool zero = chain.alpha_bar.back() == 0;
  if (zero && (target == "epsilon" || target == "score" || target == "edm"))
    out.push_back(error(
        "target",
        "no-signal-to-divide-by",
        "target '" + target +
            "' cannot work at zero terminal SNR: the last step holds no signal, " +
            (target == "edm" ? "so its log noise level, which the network is told, is infinite"
                             : "so x0 cannot be found from it (division by alpha = 0)") +
            "; use target: velocity or x0, or zero_terminal_snr: false"));
  for (const Finding& finding : out)
    if (finding.error) return out;
  double largest = 0, last = 0, least = std::numeric_limits<double>::infinity();
  try {
    const int64_t n = process->bins();
    for (int64_t i = 0; i < n; ++i) {
      const double u = (static_cast<double>(i) + 0.5) / static_cast<double>(n);
      last = network_weight(options, *process, process->at(u));
      largest = std::max(largest, last);
      least = std::min(least, last);
    }
  } catch (const Error& e) {
    out.push_back(error("weighting", "weight-not-finite", e.what()));
    return out;
  }
  if (options.learned_weight && least == 0)
    out.push_back(
        error("learned_weight",
              "unbounded-loss",
              "where the weight is 0 the loss exp(-u) 0 + u has no least value; use another "
              "weighting, or learned_weight: false"));
  if (largest == 0)
    out.push_back(error("weighting", "no-weight", "every level has weight 0"));
  else if (last == 0 && !process->continuous())
    out.push_back(
        warning("weighting",
                "start-not-trained",
                "weighting '" + options.weighting.name() +
                    "' gives the last step (SNR 0) weight 0, so the step that sampling starts "
                    "from is never trained; use weighting: simple, or zero_terminal_snr: false"));
  // With SNR_T above 0.01 the start of sampling (pure noise) is not what the last step was trained
  // on.
  const double terminal = chain.snr(chain.steps() - 1);
  bool unrescaled = false;
  if (const auto* linear = options.schedule.options<LinearSchedule>())
    unrescaled = !linear->rescale;
  if (const auto* scaled = options.schedule.options<ScaledLinearSchedule>())
    unrescaled = !scaled->rescale;
  if (terminal > 0.01)
    out.push_back(warning(
        "schedule",
        unrescaled ? "unrescaled-beta" : "terminal-snr",
        "the last step still holds signal (SNR " + significant(terminal, 4) +
            "), but sampling starts from pure noise; " +
            (process->has_continuous_schedule()
                 ? std::string("change the schedule's noisy end (beta_max, "
                               "sigma_max, logsnr_min), or lower logsnr_shift")
             : unrescaled ? "betas that are published for 1000 steps need rescale: true at " +
                                std::to_string(options.steps) +
                                ", or use zero_terminal_snr: true with target: velocity"
                          : std::string("use more steps, or zero_terminal_snr: true with "
                                        "target: velocity"))));
  const bool capped = chain.steps() > 1 && chain.beta.back() >= 0.5 &&
                      process->path() == Path::vp && !process->continuous();
  if (capped && !zero && (options.weighting.name() == "vlb" || options.loss.name() == "vlb") &&
      !needs_history(options.time_sampler))
    out.push_back(
        warning(options.loss.name() == "vlb" ? "loss" : "weighting",
                "capped-beta",
                "the schedule's last beta is " + std::to_string(chain.beta.back()) +
                    ": in the bound that one step dominates the loss; use schedule: linear, or "
                    "time_sampler: importance"));
  // Weight 1/density on epsilon: over a density of all log SNR the sum has no end.
  if (process->continuous() && options.weighting.name() == "vlb" &&
      process->at(1e-9).slope < 1e6 * process->at(0.5).slope)
    out.push_back(warning("weighting",
                          "no-finite-bound",
                          "weighting 'vlb' divides by the schedule's density, which schedule '" +
                              options.schedule.name() +
                              "' lets fall to 0 on both sides: rare levels get weights without "
                              "end; use a schedule with ends (vp, ve, shifted_cosine, flow with "
                              "density: uniform), or another weighting"));
  const TargetCoefficients noisy = target_coefficients(options.target, chain.levels.back());
  if (std::hypot(noisy.x0, noisy.eps) > 10)
    out.push_back(warning("target",
                          "target-grows-with-noise",
                          "what the network has to predict reaches " +
                              significant(std::hypot(noisy.x0, noisy.eps), 3) +
                              " times the data's scale at the noisy end, and its error dominates "
                              "the loss; use target: edm, epsilon or flow, or path: vp"));
  return out;
}

}  // namespace diffuse
