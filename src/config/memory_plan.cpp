// SPDX-License-Identifier: MIT
#include "config/memory_plan.h"

#include <algorithm>

namespace diffuse {
namespace {

constexpr int64_t kFloat = 4;
constexpr int64_t kMiB = int64_t{1} << 20;

/// The program with LibTorch's libraries, its threads and oneDNN's compiled kernels.
constexpr int64_t kProgram = 160 * kMiB;

/// Maps that are there beside the kept ones: a gradient that comes, one that goes, and what a
/// convolution makes of its input.
constexpr int64_t kInTransit = 3;

/// Multiply-accumulates of a micro-batch for each thread: a second or two.
constexpr int64_t kMacsOfThread = 50'000'000'000;

/// Pictures that sample and evaluate are asked for where nothing is said.
constexpr int64_t kCount = 64;

NetworkCost cost_of(const Config& config, int64_t classes) {
  const std::vector<int64_t> shape = config.data.shape();
  const int64_t outputs = (is_learned(config.diffusion.variance) ? 2 : 1) * shape[0];
  NetworkCost cost =
      config.data.are_points()
          ? config.mlp.cost(shape[0], outputs, classes)
          : config.model.cost(shape[0], outputs, shape[1], shape[2], classes, config.runtime.fused);
  if (config.diffusion.learned_weight) cost.parameters += kLevelFeatures;
  return cost;
}

/// Pictures in memory, and batches that wait to be taken.
int64_t picture_bytes(const Config& config, int64_t pictures) {
  const DataOptions& data = config.data;
  if (data.are_points()) return 0;
  const int64_t each = data.height() * data.width() * data.channels;
  const bool fits = each * pictures <= data.cache_mb * kMiB;
  const bool cached =
      data.cache == CachePolicy::ram || (data.cache == CachePolicy::automatic && fits);
  // Names, sizes and labels of a picture take about 140 bytes.
  return pictures * (140 + (cached ? each : 0)) +
         (data.queue_batches + 1) * config.train.batch * each;
}

}  // namespace

int64_t MemoryNeed::total() const {
  int64_t sum = 0;
  for (const auto& [name, bytes] : parts) sum += bytes;
  return sum;
}

MemoryPlan plan_memory(const Config& config, const PlanQuery& query) {
  const NetworkCost cost = cost_of(config, query.classes);
  const std::vector<int64_t> shape = config.data.shape();
  const int64_t values = shape[0] * shape[1] * shape[2];
  const bool half = query.bf16 && config.train.precision == Precision::bf16;
  const int64_t map = half ? 2 : kFloat;
  const int64_t weights = kFloat * cost.parameters;
  // x_0, epsilon, z, the target, the error and its gradient, in float32.
  const int64_t around = 6 * kFloat * values;
  const auto trained = [&](int64_t n) {
    return n * (map * (cost.kept + kInTransit * cost.widest) + around);
  };
  const auto evaluated = [&](int64_t n) {
    return n * (kFloat * (cost.skips + 2 * kInTransit * cost.widest) + around);
  };

  MemoryPlan plan{.parameters = cost.parameters, .train = {}, .sample = {}, .evaluate = {}};
  // A checkpoint is written from copies in the order of files, when no step's maps are there. What
  // maps leave is theirs, but for copies that are larger than the pieces.
  constexpr int64_t kLarge = int64_t{32} << 20;
  const int64_t copies = 4 * weights, of_maps = trained(query.micro_batch);
  const bool apart = weights >= kLarge && query.micro_batch * map * cost.widest < kLarge;
  plan.train.parts = {{"program", kProgram},
                      {"weights", weights + (half ? weights / 2 : 0)},
                      {"gradient", weights},
                      {"moments", 2 * weights},
                      {"ema", weights},
                      {"activations", of_maps},
                      {"saving", apart ? copies : std::max<int64_t>(copies - of_maps, 0)},
                      {"pictures", picture_bytes(config, query.pictures)}};
  const int64_t drawn = images_at_once(shape, config.sample.batch, kCount);
  // A file of weights, read, and its two copies.
  const int64_t reading = 2 * weights;
  plan.sample.parts = {{"program", kProgram},
                       {"weights", weights},
                       {"activations", evaluated(drawn)},
                       {"reading", std::max<int64_t>(reading - evaluated(drawn), 0)}};
  const int64_t measured = images_at_once(shape, std::nullopt, kCount);
  // The ODE's trace needs a backward pass, if not one to the weights.
  plan.evaluate.parts = {
      {"program", kProgram},
      {"weights", weights},
      {"activations", measured * (kFloat * (cost.kept + kInTransit * cost.widest) + around)},
      {"pictures", picture_bytes(config, query.pictures)}};
  return plan;
}

int64_t images_at_once(const std::vector<int64_t>& shape,
                       std::optional<int64_t> batch,
                       int64_t count) {
  // At most 64 and about 2^18 values keep the activations of wide networks below a few GB. Those of
  // a single pixel are small.
  const int64_t pixels = shape[1] * shape[2];
  const int64_t automatic =
      std::clamp<int64_t>((int64_t{1} << 18) / (shape[0] * pixels), 1, pixels == 1 ? 4096 : 64);
  return std::min(batch.value_or(automatic), count);
}

std::vector<int64_t> micro_batches(int64_t batch) {
  std::vector<int64_t> out;
  for (int64_t parts = 1; out.empty() || out.back() > 1; parts = std::max(parts + 1, parts * 3 / 2))
    if (const int64_t n = (batch + parts - 1) / parts; out.empty() || n < out.back())
      out.push_back(n);
  return out;
}

int64_t largest_micro_batch(const Config& config, PlanQuery query, int64_t bytes) {
  const int64_t macs = 3 * cost_of(config, query.classes).macs;  // forward and backward
  for (const int64_t n : micro_batches(config.train.batch)) {
    if (query.threads > 0 && n * macs > kMacsOfThread * query.threads) continue;
    query.micro_batch = n;
    if (plan_memory(config, query).train.total() <= bytes) return n;
  }
  return 1;
}

}  // namespace diffuse
