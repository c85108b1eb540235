// SPDX-License-Identifier: MIT
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/files.h"
#include "base/text.h"
#include "core/bench.h"
#include "core/model.h"
#include "ops/attention.h"
#include "ops/batch.h"
#include "ops/channels_last.h"
#include "ops/conv.h"
#include "ops/cuda.h"
#include "ops/group_norm.h"
#include "ops/loss.h"
#include "report/table.h"
#include "train/optimizer.h"

namespace diffuse {
namespace {

/// Median seconds of a call, after some to warm up, of as many as take a tenth of a second for each
/// block. On a GPU twenty calls are one CUDA graph, so that the host's share is left out; what
/// cannot be captured is queued.
double time_of(const BenchRequest& request, at::Device device, const std::function<void()>& f) {
  const double seconds = 0.1 * static_cast<double>(request.blocks);
  const int calls = device.is_cuda() ? 20 : 1;
  const at::Tensor anything = at::zeros({1}, device);
  const auto many = [&] {
    for (int i = 0; i < calls; ++i) f();
  };
  many();
  std::unique_ptr<CapturedWork> graph;
  if (device.is_cuda()) {
    anything.cpu();  // waits
    try {
      graph = open_cuda()->capture(device, many);
    } catch (const c10::Error&) {
      graph = nullptr;
    }
  }
  const auto timed = [&] {
    if (graph)
      graph->replay();
    else
      many();
    anything.cpu();
  };
  timed();
  std::vector<double> times;
  const auto start = BenchClock::now();
  while (times.size() < 3 || (seconds_since(start) < seconds && times.size() < 1000)) {
    refuse_to_go_on(request);
    const auto before = BenchClock::now();
    timed();
    times.push_back(seconds_since(before) / calls);
  }
  return median(times);
}

/// What the two bodies of an operation take, in seconds.
struct Times {
  double ours = 0, theirs = 0;
};

/// A row of the table: our kernel, LibTorch's own operators, and what must be done.
struct Row {
  std::string name;
  Times times;
  double bytes;      // that must be read and written
  double flops = 0;  // of products and sums; 0: not what it costs
};

/// A result with what it is differentiated by.
struct Graph {
  at::Tensor y;
  std::vector<at::Tensor> inputs;
};

/// The bench of one config on one device.
class Kernels {
 public:
  Kernels(const BenchRequest& request, at::Device device, bool bf16)
      : request_(request),
        config_(request.loaded.config),
        device_(device),
        type_(bf16 ? at::kBFloat16 : at::kFloat),
        n_(usual_micro_batch(config_, device, 0)) {}

  std::vector<Row> rows(const Model& network) {
    norms();
    attentions();
    // Where there is a kernel of ours at all.
    if (device_.is_cpu() && type_ == at::kFloat) convolutions();
    if (device_.is_cpu()) upsampled_convolutions();
    if (device_.is_cuda()) {
      batch();
      loss();
    }
    optimizer(network);
    return std::move(rows_);
  }

 private:
  at::Tensor random(at::IntArrayRef sizes,
                    at::MemoryFormat format = at::MemoryFormat::Contiguous) const {
    return at::randn(sizes, at::kFloat).to(device_, type_).contiguous(format);
  }

  double bytes_of(const at::Tensor& t) const {
    return static_cast<double>(t.numel() * t.element_size());
  }

  int64_t width_at(size_t level) const {
    return config_.model.base_channels * config_.model.channel_mult[level];
  }

  std::string sized(const std::string& what, const at::Tensor& x) const {
    std::string out = what;
    for (size_t i = 0; i < x.sizes().size(); ++i)
      out += (i == 0 ? " " : " x ") + std::to_string(x.size(static_cast<int64_t>(i)));
    return out;
  }

