// SPDX-License-Identifier: MIT
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <functional>
#include <random>

#include "core/model.h"
#include "support/threads.h"

// A picture is the same to the bit whatever the batch and the threads.

namespace diffuse {
namespace {

struct Case {
  const char* what;
  int64_t size, channels, classes;
  int64_t count;   // of pictures at most
  int64_t splits;  // to try
  std::function<void(Config&)> set;
};

/// Between them: maps of one picture that are smaller and larger than what the kernels are used for
/// in training, of every kind of width, attention with small and large heads, every way to resize,
/// vectors that no register divides.
std::vector<Case> cases() {
  return {{"8 x 8 x 1", 8, 1, 0, 24, 40, [](Config& c) { c.model.base_channels = 16; }},
          {"16 x 16 x 3",
           16,
           3,
           0,
           14,
           20,
           [](Config& c) {
             c.model.base_channels = 32;
             c.model.attention_at = {8};
             c.model.downsample_padding = 0;
           }},
          {"48 x 48 x 1",
           48,
           1,
           0,
           5,
           6,
           [](Config& c) {
             c.model.base_channels = 32;
             c.model.channel_mult = {1, 1, 2};
             c.model.attention_at = {12};
             c.sample.steps = 2;
           }},
          {"classes, one large head, a learned variance",
           8,
           3,
           3,
           16,
           20,
           [](Config& c) {
             c.model.base_channels = 72;
             c.model.channel_mult = {1};
             c.model.attention_at = {8};
             c.model.head_channels = 72;
             c.diffusion.variance.select("learned_range");
           }},
          {"odd sizes, residual blocks that resize", 6, 1, 0, 24, 40, [](Config& c) {
             c.model.base_channels = 12;
             c.model.attention_at = {3};
             c.model.head_channels = 4;
             c.model.downsample = Resample::resnet;
             c.model.upsample = Resample::resnet;
             c.model.time_embedding = TimeEmbedding::scale_shift;
             c.diffusion.variance.select("learned");
           }}};
}

/// A small network with random weights everywhere, so that every layer matters.
struct Drawn {
  Config config;
  std::optional<Model> network;
  Weights weights;
  std::vector<int64_t> labels;

  explicit Drawn(const Case& c) {
    config.data.size = {c.size};
    config.data.channels = c.channels;
    config.model.channel_mult = {1, 2};
    config.model.blocks_per_level = 1;
    config.model.attention_at = {4};
    config.model.norm_groups = 4;
    config.model.zero_init = false;
    config.diffusion.steps = 100;
    config.sample.steps = 4;
    config.sample.seed = 3;
    c.set(config);
    network.emplace(make_network(config, c.classes));
    weights = network->layout().views(network->layout().initial(7));
    if (c.classes > 0) labels = labels_in_turn(c.count, c.classes);
  }
  std::vector<Image> images(int64_t count, int64_t batch) {
    config.sample.batch = batch;
    const auto some = static_cast<std::ptrdiff_t>(labels.empty() ? 0 : count);
    const DrawRequest request{.options = config.sample,
                              .diffusion = &config.diffusion,
                              .image_shape = config.data.shape(),
                              .count = count,
                              .labels = {labels.begin(), labels.begin() + some},
                              .bf16 = false,
                              .trajectory = 0,
                              .progress = {},
                              .cancelled = {}};
    return draw(*network, weights, request)->images;
  }
};

// A PNG has eight bits a value, which hide most of what may differ.
TEST(Draw, NoBitOfTheNetworkDependsOnTheBatchOrTheThreads) {
  const Threads restored;
  const at::NoGradGuard no_grad;
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.what);
    Drawn drawn(c);
    at::manual_seed(5);
    const at::Tensor x = at::randn({c.count, c.channels, c.size, c.size});
    const at::Tensor t = at::arange(c.count, at::kFloat).mul_(4.1);
    const at::Tensor labels =
        c.classes == 0 ? at::Tensor() : at::tensor(drawn.labels, at::dtype(at::kLong));
    at::Tensor whole;
    for (const int threads : {1, 2, 5}) {
      at::set_num_threads(threads);
      for (int64_t n = c.count; n > 0; --n) {
        const int64_t first = (c.count - n) / 2;
        const at::Tensor some =
            drawn.network->forward(drawn.weights,
                                   x.narrow(0, first, n),
                                   t.narrow(0, first, n),
                                   labels.defined() ? labels.narrow(0, first, n) : labels,
                                   nullptr);
        if (!whole.defined()) whole = some;
        EXPECT_TRUE(at::equal(some, whole.narrow(0, first, n))) << n << ", threads " << threads;
      }
    }
  }
}

TEST(Draw, AHundredSplitsGiveTheSameFiles) {
  const Threads restored;
  std::mt19937 random(4);
  int64_t splits = 0, pictures = 0, other = 0;
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.what);
    Drawn drawn(c);
    at::set_num_threads(1);
    const std::vector<Image> whole = drawn.images(c.count, c.count);
    for (int64_t i = 0; i < c.splits; ++i) {
      at::set_num_threads(1 + static_cast<int>(i % 2));
      const auto of = static_cast<uint64_t>(c.count);
      const auto count = static_cast<int64_t>(1 + random() % of);
      const auto batch = static_cast<int64_t>(1 + random() % of);
      const std::vector<Image> split = drawn.images(count, batch);
      ASSERT_EQ(split.size(), static_cast<size_t>(count));
      for (size_t k = 0; k < split.size(); ++k)
        other += encode_png(split[k]) != encode_png(whole[k]);
      pictures += count;
    }
    splits += c.splits;
  }
  EXPECT_GE(splits, 100);
  EXPECT_GT(pictures, 1000);
  EXPECT_EQ(other, 0) << "of " << pictures;
}

}  // namespace
}  // namespace diffuse
