// SPDX-License-Identifier: MIT
#include <memory>

#include "base/device.h"
#include "command.h"
#include "diffusion/variance.h"
#include "samplers/sampler.h"

namespace diffuse {
namespace {

struct SampleFlags {
  SampleRequest request;
  std::string grid;
  bool clip = false;
  bool no_clip = false;
  std::string seed;
  std::string field;
};

}  // namespace

Run add_sample(CLI::App& app, const Context& context) {
  app.description("Draw pictures, or points in the plane, from a checkpoint.");
  app.footer(
      "  diffuse sample runs/digits-001                      64 pictures into samples.png\n"
      "  diffuse sample runs/digits-001 -n 16 --grid 4x4 --seed 7 -o grid.png\n"
      "  diffuse sample runs/a/checkpoints/step-000005000 --steps 100 --class 3 -o out --singles\n"
      "  diffuse sample runs/digits-001 -o - > grid.png\n"
      "  diffuse sample runs/moons-001 --field           512 points over the true density, and "
      "scores");
  const auto flags = std::make_shared<SampleFlags>();
  SampleRequest& r = flags->request;
  app.add_option("CKPT", r.checkpoint, "checkpoint, or run folder: its newest checkpoint")
      ->required()
      ->check(not_empty());
  app.add_option("-n,--count",
                 r.count,
                 "how many pictures or points [default: 64, or all of --grid; 512 points]")
      ->type_name("N")
      ->check(between(1, 1'000'000));
  CLI::Option* grid =
      app.add_option("--grid", flags->grid, "rows x columns of the grid [default: square]")
          ->type_name("RxC");
  app.add_option("--steps", r.steps, "steps of the chain that are used [default: as trained with]")
      ->type_name("N")
      ->check(at_least(1));
  add_row_option(
      app, "--sampler", r.sampler, samplers(), "how they are drawn [default: the config's]");
  add_row_option(
      app, "--variance", r.variance, variances(), "variance of a step [default: the config's]");
  CLI::Option* clip =
      app.add_flag("--clip", flags->clip, "clip the estimate of the picture to [-1, 1]");
  CLI::Option* no_clip =
      app.add_flag("--no-clip", flags->no_clip, "do not [default: as the config says]");
  app.add_option("--seed", flags->seed, "seed; picture i depends on (seed, i) alone")
      ->type_name("N")
      ->check(not_empty())
      ->envname("DIFFUSE_SEED");
  app.add_option("--class", r.label, "class number or name, or all: in turn")
      ->type_name("CLASS")
      ->capture_default_str();
  app.add_option("--weights", r.weights, "averaged or raw weights [default: the config's]")
      ->type_name("ema|raw")
      ->check(one_of({"ema", "raw"}));
  app.add_option(
         "--batch", r.batch, "pictures drawn at once; changes speed and memory, not pictures")
      ->type_name("N")
      ->check(at_least(1));
  app.add_option("--device", r.device, "auto, cpu, cuda or cuda:N")
      ->type_name("DEVICE")
      ->capture_default_str()
      ->envname("DIFFUSE_DEVICE");
  app.add_option(
         "-o,--out",
         r.out,
         "file.png (points: .svg), a folder, or - for stdout [default: samples.png or .svg]")
      ->type_name("PATH")
      ->check(not_empty());
  app.add_flag(
      "--singles", r.singles, "also each picture as a file of its own; points: a CSV file");
  app.add_option(
         "--trajectory", r.trajectory, "also each picture, or all points, at N places of the chain")
      ->type_name("N")
      ->check(at_least(0));
  CLI::Option* field =
      app.add_option("--field",
                     flags->field,
                     "points: also the learned score field beside the true one, at steps T of the "
                     "chain, or at six that tell")
          ->type_name("[T,...]")
          ->expected(0, 1);
  app.add_option("--zoom", r.zoom, "enlarge the grids, not the pictures, N times")
      ->type_name("N")
      ->check(between(1, 64));
  app.add_flag("--force", r.force, "overwrite what is there");
  return [flags, grid, clip, no_clip, field, &context] {
    SampleRequest& request = flags->request;
    request.global = context.global;
    // Not as validators: those also see the environment of a `diffuse train`.
    const auto source = [&](const char* option, const char* variable) {
      return is_typed(context, option) ? std::string() : std::string(" (from ") + variable + ")";
    };
    if (!parse_device(request.device))
      throw Error(Exit::usage,
                  "--device must be auto, cpu, cuda or cuda:N, got '" + request.device + "'" +
                      source("--device", "DIFFUSE_DEVICE"));
    if (!flags->seed.empty()) {
      request.seed = parse_count(flags->seed);
      if (!request.seed)
        throw Error(Exit::usage,
                    "--seed must be an integer of at least 0, got '" + flags->seed + "'" +
                        source("--seed", "DIFFUSE_SEED"));
    }
    if (clip->count() > 0 && no_clip->count() > 0)
      throw Error(Exit::usage, "--clip and --no-clip exclude each other");
    if (clip->count() > 0) request.clip = true;
    if (no_clip->count() > 0) request.clip = false;
    if (grid->count() > 0) {
      request.grid = parse_grid(flags->grid);
      if (request.grid.empty())
        throw Error(
            Exit::usage,
            "--grid must be ROWSxCOLUMNS like 8x8, each 1 to 1000, got '" + flags->grid + "'");
      const int64_t cells = request.grid[0] * request.grid[1];
      if (!request.count) request.count = cells;
      if (*request.count > cells)
        throw Error(Exit::usage,
                    "--grid " + flags->grid + " has " + std::to_string(cells) +
                        " cells, too few for --count " + std::to_string(*request.count));
    }
    if (field->count() > 0) {
      request.field = parse_counts(flags->field);
      if (!request.field)
        throw Error(Exit::usage,
                    "--field must be steps of the chain like 0,100,400, got '" + flags->field +
                        "' (write it last to draw it at six steps)");
    }
    Signals signals;
    request.signals = &signals;
    return open_core().sample(request);
  };
}

}  // namespace diffuse