  /// Adds a row of `f` forward and one of its gradient alone, each body with inputs of its own.
  void add_both(const std::string& name,
                const std::function<Graph()>& ours,
                const std::function<Graph()>& theirs,
                double forward_bytes,
                double backward_bytes,
                double flops = 0) {
    const auto forward = [&](const std::function<Graph()>& f) {
      const at::NoGradGuard no_grad;
      return time_of(request_, device_, [&] { f(); });
    };
    const auto backward = [&](const std::function<Graph()>& f) {
      const Graph made = f();
      const at::Tensor dy = at::randn_like(made.y);
      return time_of(request_, device_, [&] {
        torch::autograd::grad({made.y}, made.inputs, {dy}, /*retain_graph=*/true);
      });
    };
    rows_.push_back({.name = name,
                     .times = {.ours = forward(ours), .theirs = forward(theirs)},
                     .bytes = forward_bytes,
                     .flops = flops});
    rows_.push_back({.name = "  backward",
                     .times = {.ours = backward(ours), .theirs = backward(theirs)},
                     .bytes = backward_bytes,
                     .flops = 2 * flops});
  }

  void norms() {
    const UNetOptions& model = config_.model;
    std::set<std::pair<int64_t, int64_t>> shapes;  // -height, channels
    for (size_t level = 0; level < model.channel_mult.size(); ++level) {
      const int64_t height = config_.data.height() >> level;
      shapes.insert({-height, width_at(level)});
      shapes.insert({-height, 2 * width_at(level)});  // with what skips
      if (level > 0) shapes.insert({-height, width_at(level) + width_at(level - 1)});
    }
    for (const auto& [minus_height, channels] : shapes) {
      const int64_t h = -minus_height, w = config_.data.width() * h / config_.data.height();
      NormLayer layer;
      layer.groups = model.norm_groups;
      layer.eps = model.norm_eps;
      layer.silu = true;
      layer.weight = at::ones({channels}, device_).requires_grad_();
      layer.bias = at::zeros({channels}, device_).requires_grad_();
      NormLayer plain = layer;  // LibTorch's operator on GPUs wants one type
      if (device_.is_cuda()) {
        plain.weight = layer.weight.detach().to(type_).requires_grad_();
        plain.bias = layer.bias.detach().to(type_).requires_grad_();
      }
      const at::Tensor last =
          random({n_, channels, h, w}, at::MemoryFormat::ChannelsLast).requires_grad_();
      // Their faster layout.
      const at::Tensor first = random({n_, channels, h, w}).requires_grad_();
      const double size = bytes_of(last);
      add_both(
          sized("norm+silu", last),
          [&]() -> Graph {
            return {norm_layer(last, layer).y, {last, layer.weight, layer.bias}};
          },
          [&]() -> Graph {
            return {composed_norm_layer(first, plain).y, {first, plain.weight, plain.bias}};
          },
          2 * size,
          3 * size);
    }
  }

  void attentions() {
    const UNetOptions& model = config_.model;
    const int64_t head = model.head_channels;
    std::set<std::pair<int64_t, int64_t>> shapes;  // tokens, channels
    for (size_t level = 0; level < model.channel_mult.size(); ++level) {
      const int64_t h = config_.data.height() >> level, w = config_.data.width() >> level;
      const bool middle = model.mid_attention && level + 1 == model.channel_mult.size();
      if (middle || std::ranges::find(model.attention_at, h) != model.attention_at.end())
        shapes.insert({h * w, width_at(level)});
    }
    for (const auto& [tokens, channels] : shapes) {
      const at::Tensor qkv = random({n_, tokens, 3 * channels}).requires_grad_();
      const at::Tensor q = random({n_, tokens, channels}).requires_grad_(),
                       k = random({n_, tokens, channels}).requires_grad_(),
                       v = random({n_, tokens, channels}).requires_grad_();
      const double size = bytes_of(q);
      add_both(
          sized("attention", q) + " / " + std::to_string(head),
          [&]() -> Graph {
            return {attention(qkv, head), {qkv}};
          },
          [&]() -> Graph {
            return {composed_attention(q, k, v, head), {q, k, v}};
          },
          4 * size,
          7 * size,
          4 * static_cast<double>(n_ * tokens * tokens * channels));
    }
  }

