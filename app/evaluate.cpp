// SPDX-License-Identifier: MIT
#include <memory>

#include "base/device.h"
#include "command.h"

namespace diffuse {
namespace {

struct EvaluateFlags {
  EvaluateRequest request;
  std::string nll = "both";
  bool clip = false;
  bool no_clip = false;
  bool exact_trace = false;
  std::string format = "text";
};

}  // namespace

Run add_evaluate(CLI::App& app, const Context& context) {
  app.description("Measure a model on pictures: bits/dim by the bound and by the ODE.");
  app.footer(
      "  diffuse evaluate runs/a                        both routes, on 64 held-out pictures\n"
      "  diffuse evaluate runs/a --nll bound -n 1000 --timesteps 100\n"
      "  diffuse evaluate runs/a --data test --nll bound --csv terms.csv --svg terms.svg\n"
      "  diffuse evaluate runs/a --nll ode --probes 4 --format json");
  const auto flags = std::make_shared<EvaluateFlags>();
  EvaluateRequest& r = flags->request;
  app.add_option("CKPT", r.checkpoint, "checkpoint, or run folder: its newest checkpoint")
      ->required()
      ->check(not_empty());
  app.add_option("--nll",
                 flags->nll,
                 "the variational bound, the likelihood by the probability-flow ODE, or both")
      ->type_name("bound|ode|both")
      ->check(one_of({"bound", "ode", "both"}))
      ->capture_default_str();
  app.add_option("--data",
                 r.data,
                 "folder of pictures [default: those that data.holdout kept from training; without "
                 "one, those that were trained on]")
      ->type_name("FOLDER")
      ->check(not_empty());
  app.add_option(
         "-n,--count", r.count, "how many pictures; which ones depends on their paths alone")
      ->type_name("N")
      ->check(between(1, 10'000'000))
      ->capture_default_str();
  app.add_option("--steps",
                 r.steps,
                 "T of the bound's chain, for models of continuous time [default: diffusion.steps]")
      ->type_name("N")
      ->check(between(2, 1'000'000));
  app.add_option(
         "--timesteps",
         r.timesteps,
         "estimate the bound from N terms L_{t-1} a picture, drawn by their size [default: all]")
      ->type_name("N")
      ->check(at_least(1));
  CLI::Option* clip = app.add_flag(
      "--clip", flags->clip, "only the bound with the estimate of the picture clipped");
  CLI::Option* no_clip =
      app.add_flag("--no-clip", flags->no_clip, "only the bound without [default: both]");
  app.add_option("--tol", r.tol, "tolerance of the ODE's steps, relative and absolute")
      ->type_name("X")
      ->capture_default_str();
  CLI::Option* probes = app.add_option("--probes",
                                       r.probes,
                                       "random probes of the ODE's divergence; their spread is "
                                       "reported from 2 on")
                            ->type_name("N")
                            ->check(between(1, 1000))
                            ->capture_default_str();
  CLI::Option* exact = app.add_flag(
      "--exact-trace", flags->exact_trace, "the exact divergence: a backward pass a dimension");
  app.add_option("--weights", r.weights, "averaged or raw weights [default: the config's]")
      ->type_name("ema|raw")
      ->check(one_of({"ema", "raw"}));
  app.add_option("--seed", r.seed, "seed of the noise, the probes and the dequantisation")
      ->type_name("N")
      ->check(at_least(0))
      ->capture_default_str();
  app.add_option(
         "--bits",
         r.bits,
         "bits of a value of the data: 8-bit pictures rounded to fewer levels, or as some of more")
      ->type_name("N")
      ->check(between(1, 16))
      ->capture_default_str();
  app.add_option("--batch", r.batch, "pictures at once [default: by their size]")
      ->type_name("N")
      ->check(at_least(1));
  app.add_option("--device", r.device, "auto, cpu, cuda or cuda:N")
      ->type_name("DEVICE")
      ->capture_default_str()
      ->envname("DIFFUSE_DEVICE");
  app.add_option("--format", flags->format, "of the result on stdout")
      ->type_name("text|json")
      ->check(one_of({"text", "json"}))
      ->capture_default_str();
  CLI::Option* csv = app.add_option("--csv",
                                    r.csv,
                                    "also write the bound's term of each step, or of each part of "
                                    "the steps that --timesteps makes")
                         ->type_name("FILE")
                         ->check(not_empty());
  CLI::Option* svg =
      app.add_option("--svg", r.svg, "also draw the bound's terms and their sum over t")
          ->type_name("FILE")
          ->check(not_empty());
  return [flags, clip, no_clip, probes, exact, csv, svg, &context] {
    EvaluateRequest& request = flags->request;
    request.global = context.global;
    if (!parse_device(request.device))
      throw Error(Exit::usage,
                  "--device must be auto, cpu, cuda or cuda:N, got '" + request.device + "'" +
                      (is_typed(context, "--device") ? "" : " (from DIFFUSE_DEVICE)"));
    if (!(request.tol >= 1e-6 && request.tol <= 0.1))
      throw Error(Exit::usage,
                  "--tol must be from 1e-6 (below, the rounding of float32 shows) to 0.1");
    if (clip->count() > 0 && no_clip->count() > 0)
      throw Error(Exit::usage,
                  "--clip and --no-clip exclude each other; without them both are "
                  "reported");
    if (probes->count() > 0 && exact->count() > 0)
      throw Error(Exit::usage, "--probes and --exact-trace exclude each other");
    request.bound = flags->nll != "ode";
    request.ode = flags->nll != "bound";
    for (const CLI::Option* option : {csv, svg})
      if (option->count() > 0 && !request.bound)
        throw Error(Exit::usage,
                    option->get_name() + " shows the bound's terms; use --nll bound or both");
    request.clipped = no_clip->count() == 0;
    request.unclipped = clip->count() == 0;
    if (exact->count() > 0) request.probes = 0;
    request.json = flags->format == "json";
    Signals signals;
    request.signals = &signals;
    return open_core().evaluate(request);
  };
}

}  // namespace diffuse
