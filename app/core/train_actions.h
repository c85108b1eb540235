// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/log.h"
#include "config/config.h"
#include "core/model.h"
#include "data/batches.h"
#include "io/run_folder.h"
#include "report/metrics.h"
#include "report/progress.h"
#include "report/tensorboard.h"
#include "train/state.h"

// The periodic work of a training run: log lines, sample grids, checkpoints. Each is a small object
// that owns what it writes; train() knows them only as actions.

namespace diffuse {

/// A clock that can be told to leave out time spent on other things.
class WorkClock {
 public:
  double seconds() const;  // since the last restart, less pauses
  void restart();
  /// Runs `f` and leaves its time out.
  template <class F>
  void pause(F f) {
    const auto start = std::chrono::steady_clock::now();
    f();
    paused_ += std::chrono::steady_clock::now() - start;
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::duration paused_{};
};

/// metrics.jsonl, TensorBoard, plots/train.svg and the progress line.
class TrainLog {
 public:
  TrainLog(const Config& config,
           const RunFolder& folder,
           const TrainState& state,
           const BatchSource& batches,
           ProgressMode mode);

  /// Reads the tally (the only wait for the device), writes a line everywhere, with `more` at its
  /// end, and, if it is a regular one, clears the sums.
  void write(TrainState& state,
             bool regular,
             const std::vector<std::pair<std::string, double>>& more);
  /// Waits until the lines so far are on the disk: those before a checkpoint belong to it.
  void sync() { metrics_.sync(); }
  /// The state went back to a checkpoint: lines of later steps are cut, as on a resume.
  void go_back(const TrainState& state, const BatchSource& batches);
  void show(int64_t step, const std::string& extra = "");
  void image(int64_t step, const Image& grid);

  /// Images per second over the last interval; 0 before the first line.
  double images_per_second() const { return images_per_second_; }
  WorkClock& clock() { return clock_; }

 private:
  /// The next lines are about what follows `state`.
  void begin(const TrainState& state, const BatchSource& batches);
  void report_skipped(int64_t step, const double* tally, int64_t spikes);
  void plot();

  const Config& config_;
  const RunFolder& folder_;
  const BatchSource* batches_ = nullptr;
  MetricsWriter metrics_;
  std::vector<MetricRow> rows_;
  std::optional<TensorBoardWriter> tensorboard_;
  Progress progress_;
  std::string text_;
  WorkClock clock_;         // since the last line
  WorkClock total_clock_;   // since the start of this process
  double time_before_ = 0;  // seconds that the run took before this process
  WorkClock plot_clock_;
  log::RareWarning plot_warning_;
  int64_t last_step_ = 0;
  double last_waited_ = 0;
  int64_t skipped_ = 0;
  int64_t spikes_ = 0;
  double images_per_second_ = 0;
};

/// Checkpoints. When the disk refuses one, the next interval tries again; the third time in a row
/// ends the run. The last one, which cannot be put off, is tried three times within seconds.
class Saver {
 public:
  enum class Why { interval, request, end };

  /// `start`: the checkpoint in `folder` that `state` was loaded from, if it was.
  Saver(const Config& config,
        const RunFolder& folder,
        const Model& network,
        CheckpointInfo info,
        const TrainState& state,
        const std::optional<std::filesystem::path>& start);

  /// Saves unless this very step is saved. A request that fails is only warned of. Throws
  /// Error{write}, and Error{run_folder} when the run folder has gone.
  void save(const TrainState& state, Why why);
  /// After a rollback: puts the count of rollbacks into the checkpoint that the state came from.
  void save_again(const TrainState& state);
  /// checkpoint.every_minutes have passed since the last save.
  bool overdue() const;
  /// Relative to the run folder; empty before the first.
  const std::string& last() const { return last_; }

 private:
  void write(const TrainState& state);

  const CheckpointOptions& options_;
  const RunFolder& folder_;
  const Model& network_;
  CheckpointInfo info_;
  int64_t saved_step_;
  std::string last_;
  int failures_ = 0;
  WorkClock clock_;
};

/// The samples of one step, always from the same noise: a grid of pictures, or points over their
/// true density as SVG.
struct StepSamples {
  std::optional<Image> grid;
  std::string svg;
};

/// How many: sample.grid, but at least 512 points.
int64_t step_sample_count(const Config& config);

/// None when cancelled.
std::optional<StepSamples> draw_samples(
    const Config& config,
    const Model& network,
    const TrainState& state,
    bool bf16,
    const std::string& made,
    const std::function<void(int64_t done, int64_t total)>& progress,
    const std::function<bool()>& cancelled);

}  // namespace diffuse