  /// `scale`: of the result's side.
  void convolution(const std::string& name, int64_t channels, int64_t h, int64_t w, int64_t scale) {
    const at::Tensor last =
        random({n_, channels, h, w}, at::MemoryFormat::ChannelsLast).requires_grad_();
    const at::Tensor first = random({n_, channels, h, w}).requires_grad_();
    const at::Tensor weight = random({channels, channels, 3, 3}).requires_grad_(),
                     bias = random({channels}).requires_grad_();
    const auto pixels = static_cast<double>(scale * scale);
    add_both(
        sized(name, last),
        [&]() -> Graph {
          return {scale == 1 ? conv(last, weight, bias) : upsampled_conv(last, weight, bias),
                  {last, weight, bias}};
        },
        [&]() -> Graph {
          const at::Tensor x =
              scale == 1 ? first : at::upsample_nearest2d(first, {scale * h, scale * w});
          return {at::conv2d(x, weight, bias, 1, 1), {first, weight, bias}};
        },
        (1 + pixels) * bytes_of(last) + bytes_of(weight),
        (2 + pixels) * bytes_of(last) + 2 * bytes_of(weight),
        18 * pixels * static_cast<double>(channels * last.numel()));
  }

  void convolutions() {
    for (size_t level = 0; level < config_.model.channel_mult.size(); ++level)
      convolution("conv 3x3",
                  width_at(level),
                  config_.data.height() >> level,
                  config_.data.width() >> level,
                  1);
  }

  void upsampled_convolutions() {
    if (config_.model.upsample != Resample::conv) return;
    for (size_t level = 1; level < config_.model.channel_mult.size(); ++level)
      convolution("upsampled conv 3x3",
                  width_at(level),
                  config_.data.height() >> level,
                  config_.data.width() >> level,
                  2);
  }

  void batch() {
    constexpr int64_t kPictures = 1024;
    const int64_t c = config_.data.channels, h = config_.data.height(), w = config_.data.width();
    const auto on_device = at::TensorOptions(device_);
    const PictureBytes bytes{
        .pixels = at::randint(256, {kPictures, h, w, c}, on_device.dtype(at::kByte)),
        .indices = at::randint(kPictures, {n_}, on_device.dtype(at::kLong)),
        .flips = at::randint(2, {n_}, on_device.dtype(at::kByte))};
    const at::Tensor a = at::rand({n_}, on_device), b = at::rand({n_}, on_device);
    const StepKey key{.seed = 0, .step = 0, .first_sample = 0};
    const bool bf16 = type_ == at::kBFloat16;
    const double values = static_cast<double>(n_ * c * h * w);
    const auto ours = [&] { noisy_batch(bytes, a, b, Purpose::noise, key, bf16); };
    const auto theirs = [&] {
      const at::Tensor x0 = pictures_of(bytes);
      mix(a, x0, b, at::randn_like(x0)).to(type_, false, false, at::MemoryFormat::ChannelsLast);
    };
    rows_.push_back({.name = "batch " + std::to_string(n_) + " x " + std::to_string(c) + " x " +
                             std::to_string(h) + " x " + std::to_string(w),
                     .times = {.ours = time_of(request_, device_, ours),
                               .theirs = time_of(request_, device_, theirs)},
                     .bytes = (1 + 4 + 4 + (bf16 ? 2 : 4)) * values});
  }

