// SPDX-License-Identifier: MIT
#include "core/model.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/log.h"
#include "config/yaml.h"
#include "ops/cuda.h"
#include "ops/noise.h"
#include "ops/replayed.h"
#include "samplers/sample.h"

namespace diffuse {
namespace {

/// [-1, 1] -> 0..255, rounded to the nearest level; channels-last bytes on the CPU.
at::Tensor to_bytes(const at::Tensor& x) {
  return x.detach()
      .to(at::kFloat)
      .add(1)
      .mul_(127.5)
      .round_()
      .clamp_(0, 255)
      .to(at::kByte)
      .permute({0, 2, 3, 1})
      .contiguous()
      .cpu();
}

Image image_of(const at::Tensor& bytes, int64_t i) {
  const int64_t size = bytes.size(1) * bytes.size(2) * bytes.size(3);
  const uint8_t* data = bytes.const_data_ptr<uint8_t>() + i * size;
  return {.height = bytes.size(1),
          .width = bytes.size(2),
          .channels = bytes.size(3),
          .data = std::vector<uint8_t>(data, data + size)};
}

}  // namespace

Model make_network(const Config& config, int64_t num_classes) {
  // Twice the channels: the mean's and the variance's.
  const int64_t outputs = is_learned(config.diffusion.variance) ? 2 : 1;
  const std::vector<int64_t> shape = config.data.shape();
  const bool weight = config.diffusion.learned_weight;
  if (config.data.are_points())
    return Model(config.mlp, shape[0], outputs * shape[0], num_classes, weight);
  return Model(config.model,
               shape[0],
               outputs * shape[0],
               shape[1],
               shape[2],
               num_classes,
               weight,
               config.runtime.fused);
}

Config saved_config(const CheckpointInfo& info, const std::filesystem::path& checkpoint) {
  try {
    return load_config_text(info.config, (checkpoint / "config.yaml").string(), checkpoint, {})
        .config;
  } catch (const ConfigError& e) {
    throw Error(
        Exit::checkpoint,
        checkpoint.string() + " holds a config that this version does not read:\n" + e.what());
  }
}

int64_t draw_batch(const DrawRequest& request) {
  return images_at_once(request.image_shape, request.options.batch, request.count);
}

int64_t usual_micro_batch(const Config& config, at::Device device, int64_t classes) {
  const int64_t batch = config.train.batch;
  if (config.train.micro_batch) return std::min(*config.train.micro_batch, batch);
  if (device.is_cuda()) return batch;
  return largest_micro_batch(config,
                             {.classes = classes, .threads = at::get_num_threads()},
                             std::numeric_limits<int64_t>::max());
}

bool set_precision(Precision precision, at::Device device) {
  if (device.is_cuda()) {
    // cuDNN allows TF32 by default: fp32 must mean float32.
    at::globalContext().setAllowTF32CuBLAS(precision == Precision::tf32);
    at::globalContext().setAllowTF32CuDNN(precision == Precision::tf32);
    at::globalContext().setBenchmarkCuDNN(true);  // shapes are few, and stay
    return precision == Precision::bf16;
  }
  if (precision == Precision::tf32)
    log::warn("train.precision tf32 needs an NVIDIA GPU; float32 is used on the CPU");
  if (precision != Precision::bf16) return false;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512bf16")) return true;
#endif
  log::warn(
      "train.precision bf16: this processor has no bfloat16 instructions, so float32 is used");
  return false;
}

std::string describe_drawing(const Config& config, const DrawingRecord& record) {
  nlohmann::ordered_json json{{"version", DIFFUSE_VERSION}};
  if (!record.checkpoint.empty()) json["checkpoint"] = record.checkpoint;
  json["step"] = record.step;
  json["sampler"] = config.sample.sampler.name();
  json["steps"] = sampling_steps(config.sample, config.diffusion);
  json["variance"] = config.diffusion.variance.name();
  json["clip"] = config.sample.clip;
  json["weights"] = config.sample.weights == WeightSet::raw ? "raw" : "ema";
  json["seed"] = config.sample.seed;
  json["first"] = record.first;
  json["count"] = record.count;
  if (!record.label.empty()) json["class"] = record.label;
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

Network bind_network(const Model& network, Weights weights, at::Tensor labels) {
  return [&network, weights = std::move(weights), labels = std::move(labels)](const at::Tensor& x,
                                                                              const at::Tensor& t) {
    return network.forward(weights, x, t, labels, nullptr);
  };
}

Weights weights_of(const TrainState& state, const Model& network, WeightSet set) {
  return network.layout().views(set == WeightSet::raw ? state.params.flat() : state.ema);
}

Weights load_weights_of(const std::filesystem::path& checkpoint,
                        const Model& network,
                        WeightSet set,
                        at::Device device) {
  const char* file = set == WeightSet::raw ? "model.safetensors" : "ema.safetensors";
  return network.layout().views(load_weights(checkpoint / file, network.layout()).to(device));
}

std::vector<int64_t> labels_in_turn(int64_t count, int64_t num_classes) {
  std::vector<int64_t> out(static_cast<size_t>(num_classes > 0 ? count : 0));
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<int64_t>(i) % num_classes;
  return out;
}

std::vector<SamplerStep> sampler_steps(const SampleOptions& options,
                                       const DiffusionOptions& diffusion) {
  DiffusionOptions wanted = diffusion;
  const Process process = make_process(diffusion);
  if (process.continuous()) {  // no step is more trained than another: a chain of the wanted length
    wanted.steps = sampling_steps(options, diffusion);
    return options.sampler(
        SamplerQuery{.chain = make_chain(wanted), .variance = diffusion.variance});
  }
  const Chain& full = process.chain();
  const Chain chain =
      options.steps ? respace(full, spaced_timesteps(full.steps(), *options.steps)) : full;
  return options.sampler(SamplerQuery{.chain = chain, .variance = diffusion.variance});
}

std::vector<int64_t> kept_steps(int64_t steps, int64_t kept) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < steps; ++i)
    if (kept > 0 && (i + 1) * kept / steps != i * kept / steps) out.push_back(i);
  return out;
}

