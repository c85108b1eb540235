// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/signals.h"
#include "config/yaml.h"
#include "report/progress.h"

// The door between `diffuse` (no LibTorch, starts in milliseconds) and libdiffuse_core (all of
// LibTorch), which is opened when there is work for it.

namespace diffuse {

struct GlobalOptions {
  ProgressMode progress = ProgressMode::automatic;
  int threads = 0;  // 0: all cores
};

struct TrainRequest {
  GlobalOptions global;
  Signals* signals = nullptr;  // installed before LibTorch is loaded, so that none is missed
  LoadedConfig loaded;
  std::string config_text;                // verbatim
  std::vector<std::string> command;       // argv
  std::string git;                        // commit of this build
  std::vector<std::string> overrides;     // --set texts
  std::string run_dir;                    // --run-dir; empty: a new numbered folder under run.root
  std::string resume;                     // "", "auto", "never" or a path
  std::vector<std::string> allow_change;  // keys that may differ on resume
  int64_t stop_after_seconds = 0;         // --stop-after; 0: no limit
  bool dry_run = false;                   // one step, nothing written
};

struct SampleRequest {
  GlobalOptions global;
  Signals* signals = nullptr;
  std::string checkpoint;        // checkpoint or run folder
  std::optional<int64_t> count;  // none: all of `grid`, 64 pictures, 512 points
  std::vector<int64_t> grid;     // rows, columns; empty: square-ish
  std::optional<int64_t> steps;
  std::optional<std::string> sampler;
  std::optional<std::string> variance;
  std::optional<bool> clip;
  std::optional<int64_t> seed;
  std::optional<std::string> weights;  // ema | raw
  std::optional<int64_t> batch;
  std::string label = "all";  // class number, class name, or "all": in turn
  std::string device = "auto";
  std::string out;         // folder, file.png (points: .svg), "-" for stdout; empty: samples.png
  bool singles = false;    // also one PNG a picture; points: a CSV file
  int64_t zoom = 1;        // enlargement of the grids
  int64_t trajectory = 0;  // points of the chain in a trajectory grid; 0: none
  // Steps of the chain at which the score field of points is drawn; empty: some that tell.
  std::optional<std::vector<int64_t>> field;
  bool force = false;  // overwrite
};

struct EvaluateRequest {
  GlobalOptions global;
  Signals* signals = nullptr;
  std::string checkpoint;  // checkpoint or run folder
  std::string data;        // folder of pictures; empty: those held out, or all that were trained on
  bool bound = true;       // the two routes to bits/dim
  bool ode = true;
  int64_t count = 64;
  std::optional<int64_t> steps;      // T of the bound's chain, with continuous time
  std::optional<int64_t> timesteps;  // terms of the bound that are drawn; none: all
  bool clipped = true;               // rows of the result
  bool unclipped = true;
  std::optional<std::string> weights;  // ema | raw
  double tol = 1e-5;                   // of the ODE
  int64_t probes = 1;                  // 0: the exact trace
  int64_t seed = 0;
  int64_t bits = 8;  // of the data
  std::optional<int64_t> batch;
  std::string device = "auto";
  bool json = false;
  std::string csv;  // files; empty: none
  std::string svg;
};

struct BenchRequest {
  GlobalOptions global;
  Signals* signals = nullptr;
  LoadedConfig loaded;
  std::string config_path;  // as given
  std::string git;          // commit of this build
  std::string what;         // train, sample, kernels or data
  int64_t blocks = 5;
  std::optional<int64_t> steps;  // of a block of training; none: by time
  int64_t count = 64;            // pictures of a block of sampling
  bool wait = false;             // for a line of stdin before each block
  bool json = false;
};

struct Core {
  int (*train)(const TrainRequest&);  // returns the exit code; throws Error
  int (*sample)(const SampleRequest&);
  int (*evaluate)(const EvaluateRequest&);
  int (*bench)(const BenchRequest&);
};

/// Opens libdiffuse_core. Throws Error{device} with the remedy when LibTorch is not found.
const Core& open_core();

}  // namespace diffuse
