// SPDX-License-Identifier: MIT
#include "core/bench.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/device.h"
#include "base/files.h"
#include "base/random.h"
#include "base/text.h"
#include "core/model.h"
#include "core/test_images.h"
#include "ops/cuda.h"
#include "report/table.h"
#include "train/train.h"

namespace diffuse {
namespace {

/// Pictures of uniform noise, in an order and with flips of their own: what a batch of a cached
/// data set costs, whatever it shows.
class RandomPictures : public BatchSource {
 public:
  RandomPictures(const std::vector<int64_t>& shape, int64_t batch, int64_t classes)
      : shape_(shape), batch_(batch), classes_(classes) {
    pixels_.resize(static_cast<size_t>(kCount * values()));
    for (size_t i = 0; i < pixels_.size(); i += 16) {
      const Philox4 bits = random_block({.purpose = Purpose::probe}, static_cast<uint32_t>(i / 16));
      for (size_t j = 0; j < 16 && i + j < pixels_.size(); ++j)
        pixels_[i + j] = static_cast<uint8_t>(bits.v[j / 4] >> (8 * (j % 4)));
    }
  }

  /// Puts the pictures on a GPU; from now on a batch only says which of them it has. What is
  /// returned is TrainSetup::pictures.
  at::Tensor make_resident(at::Device device) {
    resident_ = true;
    return at::from_blob(pixels_.data(), {kCount, shape_[1], shape_[2], shape_[0]}, at::kByte)
        .to(device);
  }

  Batch next() override {
    Batch out;
    out.step = step_;
    if (!resident_) out.pixels.resize(static_cast<size_t>(batch_ * values()));
    for (int64_t i = 0; i < batch_; ++i) {
      const uint64_t bits =
          random_bits({.purpose = Purpose::order, .step = static_cast<uint64_t>(step_)},
                      static_cast<uint32_t>(i));
      const bool flip = (bits >> 63) != 0;
      if (resident_)
        out.flips.push_back(flip ? 1 : 0);
      else
        write(static_cast<int64_t>(bits % kCount), flip, out.pixels.data() + i * values());
      out.labels.push_back(classes_ > 0 ? static_cast<int64_t>(bits >> 32) % classes_ : -1);
      out.indices.push_back(static_cast<int64_t>(bits % kCount));
    }
    ++step_;
    return out;
  }
  double waited() const override { return 0; }

 private:
  static constexpr int64_t kCount = 1024;
  int64_t values() const { return shape_[0] * shape_[1] * shape_[2]; }
  void write(int64_t picture, bool flip, uint8_t* to) const {
    const uint8_t* const from = pixels_.data() + picture * values();
    if (!flip) {
      std::copy_n(from, values(), to);
      return;
    }
    for (int64_t row = 0; row < shape_[0] * shape_[1]; ++row)
      std::reverse_copy(from + row * shape_[2], from + (row + 1) * shape_[2], to + row * shape_[2]);
  }