  void loss() {
    const int64_t c = config_.data.channels, h = config_.data.height(), w = config_.data.width();
    const at::Tensor f = random({n_, c, h, w}, at::MemoryFormat::ChannelsLast).requires_grad_();
    const auto like = at::TensorOptions(device_);
    const ErrorTerms terms{.x0 = at::randn({n_, c, h, w}, like),
                           .eps = at::randn({n_, c, h, w}, like),
                           .target_x0 = at::rand({n_}, like),
                           .target_eps = at::rand({n_}, like),
                           .weight = at::rand({n_}, like)};
    const double read = bytes_of(f) + 2 * bytes_of(terms.x0);
    add_both(
        sized("loss", f),
        [&]() -> Graph {
          return {error_loss(f, terms).weighted, {f}};
        },
        [&]() -> Graph {
          return {composed_error_loss(f, terms).weighted, {f}};
        },
        read,
        read + bytes_of(f));
  }

  void optimizer(const Model& network) {
    const ParamLayout& layout = network.layout();
    TrainState state(layout, layout.initial(0).to(device_));
    state.params.grad().normal_(0, 1e-3);
    const at::Tensor zero = at::zeros({}, device_);
    const auto step = [&](bool fused) {
      return time_of(request_, device_, [&, fused] {
        update(state, layout, config_.optim, config_.train.steps, zero, zero, fused);
      });
    };
    rows_.push_back({.name = "clip+AdamW+EMA " + std::to_string(layout.count()),
                     .times = {.ours = step(true), .theirs = step(false)},
                     .bytes = 10 * 4 * static_cast<double>(layout.flat_size())});
  }

  const BenchRequest& request_;
  const Config& config_;
  at::Device device_;
  at::ScalarType type_;
  int64_t n_;
  std::vector<Row> rows_;
};

}  // namespace

int bench_kernels(const BenchRequest& request, at::Device device, bool bf16) {
  const Config& config = request.loaded.config;
  const Model network = make_network(config, 0);
  std::vector<Row> rows;
  double copy = 0;  // bytes a second
  const auto measure = [&] {
    rows = Kernels(request, device, bf16).rows(network);
    // What moves at best: a copy that no cache holds.
    const at::Tensor from = at::ones({int64_t{1} << 26}, device), to = at::empty_like(from);
    copy =
        8.0 * static_cast<double>(from.numel()) / time_of(request, device, [&] { to.copy_(from); });
  };
  if (device.is_cuda())
    open_cuda()->on_own_stream(device, measure);
  else
    measure();
  BenchJson about = description(request, network, device, bf16);
  about["copy_gb_s"] = copy / 1e9;
  Table table{
      .title = "kernels of " + request.config_path + ", " + about["precision"].get<std::string>() +
               ", " + about["threads"].dump() + " threads, " +
               about["processor"].get<std::string>(),
      .head = {"kernel", "us", "LibTorch us", "ratio", "GFLOP/s", "GB/s", "of copy"},
      .rows = {},
      .left = 1,
      .notes = {"GB/s: bytes that must be read and written; a copy of 256 MB makes " +
                    significant(copy / 1e9, 3) + ". What fits into the caches can be faster.",
                "GFLOP/s: of products and sums by the definition, whatever a kernel saves"}};
  for (const Row& row : rows) {
    const double rate = row.bytes / row.times.ours, ratio = row.times.theirs / row.times.ours;
    const double flops = row.flops / row.times.ours / 1e9;
    table.rows.push_back({row.name,
                          significant(1e6 * row.times.ours, 4),
                          significant(1e6 * row.times.theirs, 4),
                          fixed(ratio, 2),
                          row.flops > 0 ? significant(flops, 3) : "-",
                          significant(rate / 1e9, 3),
                          fixed(100 * rate / copy, 0) + " %"});
    about["kernels_us"].push_back({{"name", row.name},
                                   {"ours", 1e6 * row.times.ours},
                                   {"libtorch", 1e6 * row.times.theirs},
                                   {"gb_s", rate / 1e9},
                                   {"of_copy", rate / copy}});
    if (row.flops > 0) about["kernels_us"].back()["gflop_s"] = flops;
  }
  write_to_stdout(request.json ? about.dump(2) + "\n" : table_text(table), "the result");
  return 0;
}

}  // namespace diffuse
