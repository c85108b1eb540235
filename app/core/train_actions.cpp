// SPDX-License-Identifier: MIT
#include "core/train_actions.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "base/files.h"
#include "base/log.h"
#include "core/points.h"
#include "ops/cuda.h"
#include "report/plot.h"
#include "train/lr.h"

namespace diffuse {
namespace {

std::string number(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

/// Pictures and plots must not stop a run: a full disk is only told.
template <class F>
void write_or_warn(const char* what, F write) {
  try {
    write();
  } catch (const Error& e) {
    log::warn(std::string("no ") + what + ": " + e.what());
  }
}

}  // namespace

double WorkClock::seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_ - paused_).count();
}

void WorkClock::restart() {
  start_ = std::chrono::steady_clock::now();
  paused_ = {};
}

TrainLog::TrainLog(const Config& config,
                   const RunFolder& folder,
                   const TrainState& state,
                   const BatchSource& batches,
                   ProgressMode mode)
    : config_(config),
      plot_path_(folder.plots() / "train.svg"),
      batches_(batches),
      metrics_(folder.metrics(), state.logged_step),
      rows_(read_metrics(folder.metrics())),
      progress_(mode, "train", state.step, config.train.steps),
      last_step_(state.step),
      skipped_(static_cast<int64_t>(state.tally[Tally::skipped].item<double>())) {
  if (!rows_.empty())
    for (const auto& [name, value] : rows_.back().values)
      if (name == "time") time_before_ = value;
  if (config.log.tensorboard)
    write_or_warn("TensorBoard file",
                  [&] { tensorboard_.emplace(folder.tensorboard(), state.logged_step); });
}

void TrainLog::write(TrainState& state,
                     bool regular,
                     const std::vector<std::pair<std::string, double>>& more) {
  const at::Tensor tally = state.tally.cpu();
  const double* t = tally.const_data_ptr<double>();
  const double good = t[Tally::good];
  const double seconds = clock_.seconds();
  const double waited = batches_.waited();
  const auto images = static_cast<double>((state.step - last_step_) * config_.train.batch);
  images_per_second_ = seconds > 0 ? images / seconds : 0;
  const double wait = seconds > 0 ? (waited - last_waited_) / seconds : 0;

  MetricRow row{.step = state.step, .values = {}};
  row.values = {{"loss", t[Tally::loss] / good},
                {"loss_raw", t[Tally::loss_raw] / good},
                {"lr", learning_rate(config_.optim, state.step - 1, config_.train.steps)},
                {"grad_norm", t[Tally::grad_norm] / good},
                {"skipped", t[Tally::skipped]},
                {"ema_initial", t[Tally::ema_initial]},
                {"images", static_cast<double>(state.images_seen)},
                {"time", time_before_ + total_clock_.seconds()},
                {"img_s", images_per_second_},
                {"data_wait", wait}};
  if (const at::Device device = state.ema.device(); device.is_cuda())
    row.values.emplace_back("vram_gb",
                            static_cast<double>(open_cuda()->memory_peak(device.index())) / 1e9);
  row.values.insert(row.values.end(), more.begin(), more.end());
  metrics_.write(row);
  if (tensorboard_) tensorboard_->scalars(row);
  rows_.push_back(row);
  text_ = "loss " + number("%.4f", t[Tally::loss] / good) + "  " +
          number("%.0f", images_per_second_) + " img/s  wait " + number("%.0f", 100 * wait) + "%";
  progress_.line(state.step, text_);
  const bool last = state.step == config_.train.steps;
  if (config_.log.plots && (last || rows_.size() == 1 || plot_clock_.seconds() > 10)) plot();
  report_skipped(state.step, t);

  // A line that the end of the run makes between two regular ones is no part of the series: were
  // the run longer, its steps would belong to the next regular line.
  if (regular) {
    state.tally.narrow(0, 0, Tally::window_end).zero_();
    state.logged_step = state.step;
  }
  last_step_ = state.step;
  last_waited_ = waited;
  clock_.restart();
}

