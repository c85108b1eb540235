// SPDX-License-Identifier: MIT
#include "core/train_actions.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdio>
#include <thread>
#include <utility>

#include "base/files.h"
#include "base/log.h"
#include "core/points.h"
#include "ops/cuda.h"
#include "ops/out_of_memory.h"
#include "report/plot.h"
#include "train/lr.h"

namespace diffuse {
namespace {

std::string number(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

int64_t spikes_of(const TrainState& state) {
  return static_cast<int64_t>(state.spikes[SpikeWindow::spikes].item<double>());
}

/// Why a checkpoint was not written, if that may go better the next time; else empty.
std::string failure(const std::exception& e) {
  if (const auto* error = dynamic_cast<const Error*>(&e))
    return error->code == Exit::write ? error->what() : "";
  const std::optional<std::string> memory = out_of_memory(e);
  return memory ? "no checkpoint: out of memory: " + *memory : "";
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
      folder_(folder),
      metrics_(folder.metrics(), state.logged_step),
      rows_(read_metrics(folder.metrics())),
      progress_(mode, "train", state.step, config.train.steps) {
  begin(state, batches);
  if (!rows_.empty())
    for (const auto& [name, value] : rows_.back().values)
      if (name == "time") time_before_ = value;
}

void TrainLog::go_back(const TrainState& state, const BatchSource& batches) {
  metrics_.go_back(state.logged_step);
  std::erase_if(rows_, [&](const MetricRow& row) { return row.step > state.logged_step; });
  begin(state, batches);
}

void TrainLog::begin(const TrainState& state, const BatchSource& batches) {
  tensorboard_.reset();
  const bool anew = state.logged_step == 0 && state.rollbacks == 0;
  if (config_.log.tensorboard) {
    try {
      tensorboard_.emplace(folder_.tensorboard(),
                           anew ? std::nullopt : std::optional(state.logged_step));
    } catch (const Error& e) {
      log::warn(std::string("no TensorBoard file: ") + e.what());
    }
  }
  batches_ = &batches;
  last_step_ = state.step;
  last_waited_ = batches.waited();
  skipped_ = static_cast<int64_t>(state.tally[Tally::skipped].item<double>());
  spikes_ = spikes_of(state);
  clock_.restart();
}

void TrainLog::write(TrainState& state,
                     bool regular,
                     const std::vector<std::pair<std::string, double>>& more) {
  const at::Tensor tally = state.tally.cpu();
  const double* t = tally.const_data_ptr<double>();
  const bool guarded = config_.optim.spike_guard > 0;
  const int64_t spikes = guarded ? spikes_of(state) : spikes_;
  const double good = t[Tally::good];
  const double seconds = clock_.seconds();
  const double waited = batches_->waited();
  const auto images = static_cast<double>((state.step - last_step_) * config_.train.batch);
  images_per_second_ = seconds > 0 ? images / seconds : 0;
  const double wait = seconds > 0 ? (waited - last_waited_) / seconds : 0;

  MetricRow row{.step = state.step, .values = {}};
  row.values = {{"loss", t[Tally::loss] / good},
                {"loss_raw", t[Tally::loss_raw] / good},
                {"lr", learning_rate(config_.optim, state.step - 1, config_.train.steps)},
                {"grad_norm", t[Tally::grad_norm] / good},
                {"skipped", t[Tally::skipped]},
                {"rollbacks", static_cast<double>(state.rollbacks)},
                {"ema_initial", t[Tally::ema_initial]},
                {"images", static_cast<double>(state.images_seen)},
                {"time", time_before_ + total_clock_.seconds()},
                {"img_s", images_per_second_},
                {"data_wait", wait}};
  if (guarded) row.values.emplace_back("spikes", static_cast<double>(spikes));
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
  report_skipped(state.step, t, spikes);

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

void TrainLog::report_skipped(int64_t step, const double* tally, int64_t spikes) {
  const auto skipped = static_cast<int64_t>(tally[Tally::skipped]);
  if (skipped > skipped_)
    log::warn(std::to_string(skipped - skipped_) + " updates up to step " + std::to_string(step) +
              " were skipped, because the loss or the gradient was not finite" +
              (spikes > spikes_ ? ", or (" + std::to_string(spikes - spikes_) +
                                      " of them) far above that of the steps before"
                                : "") +
              " (" + std::to_string(skipped) + " in all)");
  skipped_ = skipped;
  spikes_ = spikes;
}

void TrainLog::plot() {
  plot_clock_.restart();
  // Neither plots nor pictures stop a run: of a full disk it is only told.
  try {
    write_file_atomic(folder_.plots() / "train.svg", plot_training(rows_));
  } catch (const Error& e) {
    plot_warning_.warn(std::string("no plot: ") + e.what() + "; the run goes on");
  }
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

void Saver::save(const TrainState& state, Why why) {
  constexpr int kMost = 3;
  if (saved_step_ == state.step) return;
  clock_.restart();
  for (int attempt = 1;; ++attempt) {
    try {
      folder_.check_still_there();
      write(state);
      return;
    } catch (const std::exception& e) {
      const std::string what = failure(e);
      if (what.empty()) throw;
      if (why == Why::interval) ++failures_;
      if (std::max(why == Why::end ? attempt : 0, failures_) >= kMost)
        throw Error(Exit::write,
                    what + ". It was tried " + std::to_string(kMost) +
                        " times; a start with --run-dir " + folder_.path().string() +
                        (last_.empty() ? " begins again" : " goes on from " + last_));
      log::warn(what +
                (why == Why::end ? "; trying again" : "; training goes on and will try again"));
      if (why != Why::end) return;
    }
    // What the end of a run cannot save is lost, and a disk may be full for a moment only.
    std::this_thread::sleep_for(std::chrono::seconds(1));
  }
}

void Saver::write(const TrainState& state) {
  const auto path = save_state(
      folder_.checkpoints(), state, network_.layout(), info_, options_.verify_after_write);
  saved_step_ = state.step;
  failures_ = 0;
  last_ = std::filesystem::relative(path, folder_.path()).string();
  log::debug("saved " + path.string());
  prune_checkpoints(folder_.checkpoints(), options_.keep_last, options_.keep_every_steps);
}

void Saver::save_again(const TrainState& state) {
  saved_step_ = -1;
  save(state, Why::interval);
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
