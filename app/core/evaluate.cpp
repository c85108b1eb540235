// SPDX-License-Identifier: MIT
#include <ATen/ATen.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/device.h"
#include "base/files.h"
#include "base/log.h"
#include "base/text.h"
#include "core.h"
#include "core/commands.h"
#include "core/model.h"
#include "core/test_images.h"
#include "io/checkpoint.h"
#include "json_number.h"
#include "likelihood/flow.h"
#include "ops/cuda.h"
#include "report/plot.h"
#include "train/state.h"

namespace diffuse {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

/// A fall of log SNR in one step that leaves much of the bound in its decoder.
constexpr double kCoarse = 3;

/// What was evaluated.
struct Evaluated {
  std::string checkpoint;
  int64_t step = 0;
  std::string weights;
  std::string data;  // the folder, and which of its pictures
  int64_t images = 0;
  std::vector<int64_t> shape;
  int64_t bits = 8;  // of a value; 0: continuous
  uint64_t fingerprint = 0;
};

/// Results of the ODE over all batches.
struct Flow {
  at::Tensor bits;    // [n], bits a dimension of the data
  at::Tensor spread;  // [n], likewise: standard error over the probes; NaN without several
  double evaluations = 0, accepted = 0, rejected = 0;  // of a batch, in the mean
  int64_t batches = 0;
  double logsnr_clean = 0, logsnr_noisy = 0;
  double offset = 0;
};

/// The classes that the model was trained with, by name. Throws Error{data} for others.
void relabel(TestImages& images, const DataScan& scan, const CheckpointInfo& info) {
  if (!images.labels.defined()) return;
  std::vector<int64_t> to;
  for (const std::string& name : scan.label_names) {
    const auto found = std::find(info.class_names.begin(), info.class_names.end(), name);
    if (found == info.class_names.end())
      throw Error(Exit::data,
                  "the model was not trained with class '" + printable(name, true) +
                      "'; evaluate pictures of its own classes");
    to.push_back(found - info.class_names.begin());
  }
  images.labels = at::tensor(to, at::kLong).index_select(0, images.labels);
}

/// Values rounded to 2^bits levels.
at::Tensor quantised(const at::Tensor& x, int64_t bits) {
  const double top = std::pow(2.0, static_cast<double>(bits)) - 1;
  return x.to(at::kDouble).add(1).mul(top / 2).round().mul(2 / top).sub(1).to(x.scalar_type());
}

TestImages load(const EvaluateRequest& request,
                DataOptions options,
                const CheckpointInfo& info,
                std::string& which) {
  if (options.are_points()) {
    if (!request.data.empty())
      throw Error(Exit::usage,
                  "--data: this model is of points, which are drawn from their distribution");
    which = "of " + options.points.name();
    return load_test_points(options, request.count);
  }
  options.cache = CachePolicy::none;  // a few of them are decoded
  if (!request.data.empty()) {
    options.path = fs::absolute(request.data).string();
    options.holdout = 0;
  }
  const Dataset data(options);
  std::vector<int64_t> indices(
      static_cast<size_t>(options.holdout > 0 ? data.held_out() : data.size()));
  std::iota(indices.begin(), indices.end(), options.holdout > 0 ? data.size() : 0);
  const auto& entries = data.scan().entries;
  std::sort(indices.begin(), indices.end(), [&](int64_t a, int64_t b) {
    const auto key = [&](int64_t i) { return entries[static_cast<size_t>(i)].key; };
    return std::pair(key(a), a) < std::pair(key(b), b);
  });
  const bool seen = request.data.empty() && options.holdout == 0;
  which = options.path + (options.holdout > 0 ? " (held out)" : seen ? " (trained on)" : "");
  if (seen)
    log::warn(
        "the model was trained on these pictures (its data.holdout is 0), so the result says "
        "nothing of others; name some with --data");
  const bool with_labels = info.num_classes > 0;
  if (with_labels) require_classes(options, data.scan().label_names);
  TestImages images = load_test_images(data, options, indices, request.count, with_labels);
  relabel(images, data.scan(), info);
  if (images.x0.size(0) < request.count)
    log::info("--count " + std::to_string(request.count) + ": there is no more than " +
              counted(images.x0.size(0), "picture"));
  if (request.bits != 8) images.x0 = quantised(images.x0, request.bits);
  return images;
}

/// The noisiest level that holds signal: a step without has no log SNR.
const Level& last_level(const Chain& chain) {
  const auto found = std::find_if(chain.levels.rbegin(), chain.levels.rend(), [](const Level& l) {
    return std::isfinite(l.logsnr);
  });
  DIFFUSE_CHECK(found != chain.levels.rend());
  return *found;
}

/// Why the ODE cannot be solved for a model, or empty.
std::string why_no_ode(const EvaluateRequest& request,
                       const Config& config,
                       const Chain& chain,
                       int64_t dimensions) {
  if (config.diffusion.target.name() == "mu")
    return "target 'mu' is the mean of a step of the chain, and the ODE passes between the steps";
  if (chain.steps() < 2 || !std::isfinite(chain.levels[1].logsnr))
    return "the chain has no two noise levels with signal";
  if (request.probes == 0 && dimensions > kMaxExactDimensions)
    return "--exact-trace is for at most " + std::to_string(kMaxExactDimensions) +
           " values a picture, these have " + std::to_string(dimensions);
  return {};
}

Flow evaluate_flow(const EvaluateRequest& request,
                   const Config& config,
                   const Process& process,
                   const Model& network,
                   const Weights& weights,
                   const TestImages& images,
                   int64_t bits,
                   int64_t batch,
                   const std::function<void(int64_t images, int64_t evaluations)>& progress) {
  const auto& levels = process.chain().levels;
  const Level& noisy = last_level(process.chain());
  const FlowOptions options{
      .logsnr_clean = levels.front().logsnr,
      .logsnr_noisy = noisy.logsnr,
      .probes = request.probes,
      .seed = static_cast<uint64_t>(request.seed),
      .ode = {.atol = request.tol, .rtol = request.tol, .max_evaluations = 100'000},
      .type = at::kFloat};
  const at::Device device = weights.front().device();
  const int64_t n = images.x0.size(0), dimensions = images.x0.numel() / n;
  Flow out;
  out.logsnr_clean = options.logsnr_clean;
  out.logsnr_noisy = options.logsnr_noisy;
  out.offset = bits > 0 ? bin_offset(static_cast<int>(bits)) : 0;
  std::vector<at::Tensor> all, spreads;
  for (int64_t first = 0; first < n; first += batch) {
    const int64_t size = std::min(batch, n - first);
    const Network f = images.bind(network, weights, first, size);
    int64_t evaluations = 0;
    const Network counted = [&](const at::Tensor& x, const at::Tensor& t) {
      progress(first, ++evaluations);
      return f(x, t);
    };
    const at::Tensor some = images.x0.narrow(0, first, size);
    const at::Tensor x =
        (bits > 0 ? dequantise(some, static_cast<int>(bits), options.seed, 0, first) : some)
            .to(device);
    const FlowLikelihood got = flow_likelihood(
        make_denoiser(counted, config.diffusion.target, /*clip=*/false),
        [&](double logsnr) { return process.level_at(logsnr); },
        x,
        first,
        options);
    all.push_back(bits_per_dimension(got.nats, dimensions).add(out.offset).cpu());
    spreads.push_back(bits_per_dimension(probe_error(got), dimensions).neg().cpu());
    out.evaluations += static_cast<double>(got.evaluations);
    out.accepted += static_cast<double>(got.accepted);
    out.rejected += static_cast<double>(got.rejected);
    ++out.batches;
  }
  for (double* sum : {&out.evaluations, &out.accepted, &out.rejected})
    *sum /= static_cast<double>(out.batches);
  out.bits = at::cat(all);
  out.spread = at::cat(spreads);
  return out;
}

/// A column of the bound's table: one step, or one part of the steps.
struct StepRow {
  double t = 0, logsnr = 0;
  Mean bits, clipped;
  double sum = 0, clipped_sum = 0;  // what it adds to the bound
  double mse_x0 = 0, mse_eps = 0;
};

std::vector<StepRow> step_rows(const BoundTable& table, const Chain& chain) {
  std::vector<double> all;
  for (const Level& level : chain.levels) all.push_back(level.logsnr);
  const at::Tensor logsnr = at::tensor(all, at::kDouble);
  std::vector<StepRow> out;
  for (int64_t k = 0; k < table.steps.size(1); ++k) {
    const at::Tensor steps = table.steps.select(1, k).contiguous();
    out.push_back({.t = mean_of(steps).mean,
                   .logsnr = mean_of(logsnr.index_select(0, steps)).mean,
                   .bits = mean_of(table.bits.select(1, k)),
                   .clipped = mean_of(table.clipped_bits.select(1, k)),
                   .sum = mean_of(table.bits.mul(table.weight).select(1, k)).mean,
                   .clipped_sum = mean_of(table.clipped_bits.mul(table.weight).select(1, k)).mean,
                   .mse_x0 = mean_of(table.mse_x0.select(1, k)).mean,
                   .mse_eps = mean_of(table.mse_eps.select(1, k)).mean});
  }
  return out;
}

std::string as_csv(const std::vector<StepRow>& rows) {
  std::string out = "t,logsnr,bits,bits_se,clipped_bits,clipped_bits_se,mse_x0,mse_eps\n";
  for (const StepRow& row : rows) {
    const double values[] = {row.logsnr,
                             row.bits.mean,
                             row.bits.error,
                             row.clipped.mean,
                             row.clipped.error,
                             row.mse_x0,
                             row.mse_eps};
    out += shortest(row.t);
    for (const double value : values) {
      out += ',';
      out += shortest(value);
    }
    out += '\n';
  }
  return out;
}

std::string as_svg(const EvaluateRequest& request, const std::vector<StepRow>& rows) {
  Panel terms{.title = "Terms of the bound: L_t of each step",
              .x_label = "t",
              .y_label = "bits/dim",
              .log_y = true,
              .series = {}};
  Panel sums{.title = "Sum of the terms up to t",
             .x_label = "t",
             .y_label = "bits/dim",
             .log_y = false,
             .series = {}};
  const auto add = [&](const char* name, int color, Mean StepRow::*bits, double StepRow::*share) {
    Series term{.name = name, .points = {}, .color = color};
    Series sum = term;
    double total = 0;
    for (const StepRow& row : rows) {
      total += row.*share;
      term.points.emplace_back(row.t, (row.*bits).mean);
      sum.points.emplace_back(row.t, total);
    }
    terms.series.push_back(std::move(term));
    sums.series.push_back(std::move(sum));
  };
  if (request.clipped) add("clipped", 0, &StepRow::clipped, &StepRow::clipped_sum);
  if (request.unclipped) add("unclipped", 1, &StepRow::bits, &StepRow::sum);
  const auto last = [](const Series& s) { return s.points.back().second; };
  sums.log_y = last(sums.series.back()) > 10 * last(sums.series.front());
  return plot_svg({terms, sums});
}

Json mean_json(const at::Tensor& values) {
  const Mean m = mean_of(values);
  return {{"mean", number_or_null(m.mean)}, {"se", number_or_null(m.error)}};
}

Json bound_json(const BoundTable& table, bool clipped) {
  return {{"prior", mean_json(table.prior)},
          {"rest", mean_json(table.rest(clipped))},
          {"decoder", mean_json(table.decoder(clipped))},
          {"total", mean_json(table.total(clipped))}};
}

Json as_json(const EvaluateRequest& request,
             const Evaluated& what,
             const std::optional<BoundTable>& bound,
             const std::optional<Flow>& flow) {
  Json out{{"checkpoint", what.checkpoint},
           {"step", what.step},
           {"weights", what.weights},
           {"data", what.data},
           {"images", what.images},
           {"fingerprint", hex(what.fingerprint)},
           {"bits", what.bits},
           {"seed", request.seed},
           {"unit", "bits/dim"}};
  if (bound) {
    Json& b = out["bound"];
    b["timesteps"] = bound->steps.size(1);
    if (request.clipped) b["clipped"] = bound_json(*bound, true);
    if (request.unclipped) b["unclipped"] = bound_json(*bound, false);
  }
  if (flow)
    out["ode"] = {{"total", mean_json(flow->bits)},
                  {"offset", flow->offset},
                  {"logsnr", {flow->logsnr_clean, flow->logsnr_noisy}},
                  {"tol", request.tol},
                  {"probes", request.probes},
                  {"probe_se", number_or_null(mean_of(flow->spread).mean)},
                  {"evaluations", flow->evaluations},
                  {"accepted", flow->accepted},
                  {"rejected", flow->rejected},
                  {"batches", flow->batches}};
  return out;
}

std::string figure(const at::Tensor& values) {
  const Mean m = mean_of(values);
  char text[64];
  // A single value has no standard error.
  if (std::isfinite(m.error))
    std::snprintf(text, sizeof(text), "%.4f +- %.4f", m.mean, m.error);
  else
    std::snprintf(text, sizeof(text), "%.4f", m.mean);
  return text;
}

std::string as_text(const EvaluateRequest& request,
                    const Evaluated& what,
                    const Chain& chain,
                    const std::optional<BoundTable>& bound,
                    const std::optional<Flow>& flow) {
  std::string out = what.checkpoint + ", " + what.weights + " weights\n" +
                    std::to_string(what.images) + (what.bits > 0 ? " pictures of " : " points ") +
                    what.data + ", " + std::to_string(what.shape[1]) + " x " +
                    std::to_string(what.shape[2]) + " x " + std::to_string(what.shape[0]) +
                    (what.bits > 0 ? ", " + std::to_string(what.bits) + " bits a value"
                                   : ", continuous: of a density, which may be above 1") +
                    "\n\nbits/dim, mean +- standard error over the " +
                    (what.bits > 0 ? "pictures\n" : "points\n");
  if (bound) {
    const int64_t parts = bound->steps.size(1) - 1;
    constexpr size_t kWidth = 20;
    out += "bound     " + padded("L_T", kWidth + 2) + padded("sum of L_{t-1}", kWidth + 2) +
           padded("L_0", kWidth + 2) + padded("total", kWidth + 2) + "\n";
    const auto row = [&](const char* name, bool clipped) {
      out += std::string(name) + "  " + padded(figure(bound->prior), kWidth) + "  " +
             padded(figure(bound->rest(clipped)), kWidth) + "  " +
             padded(figure(bound->decoder(clipped)), kWidth) + "  " +
             padded(figure(bound->total(clipped)), kWidth) + "\n";
    };
    if (request.clipped) row("clipped   ", true);
    if (request.unclipped) row("unclipped ", false);
    out += parts == chain.steps() - 1
               ? "          all " + std::to_string(chain.steps()) + " steps of the chain\n"
               : "          estimated: L_0 and " + std::to_string(parts) + " of the " +
                     std::to_string(chain.steps() - 1) + " L_{t-1} of each picture\n";
  }
  if (flow) {
    out += std::string(bound ? "\n" : "") + "ode       " + figure(flow->bits) + "\n          ";
    out += request.probes == 0 ? "exact trace"
                               : std::to_string(request.probes) +
                                     (request.probes == 1 ? " random probe" : " random probes");
    if (request.probes > 1)
      out += ", whose spread adds +- " + significant(mean_of(flow->spread).mean, 2) + " a picture";
    out += "; " + significant(flow->evaluations, 6) + " evaluations, " +
           significant(flow->accepted, 6) + " steps, " + significant(flow->rejected, 6) +
           " rejected" + (flow->batches > 1 ? " (mean over the batches)" : "") +
           "\n          log SNR " + significant(flow->logsnr_clean, 4) + " to " +
           significant(flow->logsnr_noisy, 4) + ", tolerance " + significant(request.tol, 3);
    if (what.bits > 0)
      out += ", uniform dequantisation\n          with the bins' offset of " +
             significant(flow->offset, 6) + " = -log2(2 / (2^" + std::to_string(what.bits) +
             " - 1))";
    out += "\n";
  }
  return out;
}

}  // namespace

int run_evaluate(const EvaluateRequest& request) {
  Signals& signals = *request.signals;
  set_threads(request.global.threads);
  const fs::path checkpoint = find_checkpoint(request.checkpoint);
  const CheckpointInfo info = load_info(checkpoint);
  Config config = saved_config(info, checkpoint);
  if (request.steps) {
    if (!make_process(config.diffusion).continuous())
      throw Error(Exit::usage,
                  "--steps: this model was trained on a chain of " +
                      std::to_string(config.diffusion.steps) +
                      " steps, which is the one its bound is of; see --timesteps");
    config.diffusion.steps = *request.steps;
  }
  const Model network = make_network(config, info.num_classes);
  const at::Device device = pick_device(request.device);
  set_precision(Precision::fp32, device);
  const bool raw =
      request.weights ? *request.weights == "raw" : config.sample.weights == WeightSet::raw;
  const Weights weights =
      load_weights_of(checkpoint, network, raw ? WeightSet::raw : WeightSet::ema, device);
  Evaluated what{.checkpoint = checkpoint.string(),
                 .step = info.step,
                 .weights = raw ? "raw" : "ema",
                 .data = {},
                 .shape = config.data.shape(),
                 .bits = config.data.are_points() ? 0 : request.bits};
  const TestImages images = load(request, config.data, info, what.data);
  what.images = images.x0.size(0);
  what.fingerprint = images.fingerprint;
  const Objective objective(config.diffusion, device, what.bits);
  const Chain& chain = objective.process().chain();
  const int64_t batch = images_at_once(what.shape, request.batch, what.images);
  const int64_t all = chain.steps() - 1;
  if (request.timesteps && *request.timesteps > all)
    throw Error(Exit::usage,
                "--timesteps must be at most the " + std::to_string(all) +
                    " terms L_{t-1} of the chain, got " + std::to_string(*request.timesteps));
  const auto check_stop = [&] {
    if (signals.stop() != Exit::ok) throw Error(signals.stop(), "stopped: there is no result");
  };

  // Found out now rather than after hours of measuring.
  for (const std::string& file : {request.csv, request.svg}) {
    if (file.empty()) continue;
    const fs::path folder = fs::path(file).parent_path();
    if (::access(folder.empty() ? "." : folder.c_str(), W_OK | X_OK) != 0)
      throw Error(Exit::write,
                  "cannot write " + file + ": " + std::strerror(errno) + "; choose another place");
  }

  const std::string no_ode =
      request.ode ? why_no_ode(request, config, chain, images.x0.numel() / what.images) : "";
  if (!no_ode.empty() && !request.bound)
    throw Error(Exit::usage, "--nll ode: " + no_ode + "; use --nll bound");
  if (!no_ode.empty()) log::warn("without the ODE: " + no_ode);
  if (request.bound && chain.steps() > 1 && chain.level(0).logsnr - chain.level(1).logsnr > kCoarse)
    log::warn("the chain's first step goes from log SNR " + significant(chain.level(0).logsnr, 3) +
              " to " + significant(chain.level(1).logsnr, 3) +
              ": so coarse a chain has a loose bound" +
              (objective.process().continuous() ? "; more steps: --steps N" : ""));
  if (request.ode && no_ode.empty() && last_level(chain).snr() > 0.01)
    log::warn("the ODE ends at log SNR " + significant(last_level(chain).logsnr, 3) +
              ", where signal is left: its figure is of a model that starts from pure noise there");
  std::optional<BoundTable> bound;
  std::optional<Flow> flow;
  std::optional<Error> failed;  // the ODE, after the bound was found
  with_memory_advice(
      batch > 1 ? "fewer pictures at once: --batch " + std::to_string(batch / 2)
                : "not even one picture fits: use another --device",
      [&] {
        if (request.bound) {
          Progress progress(request.global.progress, "bound", 0, what.images);
          bound = bound_table({.objective = objective,
                               .network = network,
                               .weights = weights,
                               .images = images,
                               .parts = request.timesteps.value_or(all),
                               .batch = batch,
                               .seed = static_cast<uint64_t>(request.seed),
                               .progress = [&](int64_t done, int64_t total) {
                                 check_stop();
                                 progress.update(done * what.images / total, "pictures");
                               }});
        }
        if (request.ode && no_ode.empty()) try {
            Progress progress(request.global.progress, "ode", 0, what.images);
            flow =
                evaluate_flow(request,
                              config,
                              objective.process(),
                              network,
                              weights,
                              images,
                              what.bits,
                              batch,
                              [&](int64_t done, int64_t evaluations) {
                                check_stop();
                                progress.update(done, std::to_string(evaluations) + " evaluations");
                              });
          } catch (const Error& e) {
            if (e.code != Exit::diverged || !bound) throw;
            failed = e;
          }
        return 0;
      });

  if (bound) {
    const std::vector<StepRow> rows = step_rows(*bound, chain);
    if (!request.csv.empty()) write_named_file(request.csv, as_csv(rows));
    if (!request.svg.empty()) write_named_file(request.svg, as_svg(request, rows));
  }
  const std::string result = request.json
                                 ? as_json(request, what, bound, flow)
                                           .dump(2, ' ', false, Json::error_handler_t::replace) +
                                       "\n"
                                 : as_text(request, what, chain, bound, flow);
  write_to_stdout(result, "the result");
  if (failed) throw *failed;
  if (bound && !at::isfinite(bound->total(request.clipped)).all().item<bool>())
    throw Error(Exit::diverged, "the bound is not finite: the network or its objective is broken");
  return 0;
}

}  // namespace diffuse