namespace {

Replayed::Capture capture_on(at::Device device) {
  if (!device.is_cuda()) return nullptr;
  return [device](const std::function<void()>& function) {
    return open_cuda()->capture(device, function);
  };
}

bool draw_on_stream(const Model& network,
                    const Weights& weights,
                    const DrawRequest& request,
                    const std::function<at::Tensor(const at::Tensor&)>& convert,
                    const std::function<void(DrawnBatch)>& use) {
  const at::NoGradGuard no_grad;
  const SampleOptions& options = request.options;
  const DiffusionOptions& diffusion = *request.diffusion;
  const std::vector<SamplerStep> steps = sampler_steps(options, diffusion);
  const auto step_count = static_cast<int64_t>(steps.size());
  const std::vector<int64_t> kept =
      kept_steps(step_count, std::min(request.trajectory, step_count));
  const double start = std::sqrt(prior_variance(steps.front().level));
  const at::Device device = weights.front().device();
  const auto seed = static_cast<uint64_t>(options.seed);
  const int64_t batch = draw_batch(request);
  const Weights used = request.bf16 ? network.rounded(weights) : weights;
  // All but the last batch are of one size, and each goes through the network at every step.
  Replayed evaluate(
      [&](const std::vector<at::Tensor>& a) {
        return network.forward(used, a[0], a[1], a[2], nullptr, request.bf16);
      },
      network.fused() ? capture_on(device) : nullptr);

  for (int64_t first = 0; first < request.count; first += batch) {
    const int64_t n = std::min(batch, request.count - first);
    at::Tensor labels;
    if (!request.labels.empty())
      labels = at::tensor(at::ArrayRef<int64_t>(request.labels)
                              .slice(static_cast<size_t>(first), static_cast<size_t>(n)),
                          at::kLong)
                   .to(device);
    const Network f = [&](const at::Tensor& x, const at::Tensor& t) {
      return evaluate({x, t, labels});
    };
    const auto normal = [&](const at::Tensor& like, Purpose purpose, int64_t step) {
      at::Tensor noise = at::empty_like(like);
      fill_normal(noise, seed, purpose, static_cast<uint64_t>(step), first);
      return noise;
    };
    const at::Tensor shape =
        at::empty({n, request.image_shape[0], request.image_shape[1], request.image_shape[2]},
                  at::TensorOptions(device).dtype(at::kFloat));
    DrawnBatch drawn;
    const at::Tensor x = run_sampler(
        steps,
        make_denoiser(f, diffusion.target, options.clip),
        normal(shape, Purpose::sample_start, 0).mul_(start),
        [&](const at::Tensor& like, int64_t t) { return normal(like, Purpose::sample_step, t); },
        [&](size_t i, const at::Tensor& state, const at::Tensor& estimate) {
          const auto done = static_cast<int64_t>(i);
          if (drawn.x_t.size() < kept.size() && kept[drawn.x_t.size()] == done) {
            drawn.x_t.push_back(convert(state));
            drawn.x_hat.push_back(convert(estimate));
          }
          if (request.progress)
            request.progress(first * step_count + (done + 1) * n, request.count * step_count);
          return !request.cancelled || !request.cancelled();
        });
    if (!x.defined()) return false;
    drawn.x = convert(x);
    use(std::move(drawn));
  }
  return true;
}

}  // namespace

bool draw_batches(const Model& network,
                  const Weights& weights,
                  const DrawRequest& request,
                  const std::function<at::Tensor(const at::Tensor&)>& convert,
                  const std::function<void(DrawnBatch)>& use) {
  const auto all = [&] { return draw_on_stream(network, weights, request, convert, use); };
  const at::Device device = weights.front().device();
  if (!device.is_cuda()) return all();
  bool done = false;
  open_cuda()->on_own_stream(device, [&] { done = all(); });
  return done;
}

std::optional<Drawing> draw(const Model& network,
                            const Weights& weights,
                            const DrawRequest& request) {
  Drawing out;
  const bool done = draw_batches(network, weights, request, to_bytes, [&](const DrawnBatch& batch) {
    for (int64_t i = 0; i < batch.x.size(0); ++i) {
      out.images.push_back(image_of(batch.x, i));
      if (request.trajectory == 0) continue;
      out.x_t.emplace_back();
      out.x_hat.emplace_back();
      for (size_t k = 0; k < batch.x_t.size(); ++k) {
        out.x_t.back().push_back(image_of(batch.x_t[k], i));
        out.x_hat.back().push_back(image_of(batch.x_hat[k], i));
      }
    }
  });
  if (!done) return std::nullopt;
  return out;
}

}  // namespace diffuse
