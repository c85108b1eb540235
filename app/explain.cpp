// SPDX-License-Identifier: MIT
#include "diffusion/explain.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <numbers>

#include "base/files.h"
#include "base/text.h"
#include "command.h"
#include "json_number.h"
#include "report/plot.h"

namespace diffuse {
namespace {

struct ExplainFlags {
  std::string config;
  std::vector<std::string> set;
  std::string format = "text";
  std::string svg;
};

std::string number(double value) { return significant(value, 4); }

std::string percent(double share) { return significant(std::round(1000 * share) / 10, 4) + "%"; }

/// The loss as a formula; F* is the target, F the network.
std::string formula(const DiffusionOptions& d) {
  const LossTerms terms = d.loss();
  const double steps = static_cast<double>(d.steps);
  std::string out = "  E over x_0, eps ~ N(0, I), t of  ";
  if (terms.error) {
    const std::string error = terms.huber > 0 ? "huber(F* - F(z_t, t))" : "|F* - F(z_t, t)|^2";
    out += d.learned_weight ? "exp(-u_t) w_t mean " + error + " + u_t" : "w_t mean " + error;
  }
  if (terms.bound > 0)
    out += std::string(terms.error ? "  +  " : "") + number(terms.bound * steps) +
           " L_t in bits/dim (" + number(terms.bound * steps / std::numbers::ln2) +
           " L_t in nats/dim)" + (terms.bound_of_mean ? "" : ", F detached");
  out += ",\n  F* the target, F the network, z_t = alpha_t x_0 + sigma_t eps, ";
  switch (make_process(d).path()) {
    case Path::vp:
      return out + "alpha_t^2 + sigma_t^2 = 1\n";
    case Path::ve:
      return out + "alpha_t = 1\n";
    case Path::flow:
      return out + "alpha_t + sigma_t = 1\n";
  }
  return out;
}

template <class ChoiceType>
std::string described(const ChoiceType& choice) {
  const auto& row = choice.row();
  return row.name + ": " + row.help + (row.reference.empty() ? "" : " (" + row.reference + ")");
}

/// The steps at round log SNR, from the clean end to the noisy one.
std::vector<size_t> shown_steps(const std::vector<ExplainedStep>& steps) {
  std::vector<size_t> out{0};
  for (double wanted = 12; wanted >= -12; wanted -= 2) {
    const auto at = std::find_if(
        steps.begin(), steps.end(), [&](const ExplainedStep& s) { return s.logsnr <= wanted; });
    if (at == steps.end()) break;
    const auto i = static_cast<size_t>(at - steps.begin());
    if (i > out.back()) out.push_back(i);
  }
  if (out.back() + 1 < steps.size()) out.push_back(steps.size() - 1);
  return out;
}

std::string as_text(const DiffusionOptions& d, const Explanation& e) {
  std::string out = "objective\n" + formula(d);
  out += "  target       " + described(d.target) + "\n";
  out += "  weighting    " + described(d.weighting) +
         (d.weight_on == WeightOn::network ? ", on the network's own loss" : "") +
         (d.loss().error ? "" : "; not used by this loss") + "\n";
  out += "  schedule     " + described(d.schedule) + "; " +
         (e.continuous ? "continuous time, chains of " + std::to_string(d.steps) + " steps"
                       : "T = " + std::to_string(d.steps)) +
         (d.logsnr_shift != 0 || d.input_scale != 1
              ? ", log SNR + " + number(d.logsnr_shift + 2 * std::log(d.input_scale))
              : "") +
         (d.zero_terminal_snr ? ", zero terminal SNR (Lin et al. 2023)" : "") + "\n";
  out += "  loss         " + described(d.loss) + "\n";
  out += "  time         " + described(d.time_sampler) + "\n";
  out += "  variance     " + described(d.variance) + ", of p(x_{t-1} | x_t) when sampling\n";
  out +=
      "\nthe same loss, as a weight on each scale of the error, and the share of the training "
      "signal\n(density times the weighted error that data of variance 1 leave) from the clean end "
      "up to there;\ndrawn: how often a level is drawn, as a multiple of its density (the loss "
      "makes up for it)\n";
  if (d.learned_weight) out += "the learned weight is left out, as before training: u = 0\n";
  if (d.loss().huber > 0) out += "huber: of errors below delta\n";
  const char* heads[] = {
      "t", "log SNR", "density", "drawn", "on F", "on eps", "on x0", "on v", "on score"};
  for (const char* head : heads) out += padded(head, 11);
  out += padded("share", 9) + "\n";
  double share = 0;
  size_t next = 0;
  const std::vector<size_t> shown = shown_steps(e.steps);
  for (size_t i = 0; i < e.steps.size() && next < shown.size(); ++i) {
    const ExplainedStep& s = e.steps[i];
    share += s.share;
    if (i != shown[next]) continue;
    ++next;
    out += padded(number(s.time), 11);
    for (const double value : {s.logsnr,
                               s.density,
                               s.proposal / s.density,
                               s.on_network,
                               s.on_eps,
                               s.on_x0,
                               s.on_velocity,
                               s.on_score})
      out += padded(number(value), 11);
    out += padded(percent(share), 9) + "\n";
  }
  out += "\n";
  out += "signal       " + percent(e.share_below_snr_1) +
         " from steps with more noise than signal (SNR < 1)\n";
  out += std::string("monotone     ") +
         (e.monotone ? "yes: a bound on the likelihood of noised data (Kingma & Gao 2023)"
                     : "no: not a bound on the likelihood of noised data (Kingma & Gao 2023)") +
         "\n";
  out += "terminal     SNR " + number(e.terminal_snr) + ", L_T " + number(e.prior_bits(1)) +
         " bits/dim for data of variance 1\n";
  return out;
}

std::string as_json(const DiffusionOptions& d, const Explanation& e) {
  nlohmann::ordered_json out{{"target", d.target.name()},
                             {"weighting", d.weighting.name()},
                             {"loss", d.loss.name()},
                             {"schedule", d.schedule.name()},
                             {"steps", d.steps},
                             {"time_sampler", d.time_sampler.name()},
                             {"variance", d.variance.name()},
                             {"continuous", e.continuous},
                             {"share_below_snr_1", e.share_below_snr_1},
                             {"monotone", e.monotone},
                             {"terminal_snr", e.terminal_snr},
                             {"prior_bits", e.prior_bits(1)}};
  for (const ExplainedStep& s : e.steps)
    out["levels"].push_back({{"t", s.t},
                             {"time", s.time},
                             {"logsnr", number_or_null(s.logsnr)},
                             {"density", s.density},
                             {"proposal", s.proposal},
                             {"on_network", s.on_network},
                             {"on_eps", number_or_null(s.on_eps)},
                             {"on_x0", number_or_null(s.on_x0)},
                             {"on_velocity", number_or_null(s.on_velocity)},
                             {"on_score", number_or_null(s.on_score)},
                             {"share", s.share}});
  return out.dump(1) + "\n";
}

std::string as_svg(const Explanation& e) {
  // The axis wants ascending x: from the noisy end to the clean one.
  const auto series = [&](const char* name, const std::function<double(size_t)>& value) {
    Series out{.name = name, .points = {}};
    for (size_t i = e.steps.size(); i-- > 0;)
      if (std::isfinite(e.steps[i].logsnr)) out.points.emplace_back(e.steps[i].logsnr, value(i));
    return out;
  };
  const auto& s = e.steps;
  return plot_svg(
      {{.title = "effective weight on each scale of the error",
        .x_label = "log SNR",
        .y_label = "weight",
        .log_y = true,
        .series = {series("eps", [&](size_t i) { return s[i].on_eps; }),
                   series("x0", [&](size_t i) { return s[i].on_x0; }),
                   series("v", [&](size_t i) { return s[i].on_velocity; }),
                   series("score", [&](size_t i) { return s[i].on_score; })}},
       {.title = "where the training signal is, for data of variance 1",
        .x_label = "log SNR",
        .y_label = "share per unit",
        .log_y = false,
        .series = {series("share", [&](size_t i) { return s[i].share / s[i].width; })}},
       {.title = "how often a level is drawn, per level of the objective",
        .x_label = "log SNR",
        .y_label = "times its density",
        .log_y = false,
        .series = {series("drawn", [&](size_t i) { return s[i].proposal / s[i].density; })}}});
}

}  // namespace

Run add_explain(CLI::App& app, const Context& context) {
  app.description("Write out the objective of a config: formula, weights, where the signal is.");
  app.footer(
      "  diffuse explain config.yaml\n"
      "  diffuse explain config.yaml --set diffusion.weighting=min_snr --svg weights.svg\n"
      "  diffuse explain config.yaml --format json");
  const auto flags = std::make_shared<ExplainFlags>();
  app.add_option("CONFIG", flags->config, "config file (YAML)")->required();
  add_set_option(app, flags->set);
  app.add_option("--format", flags->format, "json has every step")
      ->type_name("text|json")
      ->check(one_of({"text", "json"}))
      ->capture_default_str();
  app.add_option("--svg", flags->svg, "also draw the weights over log SNR into this file")
      ->type_name("FILE")
      ->check(not_empty());
  return [flags, &context] {
    // A chain shorter than the config samples with is no mistake here.
    std::vector<Override> overrides{{"sample.steps=auto", "explain"}};
    for (Override& set : set_overrides(flags->set)) overrides.push_back(std::move(set));
    const LoadedConfig loaded = load_config(flags->config, overrides);
    print_warnings(loaded, context);
    const DiffusionOptions& options = loaded.config.diffusion;
    const Explanation explanation = explain(options);
    if (!flags->svg.empty()) write_named_file(flags->svg, as_svg(explanation));
    print(flags->format == "json" ? as_json(options, explanation) : as_text(options, explanation));
    return 0;
  };
}

}  // namespace diffuse
