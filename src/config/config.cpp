// SPDX-License-Identifier: MIT
#include "config/config.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/device.h"
#include "base/text.h"
#include "config/document.h"
#include "config/values.h"

namespace diffuse {
namespace {

void check_model(const Config& c, std::vector<Finding>& out) {
  const int64_t divisor = c.model.size_divisor();
  bool size_fails = c.data.height() % divisor != 0 || c.data.width() % divisor != 0;
  for (const std::string& problem :
       c.model.problems(c.data.channels, c.data.height(), c.data.width())) {
    out.push_back({.error = true, .key = size_fails ? "data.size" : "model", .message = problem});
    size_fails = false;
  }
  std::string heights;
  for (size_t level = 0; level < c.model.channel_mult.size(); ++level)
    heights += (level == 0 ? "" : ", ") + std::to_string(c.data.height() >> level);
  for (const int64_t wanted : c.model.attention_at) {
    bool found = false;
    for (size_t level = 0; level < c.model.channel_mult.size(); ++level)
      found = found || c.data.height() >> level == wanted;
    if (!found)
      out.push_back({.error = false,
                     .key = "model.attention_at",
                     .message = "no level has height " + std::to_string(wanted) +
                                ", so it gets no attention; the heights are " + heights});
  }
  if (c.model.class_conditional && c.data.labels == Labels::none)
    out.push_back(
        {.error = true,
         .key = "model.class_conditional",
         .message = "a class-conditional model needs classes; use data.labels: subfolder"});
}

/// Options of the other data source that somebody has changed.
void check_unused(const Config& config, std::vector<Finding>& out) {
  Config mine = config, defaults;
  const bool points = config.data.are_points();
  const auto compare = [&](auto& section, auto& of_defaults, const std::string& prefix, auto used) {
    Fields changed, plain;
    section.fields(changed);
    of_defaults.fields(plain);
    for (size_t i = 0; i < changed.list().size(); ++i) {
      const Field& field = changed.list()[i];
      if (!used(field.key) && value_text(field) != value_text(plain.list()[i]))
        out.push_back({.error = false,
                       .key = joined(prefix, field.key),
                       .message = std::string("has no effect with data.source: ") +
                                  (points ? "points" : "images")});
    }
  };
  compare(mine.data, defaults.data, "data", [&](const std::string& key) {
    return key == "source" || (key == "points") == points;
  });
  const auto never = [](const std::string&) { return false; };
  if (points)
    compare(mine.model, defaults.model, "model", never);
  else
    compare(mine.mlp, defaults.mlp, "mlp", never);
}

void check_training(const Config& c, std::vector<Finding>& out) {
  if (c.train.micro_batch && *c.train.micro_batch > c.train.batch)
    out.push_back({.error = true,
                   .key = "train.micro_batch",
                   .message = "a micro-batch of " + std::to_string(*c.train.micro_batch) +
                              " is larger than train.batch " + std::to_string(c.train.batch) +
                              "; use at most the batch, or auto"});
  if (!parse_device(c.train.device))
    out.push_back(
        {.error = true,
         .key = "train.device",
         .message = "'" + c.train.device + "' is no device; use auto, cpu, cuda or cuda:N"});
  if (c.optim.warmup_steps > 0 && c.optim.warmup_steps >= c.train.steps)
    out.push_back({.error = false,
                   .key = "optim.warmup_steps",
                   .message = "the warm-up of " + std::to_string(c.optim.warmup_steps) +
                              " steps is not over before the run ends at train.steps " +
                              std::to_string(c.train.steps) +
                              ", so the learning rate stays below optim.lr",
                   .code = "warm-up-longer-than-run"});
  if (c.validate.every_steps > 0 && c.data.holdout == 0 && !c.data.are_points())
    out.push_back({.error = true,
                   .key = "validate.every_steps",
                   .message = "validation needs pictures that training never sees; use e.g. "
                              "data.holdout: 0.1, or every_steps: 0",
                   .code = "no-held-out-pictures"});
  // Without its warm-up the EMA still holds the share decay^n of the random initial weights.
  const double initial_share = std::pow(c.optim.ema_decay, static_cast<double>(c.train.steps));
  if (c.optim.ema_power == 0 && initial_share > 0.01)
    out.push_back(
        {.error = false,
         .key = "optim.ema_decay",
         .message = "the average is longer than the run: after train.steps " +
                    std::to_string(c.train.steps) + " it still holds " +
                    std::to_string(std::lround(100 * initial_share)) +
                    " % of the random initial weights; use a smaller ema_decay, or ema_power: 0.75",
         .code = "ema-longer-than-run"});
  if (c.checkpoint.every_steps == 0 && c.checkpoint.every_minutes == 0)
    out.push_back(
        {.error = false,
         .key = "checkpoint.every_steps",
         .message =
             "checkpoints are off: only the end of the run is saved, and a crash loses it all"});
  if (c.checkpoint.keep_every_steps > 0 && c.checkpoint.every_steps > 0 &&
      c.checkpoint.keep_every_steps % c.checkpoint.every_steps != 0)
    out.push_back({.error = false,
                   .key = "checkpoint.keep_every_steps",
                   .message = std::to_string(c.checkpoint.keep_every_steps) +
                              " is no multiple of checkpoint.every_steps " +
                              std::to_string(c.checkpoint.every_steps) +
                              ", so some of the steps to keep have no checkpoint"});
}

/// Importance sampling begins when every level has been drawn ten times.
void check_importance(const Config& c, const Process& process, std::vector<Finding>& out) {
  if (!needs_history(c.diffusion.time_sampler)) return;
  const auto bins = static_cast<double>(process.bins());
  // The coupon collector's ten sets: T (ln T + 9 ln ln T) draws, Erdos & Renyi 1961.
  const double warm_up =
      bins > 3 ? bins * (std::log(bins) + 9 * std::log(std::log(bins))) : 10 * bins;
  const double draws = static_cast<double>(c.train.steps) * static_cast<double>(c.train.batch);
  if (warm_up > 0.5 * draws)
    out.push_back(
        {.error = false,
         .key = "diffusion.time_sampler",
         .message = "'importance' draws t uniformly until it has seen ten losses of each, "
                    "which takes about " +
                    std::to_string(std::lround(warm_up)) + " pictures of the run's " +
                    std::to_string(std::lround(draws)) +
                    "; use fewer diffusion.steps, a longer run, or stratified",
         .code = "importance-warm-up"});
}

}  // namespace

void Config::fields(Fields& f) {
  f(version, "version", "format of this file").at_least(1).at_most(1).free_on_resume();
  f.section(run, "run", "name, place and seed of a run");
  f.section(data, "data", "the pictures, or points in the plane")
      .also_called({"dataset", "datasets"});
  f.section(model, "model", "the time-conditioned U-Net").also_called({"unet", "network", "net"});
  f.section(mlp, "mlp", "the time-conditioned network for data.source: points");
  f.section(diffusion, "diffusion", "the objective: chain, target and weighting")
      .also_called({"objective", "ddpm"});
  f.section(optim, "optim", "AdamW, learning rate, clipping and EMA")
      .also_called({"optimizer", "optimiser"});
  f.section(train, "train", "length, batch and arithmetic of training")
      .also_called({"training", "trainer"});
  f.section(runtime, "runtime", "how fast, not what").also_called({"performance", "backend"});
  f.section(validate, "validate", "measurements on held-out pictures during training")
      .also_called({"validation", "eval", "evaluation"});
  f.section(checkpoint, "checkpoint", "when checkpoints are written and kept")
      .also_called({"checkpoints", "save"});
  f.section(sample, "sample", "how pictures are drawn").also_called({"sampling", "samples"});
  f.section(log, "log", "metrics and plots").also_called({"logging", "logger"});
}

std::vector<Finding> check(const Config& config) {
  std::vector<Finding> out = check(config.diffusion);
  for (Finding& finding : out) finding.key = "diffusion." + finding.key;
  check_unused(config, out);
  if (!config.data.are_points() && config.data.channels == 2)
    out.push_back({.error = true,
                   .key = "data.channels",
                   .message = "2 channels are not supported; use 1 or 3"});
  if (!is_folder_name(config.run.name))
    out.push_back({.error = true,
                   .key = "run.name",
                   .message = "'" + excerpt(config.run.name) +
                              "' cannot name a folder: it must not be empty, start with '.', or "
                              "contain '/' or control characters"});
  if (config.data.are_points()) {
    for (const std::string& problem : config.mlp.problems())
      out.push_back({.error = true, .key = "mlp.hidden", .message = problem});
  } else {
    check_model(config, out);
  }
  check_training(config, out);
  const bool broken = std::any_of(out.begin(), out.end(), [](const Finding& f) { return f.error; });
  std::optional<Process> process;  // none where the config describes none
  if (!broken) process = make_process(config.diffusion);
  if (process) check_importance(config, *process, out);
  const bool continuous = process && process->continuous();
  if (config.sample.steps && *config.sample.steps < config.diffusion.steps &&
      config.diffusion.variance.name() == "learned" && config.sample.sampler.name() == "ddpm")
    out.push_back({.error = false,
                   .key = "sample.steps",
                   .message =
                       "variance 'learned' is that of one step of the trained chain, and too "
                       "small for fewer steps; use variance: learned_range, sampler: ddim, "
                       "or steps: auto",
                   .code = "learned-variance-respaced"});
  if (config.sample.steps && !continuous && *config.sample.steps > config.diffusion.steps)
    out.push_back({.error = true,
                   .key = "sample.steps",
                   .message = std::to_string(*config.sample.steps) +
                              " steps are more than the chain has (diffusion.steps " +
                              std::to_string(config.diffusion.steps) +
                              "); use at most that, or auto"});
  return out;
}

}  // namespace diffuse