void TrainLog::report_skipped(int64_t step, const double* tally) {
  const auto skipped = static_cast<int64_t>(tally[Tally::skipped]);
  if (skipped > skipped_)
    log::warn(std::to_string(skipped - skipped_) + " updates up to step " + std::to_string(step) +
              " were skipped, because the loss or the gradient was not finite (" +
              std::to_string(skipped) + " in all)");
  skipped_ = skipped;
  const auto in_row = static_cast<int64_t>(tally[Tally::longest_row]);
  if (config_.optim.max_skips_in_row > 0 && in_row >= config_.optim.max_skips_in_row)
    throw Error(
        Exit::diverged,
        "training diverged: " + std::to_string(in_row) + " updates in a row before step " +
            std::to_string(step) +
            " had a loss or gradient that was not finite. The checkpoints so far are kept. Try a "
            "lower optim.lr, a longer optim.warmup_steps, or "
            "train.precision=fp32");
}

void TrainLog::plot() {
  plot_clock_.restart();
  write_or_warn("plot", [&] { write_file_atomic(plot_path_, plot_training(rows_)); });
}

void TrainLog::show(int64_t step, const std::string& extra) {
  progress_.update(step, extra.empty() ? text_ : extra);
}

void TrainLog::image(int64_t step, const Image& grid) {
  if (tensorboard_)
    tensorboard_->image(step, "samples", encode_png(grid), grid.height, grid.width, grid.channels);
}

Saver::Saver(const Config& config,
             const RunFolder& folder,
             const Model& network,
             CheckpointInfo info,
             const TrainState& state,
             const std::optional<std::filesystem::path>& start)
    : options_(config.checkpoint),
      folder_(folder),
      network_(network),
      info_(std::move(info)),
      saved_step_(start ? state.step : -1) {
  if (start) last_ = std::filesystem::relative(*start, folder_.path()).string();
}

bool Saver::overdue() const {
  return options_.every_minutes > 0 && clock_.seconds() > 60 * options_.every_minutes;
}

void Saver::save(const TrainState& state, bool must) {
  if (saved_step_ == state.step) return;
  clock_.restart();
  folder_.check_still_there();
  try {
    const auto path = save_state(
        folder_.checkpoints(), state, network_.layout(), info_, options_.verify_after_write);
    saved_step_ = state.step;
    failures_ = 0;
    last_ = std::filesystem::relative(path, folder_.path()).string();
    log::debug("saved " + path.string());
    prune_checkpoints(folder_.checkpoints(), options_.keep_last, options_.keep_every_steps);
  } catch (const Error& e) {
    if (e.code != Exit::write || must || ++failures_ >= 3) throw;
    log::warn(std::string(e.what()) +
              "; the former checkpoint is untouched, training goes on and will try again");
  }
}

int64_t step_sample_count(const Config& config) {
  const int64_t cells = config.sample.grid[0] * config.sample.grid[1];
  return config.data.are_points() ? std::max<int64_t>(cells, 512) : cells;
}

std::optional<StepSamples> draw_samples(const Config& config,
                                        const Model& network,
                                        const TrainState& state,
                                        bool bf16,
                                        const std::string& made,
                                        const std::function<void(int64_t, int64_t)>& progress,
                                        const std::function<bool()>& cancelled) {
  const int64_t count = step_sample_count(config);
  const DrawRequest request{.options = config.sample,
                            .diffusion = &config.diffusion,
                            .image_shape = config.data.shape(),
                            .count = count,
                            .labels = labels_in_turn(count, network.num_classes()),
                            .bf16 = bf16,
                            .trajectory = 0,
                            .progress = progress,
                            .cancelled = cancelled};
  const Weights weights = weights_of(state, network, config.sample.weights);
  StepSamples out;
  if (config.data.are_points()) {
    const std::optional<PointDrawing> drawing = draw_points(network, weights, request);
    if (!drawing) return std::nullopt;
    out.svg = points_svg(config, drawing->points, made);
  } else {
    const std::optional<Drawing> drawing = draw(network, weights, request);
    if (!drawing) return std::nullopt;
    out.grid = make_grid(drawing->images, config.sample.grid[1]);
  }
  return out;
}

}  // namespace diffuse
