// SPDX-License-Identifier: MIT
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <sys/resource.h>
#include <torch/version.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "base/files.h"
#include "base/log.h"
#include "base/text.h"
#include "core/commands.h"
#include "core/model.h"
#include "core/test_images.h"
#include "data/dataset.h"
#include "data/parallel.h"
#include "ops/cuda.h"
#include "ops/group_norm.h"
#include "ops/kernels/cpu.h"
#include "report/table.h"
#include "train/optimizer.h"
#include "train/train.h"

namespace diffuse {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

int64_t peak_memory_mb() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss / 1024;
}

std::string processor() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown";
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

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

  Batch next() override {
    Batch out;
    out.step = step_;
    out.pixels.resize(static_cast<size_t>(batch_ * values()));
    for (int64_t i = 0; i < batch_; ++i) {
      const uint64_t bits =
          random_bits({.purpose = Purpose::order, .step = static_cast<uint64_t>(step_)},
                      static_cast<uint32_t>(i));
      const uint8_t* const from = pixels_.data() + static_cast<int64_t>(bits % kCount) * values();
      uint8_t* const to = out.pixels.data() + i * values();
      if ((bits >> 63) == 0) {
        std::copy_n(from, values(), to);
      } else {
        for (int64_t row = 0; row < shape_[0] * shape_[1]; ++row)
          std::reverse_copy(
              from + row * shape_[2], from + (row + 1) * shape_[2], to + row * shape_[2]);
      }
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

  std::vector<int64_t> shape_;
  int64_t batch_, classes_;
  int64_t step_ = 0;
  std::vector<uint8_t> pixels_;
};

/// What a run of `diffuse bench` knows of itself.
Json description(const BenchRequest& request, const Model& network, at::Device device, bool bf16) {
  const Config& config = request.loaded.config;
  std::string on = processor();
  if (const CudaOps* cuda = device.is_cuda() ? open_cuda() : nullptr)
    on = cuda->device_name(device.index());
  Json out{{"what", request.what},
           {"config", request.config_path},
           {"diffuse", DIFFUSE_VERSION},
           {"git", request.git},
           {"libtorch", TORCH_VERSION},
           {"date", utc_now()},
           {"device", device.str()},
           {"processor", on},
           {"threads", at::get_num_threads()},
           {"kernels", device.is_cuda() ? "cuda" : kernels::cpu_kernels().name},
           {"fused", config.runtime.fused},
           {"precision", bf16 ? "bf16" : "fp32"},
           {"parameters", network.parameter_count()}};
  if (!config.data.are_points()) {
    const std::vector<int64_t> shape = config.data.shape();
    const int64_t outputs = is_learned(config.diffusion.variance) ? 2 : 1;
    out["macs"] = config.model.macs(shape[0], outputs * shape[0], shape[1], shape[2]);
  }
  return out;
}

/// What blocks of measurement took.
struct Blocks {
  std::vector<double> rates, walls, cpus;  // pictures a second, seconds, seconds of all threads
  Json summary() const {
    const auto [low, high] = std::minmax_element(rates.begin(), rates.end());
    return {{"median", median(rates)}, {"min", *low}, {"max", *high}};
  }
};

/// Repeats: `block` makes one measurement of `pictures` pictures. With --wait, prints `about` and
/// each block.
Blocks run_blocks(const BenchRequest& request,
                  const Json& about,
                  double pictures,
                  const std::function<void()>& block) {
  Blocks out;
  if (request.wait) std::cout << about.dump() << std::endl;
  for (int64_t i = 0; request.wait || i < request.blocks; ++i) {
    std::string line;
    if (request.wait && !std::getline(std::cin, line)) break;
    if (request.signals->stop() != Exit::ok)
      throw Error(request.signals->stop(), "stopped; nothing was written");
    const auto start = Clock::now();
    const double cpu = cpu_seconds();
    block();
    out.walls.push_back(seconds_since(start));
    out.cpus.push_back(cpu_seconds() - cpu);
    out.rates.push_back(pictures / out.walls.back());
    if (request.wait)
      std::cout << Json{{"wall_s", out.walls.back()},
                        {"cpu_s", out.cpus.back()},
                        {"images_per_second", out.rates.back()},
                        {"peak_mb", peak_memory_mb()}}
                       .dump()
                << std::endl;
  }
  return out;
}

/// Measures and prints; each picture is so many forward passes' arithmetic.
int measure(const BenchRequest& request,
            Json about,
            double pictures,
            double passes,
            const std::function<void()>& block) {
  const Blocks blocks = run_blocks(request, about, pictures, block);
  if (request.wait) return 0;
  const Json rate = blocks.summary();
  about["blocks"] = request.blocks;
  about["images_per_second"] = rate;
  about["wall_s"] = blocks.walls;
  about["cpu_s"] = blocks.cpus;
  about["peak_mb"] = peak_memory_mb();
  std::string arithmetic = "-";
  if (about.contains("macs")) {
    const double gflops = 2e-9 * about["macs"].get<double>() * passes * median(blocks.rates);
    about["gflop_per_second"] = gflops;
    arithmetic = significant(gflops, 3);
  }
  if (request.json) {
    write_to_stdout(about.dump(2) + "\n", "the result");
    return 0;
  }
  Table table{.title = "",
              .head = {"images/s", "lowest", "highest", "seconds", "cores", "GFLOP/s", "peak MB"},
              .rows = {{significant(rate["median"], 4),
                        significant(rate["min"], 4),
                        significant(rate["max"], 4),
                        significant(median(blocks.walls), 3),
                        fixed(median(blocks.cpus) / median(blocks.walls), 2),
                        arithmetic,
                        std::to_string(peak_memory_mb())}},
              .left = 0,
              .notes = {}};
  if (about.contains("macs"))
    table.notes.push_back("GFLOP/s: a picture's forward pass is " +
                          significant(about["macs"].get<double>() / 1e9, 4) +
                          " G multiply-accumulates of 2 FLOP; a " +
                          (request.what == "train" ? "training step counts as 3 passes"
                                                   : "step of the sampler is one pass"));
  table.title = request.what + " " + about["config"].get<std::string>() + ": " +
                about["parameters"].dump() + " parameters, " +
                about["precision"].get<std::string>() + ", " +
                (request.loaded.config.runtime.fused ? "fused" : "composed") + ", " +
                about["threads"].dump() + " threads, " + about["processor"].get<std::string>();
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
  TrainSetup setup{.network = network,
                   .objective = objective,
                   .times = times,
                   .image_shape = config.data.shape(),
                   .optim = config.optim,
                   .steps = 0,
                   .batch = config.train.batch,
                   .micro_batch = config.train.micro_batch.value_or(config.train.batch),
                   .seed = 0,
                   .bf16 = bf16,
                   .fused = config.runtime.fused};
  RandomPictures batches(setup.image_shape, setup.batch, classes);
  const auto run = [&](int64_t steps) {
    setup.steps = state.step + steps;
    train(state, setup, batches, {}, [&] { return request.signals->stop() != Exit::ok; });
    state.tally.cpu();  // waits for the device
  };
  run(2);  // the first steps choose algorithms and ask for memory
  auto start = Clock::now();
  run(1);
  const double step = seconds_since(start);
  const int64_t steps =
      request.steps.value_or(std::max<int64_t>(2, static_cast<int64_t>(std::ceil(5 / step))));
  Json about = description(request, network, device, bf16);
  about["batch"] = setup.batch;
  about["steps"] = steps;
  // Backward counts twice: with respect to the maps and to the weights.
  return measure(request, about, static_cast<double>(steps * setup.batch), 3, [&] { run(steps); });
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
  shorter.options.steps = 2;
  draw(network, weights, shorter);
  Json about = description(request, network, device, bf16);
  about["batch"] = *wanted.options.batch;
  const size_t steps = sampler_steps(config.sample, config.diffusion).size();
  about["steps"] = steps;
  about["sampler"] = config.sample.sampler.name();
  return measure(
      request, about, static_cast<double>(request.count), static_cast<double>(steps), [&] {
        draw(network, weights, wanted);
      });
}

/// Median seconds of a call, after some to warm up; half a second in all. On a GPU calls are
/// queued, twenty at a time.
double time_of(at::Device device, const std::function<void()>& f) {
  const int calls = device.is_cuda() ? 20 : 1;
  const at::Tensor anything = at::zeros({1}, device);
  const auto many = [&] {
    for (int i = 0; i < calls; ++i) f();
    anything.cpu();  // waits
  };
  many();
  std::vector<double> times;
  const auto start = Clock::now();
  while (times.size() < 3 || (seconds_since(start) < 0.5 && times.size() < 1000)) {
    const auto before = Clock::now();
    many();
    times.push_back(seconds_since(before) / calls);
  }
  return median(times);
}

/// A row of the kernels' table: ours, LibTorch's own operators, and the bytes that must move.
struct KernelRow {
  std::string name;
  double ours, theirs;  // seconds
  double bytes;
};

void bench_norms(const Config& config,
                 at::Device device,
                 at::ScalarType type,
                 std::vector<KernelRow>& rows) {
  const UNetOptions& model = config.model;
  const int64_t n = config.train.micro_batch.value_or(config.train.batch);
  std::set<std::pair<int64_t, int64_t>> shapes;  // height, channels
  const auto width = [&](size_t level) { return model.base_channels * model.channel_mult[level]; };
  for (size_t level = 0; level < model.channel_mult.size(); ++level) {
    const int64_t height = config.data.height() >> level;
    shapes.insert({-height, width(level)});
    shapes.insert({-height, 2 * width(level)});  // with what skips
    if (level > 0) shapes.insert({-height, width(level) + width(level - 1)});
  }
  for (const auto& [minus_height, width_there] : shapes) {
    const int64_t channels = width_there;
    const int64_t h = -minus_height, w = config.data.width() * h / config.data.height();
    const auto make = [&](at::MemoryFormat format) {
      return at::randn({n, channels, h, w}, at::kFloat).to(device, type).contiguous(format);
    };
    NormLayer layer;
    layer.groups = model.norm_groups;
    layer.eps = model.norm_eps;
    layer.silu = true;
    layer.weight = at::ones({channels}, device).requires_grad_();
    layer.bias = at::zeros({channels}, device).requires_grad_();
    NormLayer plain = layer;  // LibTorch's operator on GPUs wants one type
    if (device.is_cuda()) {
      plain.weight = layer.weight.detach().to(type).requires_grad_();
      plain.bias = layer.bias.detach().to(type).requires_grad_();
    }
    const at::Tensor last = make(at::MemoryFormat::ChannelsLast);
    const at::Tensor first = make(at::MemoryFormat::Contiguous);  // their faster layout
    const double size = static_cast<double>(last.numel() * last.element_size());
    const std::string name = std::to_string(n) + " x " + std::to_string(channels) + " x " +
                             std::to_string(h) + " x " + std::to_string(w);
    {
      const at::NoGradGuard no_grad;
      rows.push_back({.name = "norm+silu " + name,
                      .ours = time_of(device, [&] { norm_layer(last, layer); }),
                      .theirs = time_of(device, [&] { composed_norm_layer(first, plain); }),
                      .bytes = 2 * size});
    }
    const auto both = [&](const at::Tensor& x, bool fused) {
      const at::Tensor leaf = x.detach().requires_grad_();
      const at::Tensor y = (fused ? norm_layer(leaf, layer) : composed_norm_layer(leaf, plain)).y;
      y.backward(x);
    };
    rows.push_back({.name = "  and backward",
                    .ours = time_of(device, [&] { both(last, true); }),
                    .theirs = time_of(device, [&] { both(first, false); }),
                    .bytes = 5 * size});
  }
}

void bench_optimizer(const Config& config,
                     const Model& network,
                     at::Device device,
                     std::vector<KernelRow>& rows) {
  const ParamLayout& layout = network.layout();
  TrainState state(layout, layout.initial(0).to(device));
  state.params.grad().normal_(0, 1e-3);
  const at::Tensor loss = at::zeros({}, device);
  const auto step = [&](bool fused) {
    update(state, layout, config.optim, config.train.steps, loss, loss, fused);
  };
  rows.push_back({.name = "clip+AdamW+EMA " + std::to_string(layout.count()),
                  .ours = time_of(device, [&] { step(true); }),
                  .theirs = time_of(device, [&] { step(false); }),
                  .bytes = 10 * 4 * static_cast<double>(layout.flat_size())});
}

int bench_kernels(const BenchRequest& request, at::Device device, bool bf16) {
  const Config& config = request.loaded.config;
  const Model network = make_network(config, 0);
  std::vector<KernelRow> rows;
  bench_norms(config, device, bf16 ? at::kBFloat16 : at::kFloat, rows);
  bench_optimizer(config, network, device, rows);
  // What moves at best: a copy that no cache holds.
  const at::Tensor from = at::ones({int64_t{1} << 26}, device), to = at::empty_like(from);
  const double copy =
      8.0 * static_cast<double>(from.numel()) / time_of(device, [&] { to.copy_(from); });
  Json about = description(request, network, device, bf16);
  about["copy_gb_s"] = copy / 1e9;
  Table table{.title = "kernels of " + request.config_path + ", " +
                       about["precision"].get<std::string>() + ", " + about["threads"].dump() +
                       " threads, " + about["processor"].get<std::string>(),
              .head = {"kernel", "us", "LibTorch us", "ratio", "GB/s"},
              .rows = {},
              .left = 1,
              .notes = {"GB/s: bytes that must be read and written; a copy of 256 MB makes " +
                        significant(copy / 1e9, 3) + ". What fits into the caches can be faster."}};
  for (const KernelRow& row : rows) {
    table.rows.push_back({row.name,
                          significant(1e6 * row.ours, 4),
                          significant(1e6 * row.theirs, 4),
                          fixed(row.theirs / row.ours, 2),
                          significant(row.bytes / row.ours / 1e9, 3)});
    about["kernels_us"].push_back({{"name", row.name},
                                   {"ours", 1e6 * row.ours},
                                   {"libtorch", 1e6 * row.theirs},
                                   {"gb_s", row.bytes / row.ours / 1e9}});
  }
  write_to_stdout(request.json ? about.dump(2) + "\n" : table_text(table), "the result");
  return 0;
}

/// Reads, decodes and fits every picture of `entries` on the config's workers. The sum of all
/// bytes, by which two programs can be compared; a file that is no picture adds nothing.
uint64_t decode_pictures(const DataOptions& options, const std::vector<DataEntry>& entries) {
  std::atomic<uint64_t> sum = 0;
  parallel_for(static_cast<int64_t>(entries.size()), worker_count(options.workers), [&](int64_t i) {
    try {
      const std::vector<uint8_t> file =
          read_bytes(std::filesystem::path(options.path) / entries[static_cast<size_t>(i)].path,
                     static_cast<uint64_t>(options.max_file_bytes));
      const Image image = fit_image(decode_image(file, decode_options(options)), options);
      sum += std::accumulate(image.data.begin(), image.data.end(), uint64_t{0});
    } catch (const ImageError&) {
    }
  });
  return sum;
}

/// At most so many pictures are decoded in a block, spread evenly over the folder.
constexpr size_t kDecoded = 4096;

int bench_data(const BenchRequest& request) {
  const Config& config = request.loaded.config;
  if (config.data.are_points())
    throw Error(Exit::usage, "bench data needs a folder of pictures; this config draws points");
  const int64_t memory = peak_memory_mb();
  auto start = Clock::now();
  DataScan scan = scan_folder(config.data, false);
  const double names = seconds_since(start);
  scan = {};
  start = Clock::now();
  scan = scan_folder(config.data, true);
  const double headers = seconds_since(start);
  const size_t pictures = scan.entries.size();
  std::vector<DataEntry> entries;
  const size_t count = std::min(pictures, kDecoded);
  for (size_t i = 0; i < count; ++i) entries.push_back(scan.entries[i * pictures / count]);
  scan = {};
  Json about{{"what", request.what},
             {"config", request.config_path},
             {"diffuse", DIFFUSE_VERSION},
             {"git", request.git},
             {"date", utc_now()},
             {"processor", processor()},
             {"threads", worker_count(config.data.workers)},
             {"pictures", pictures},
             {"scan_s", names},
             {"headers_s", headers},
             {"scan_mb", peak_memory_mb() - memory},
             {"decoded", count},
             {"pixel_sum", decode_pictures(config.data, entries)}};
  start = Clock::now();
  decode_pictures(config.data, entries);
  const auto passes = std::max<int64_t>(
      1, std::lround(1 / std::max(seconds_since(start), 1e-9)));  // of a block of about a second
  const Blocks decoding =
      run_blocks(request, about, static_cast<double>(passes) * static_cast<double>(count), [&] {
        for (int64_t i = 0; i < passes; ++i) decode_pictures(config.data, entries);
      });
  if (request.wait) return 0;
  const Dataset data(config.data);
  Batches batches(data, config.data, config.train.batch, 0, 0);
  for (int i = 0; i < 3; ++i) batches.next();
  start = Clock::now();
  int64_t taken = 0;
  while (seconds_since(start) < 3) {
    batches.next();
    ++taken;
  }
  const double rate = static_cast<double>(taken * config.train.batch) / seconds_since(start);
  about["cached"] = data.cached();
  about["decode_images_per_second"] = decoding.summary();
  about["batch_images_per_second"] = rate;
  about["peak_mb"] = peak_memory_mb();
  if (request.json) {
    write_to_stdout(about.dump(2) + "\n", "the result");
    return 0;
  }
  Table table{
      .title = "data of " + request.config_path + ", " + about["threads"].dump() + " threads",
      .head = {"pictures", "names s", "headers s", "decoded/s", "batched/s", "scan MB", "peak MB"},
      .rows = {{std::to_string(pictures),
                significant(names, 3),
                significant(headers, 3),
                significant(median(decoding.rates), 4),
                significant(rate, 4),
                about["scan_mb"].dump(),
                std::to_string(peak_memory_mb())}},
      .left = 0,
      .notes = {
          "names, headers: the folder listed by names; and with every file's header read. scan MB: "
          "what both took of memory",
          "decoded: " + std::to_string(count) + " pictures read, decoded and resized",
          data.cached() ? "batched: pictures in batches, decoded once and kept in memory"
                        : "batched: pictures in batches, each decoded when it is needed"}};
  write_to_stdout(table_text(table), "the result");
  return 0;
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