  std::vector<int64_t> shape_;
  int64_t batch_, classes_;
  int64_t step_ = 0;
  bool resident_ = false;
  std::vector<uint8_t> pixels_;
};

/// Prints; each picture is so many forward passes' arithmetic.
int report(const BenchRequest& request,
           at::Device device,
           BenchJson about,
           const Blocks& blocks,
           double passes) {
  if (request.wait) return 0;
  const BenchJson rate = blocks.summary();
  about["blocks"] = request.blocks;
  about["images_per_second"] = rate;
  about["wall_s"] = blocks.walls();
  about["cpu_s"] = blocks.cpus();
  about["peak_mb"] = peak_memory_mb(device);
  const std::string on = about["processor"];
  const bool bf16 = about["precision"].get<std::string>() == "bf16";
  std::string arithmetic = "-", of_peak = "-";
  if (about.contains("macs")) {
    const double gflops = 2e-9 * about["macs"].get<double>() * passes * median(blocks.rates());
    about["gflop_per_second"] = gflops;
    arithmetic = significant(gflops, 3);
    const auto peak = device.is_cuda() && bf16 ? dense_bf16_tflops(on) : std::nullopt;
    if (peak) {
      about["peak_tflop_per_second"] = *peak;
      about["mfu"] = gflops / (1000 * *peak);
      of_peak = fixed(gflops / (10 * *peak), 1) + " %";
    }
  }
  if (request.json) {
    write_to_stdout(about.dump(2) + "\n", "the result");
    return 0;
  }
  Table table{.title = "",
              .head = {"images/s", "lowest", "highest", "seconds", "cores", "GFLOP/s"},
              .rows = {{significant(rate["median"], 4),
                        significant(rate["min"], 4),
                        significant(rate["max"], 4),
                        significant(median(blocks.walls()), 3),
                        fixed(median(blocks.cpus()) / median(blocks.walls()), 2),
                        arithmetic}},
              .left = 0,
              .notes = {}};
  if (device.is_cuda()) {
    table.head.push_back("MFU");
    table.rows[0].push_back(of_peak);
  }
  table.head.push_back(device.is_cuda() ? "peak GPU MB" : "peak MB");
  table.rows[0].push_back(about["peak_mb"].dump());
  if (about.contains("macs"))
    table.notes.push_back("GFLOP/s: a picture's forward pass is " +
                          significant(about["macs"].get<double>() / 1e9, 4) +
                          " G multiply-accumulates of 2 FLOP; a " +
                          (request.what == "train" ? "training step counts as 3 passes"
                                                   : "step of the sampler is one pass"));
  if (about.contains("mfu"))
    table.notes.push_back("MFU: of the " + significant(about["peak_tflop_per_second"], 3) +
                          " TFLOP/s that " + on + " has in dense bfloat16");
  else if (device.is_cuda() && bf16)
    table.notes.push_back("MFU: the peak of " + on + " is not known here");
  if (about.contains("syncs_per_step"))
    table.notes.push_back("a step: " + significant(about["syncs_per_step"], 3) +
                          " waits of the host for the GPU, " +
                          significant(about["host_ms_per_step"], 3) + " ms of processor time");
  table.title = request.what + " " + about["config"].get<std::string>() + ": " +
                about["parameters"].dump() + " parameters, batch " + about["batch"].dump() + ", " +
                about["precision"].get<std::string>() + ", " +
                (request.loaded.config.runtime.fused ? "fused" : "composed") + ", " +
                about["threads"].dump() + " threads, " + on;
  write_to_stdout(table_text(table), "the result");
  return 0;
}

int bench_train(const BenchRequest& request, at::Device device, bool bf16) {
  const Config& config = request.loaded.config;
  const int64_t classes = config.model.class_conditional ? 10 : 0;
  const Model network = make_network(config, classes);
  const Objective objective(config.diffusion, device, data_bits(config.data));
  const TimeDraw times(config.diffusion.time_sampler, objective.process().bin_edges());
  TrainState state(network.layout(), network.layout().initial(0).to(device));
  if (needs_history(config.diffusion.time_sampler))
    state.history = LossHistory(objective.process().bins());
  RandomPictures batches(config.data.shape(), config.train.batch, classes);
  const bool resident = device.is_cuda() && config.runtime.fused && !config.data.are_points();
  const TrainSetup setup{.network = network,
                         .objective = objective,
                         .times = times,
                         .image_shape = config.data.shape(),
                         .optim = config.optim,
                         .steps = std::numeric_limits<int64_t>::max(),
                         .batch = config.train.batch,
                         .micro_batch = usual_micro_batch(config, device, classes),
                         .seed = 0,
                         .bf16 = bf16,
                         .fused = config.runtime.fused,
                         .pictures = resident ? batches.make_resident(device) : at::Tensor()};
  // The first steps choose algorithms, ask for memory and, on a GPU, are captured as a graph; those
  // after them say how many steps a block has.
  const int64_t warm = device.is_cuda() ? 10 : 2, tried = device.is_cuda() ? 20 : 1;
  std::optional<Blocks> blocks;
  BenchJson about;
  std::unique_ptr<SyncCount> syncs;
  BenchClock::time_point start;
  int64_t steps = 0, next = warm;
  bool done = false;
  const auto measured = [&](TrainState&) {
    if (blocks) {
      state.tally.cpu();  // waits for the device
      blocks->end();
    } else if (next == warm) {
      state.tally.cpu();
      if (device.is_cuda()) syncs = open_cuda()->count_syncs();
      start = BenchClock::now();
      next += tried;
      return;
    } else {
      const int64_t waits = syncs ? syncs->count() : 0;
      syncs.reset();  // what comes now is not the step's
      state.tally.cpu();
      const double step = seconds_since(start) / static_cast<double>(tried);
      steps =
          request.steps.value_or(std::max<int64_t>(2, static_cast<int64_t>(std::ceil(5 / step))));
      about = description(request, network, device, bf16);
      about["batch"] = setup.batch;
      about["steps"] = steps;
      if (device.is_cuda())
        about["syncs_per_step"] = static_cast<double>(waits) / static_cast<double>(tried);
      blocks.emplace(request, device, about, static_cast<double>(steps * setup.batch));
    }
    next += steps;
    done = !blocks->begin();
  };
  train(state,
        setup,
        batches,
        {{.due = [&](int64_t step) { return step == next; }, .run = measured}},
        [&] { return done || request.signals->stop() != Exit::ok; });
  if (!done) refuse_to_go_on(request);
  if (device.is_cuda() && !blocks->cpus().empty())
    about["host_ms_per_step"] = 1000 * median(blocks->cpus()) / static_cast<double>(steps);
  // Backward counts twice: with respect to the maps and to the weights.
  return report(request, device, about, *blocks, 3);
}

int bench_sample(const BenchRequest& request, at::Device device, bool bf16) {
  const Config& config = request.loaded.config;
  const int64_t classes = config.model.class_conditional ? 10 : 0;
  const Model network = make_network(config, classes);
  const Weights weights = network.layout().views(network.layout().initial(0).to(device));
  DrawRequest wanted{.options = config.sample,
                     .diffusion = &config.diffusion,
                     .image_shape = config.data.shape(),
                     .count = request.count,
                     .labels = labels_in_turn(request.count, classes),
                     .bf16 = bf16,
                     .trajectory = 0,
                     .progress = nullptr,
                     .cancelled = [&] { return request.signals->stop() != Exit::ok; }};
  wanted.options.batch = config.sample.batch.value_or(request.count);
  DrawRequest shorter = wanted;
  const int64_t steps = sampling_steps(config.sample, config.diffusion);
  shorter.options.steps = std::min<int64_t>(2, steps);
  draw(network, weights, shorter);
  BenchJson about = description(request, network, device, bf16);
  about["batch"] = *wanted.options.batch;
  about["steps"] = steps;
  about["sampler"] = config.sample.sampler.name();
  Blocks blocks(request, device, about, static_cast<double>(request.count));
  while (blocks.begin()) {
    draw(network, weights, wanted);
    blocks.end();
  }
  return report(request, device, about, blocks, static_cast<double>(steps));
}

}  // namespace

int run_bench(const BenchRequest& request) {
  set_threads(request.global.threads);
  if (request.what == "data") return bench_data(request);
  const Config& config = request.loaded.config;
  const at::Device device = pick_device(config.train.device);
  const bool bf16 = set_precision(config.train.precision, device);
  if (config.data.are_points() && request.what != "train")
    throw Error(Exit::usage,
                "bench " + request.what + " needs a config of pictures; this one draws points");
  if (request.what == "train") return bench_train(request, device, bf16);
  if (request.what == "sample") return bench_sample(request, device, bf16);
  return bench_kernels(request, device, bf16);
}

}  // namespace diffuse
