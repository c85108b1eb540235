// SPDX-License-Identifier: MIT
#include "ops/batch.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>

#include "ops/cuda.h"
#include "ops/rounding.h"

namespace diffuse {
namespace {

/// Bytes that differ from each other up to 251 of them.
at::Tensor bytes(std::vector<int64_t> shape) {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return at::arange(count, at::kLong).mul(37).remainder(251).to(at::kByte).view(shape);
}

at::Tensor flags(std::vector<int64_t> values) {
  return at::tensor(values, at::kLong).to(at::kByte);
}

TEST(PicturesOf, ABatchIsScaled) {
  const at::Tensor pixels =
      at::tensor(std::vector<int64_t>{0, 255, 51, 204}, at::kLong).to(at::kByte).view({1, 2, 1, 2});
  const at::Tensor want = at::tensor(std::vector<double>{-1, 1, -0.6, 0.6}).to(at::kFloat);
  EXPECT_TRUE(at::allclose(
      pictures_of({.pixels = pixels, .indices = {}, .flips = {}}).view({4}), want, 0x1p-23, 0));
}

TEST(PicturesOf, ASetIsChosenFromMirroredAndInPlanes) {
  const at::Tensor set = bytes({5, 2, 3, 3});  // height 2, width 3, 3 channels
  const at::Tensor out = pictures_of(
      {.pixels = set, .indices = at::tensor({4, 0, 4}, at::kLong), .flips = flags({0, 1, 1})});
  ASSERT_EQ(out.sizes(), (std::vector<int64_t>{3, 3, 2, 3}));
  EXPECT_TRUE(out.is_contiguous());
  const auto plain = [&](int64_t i) {
    return set[i].permute({2, 0, 1}).to(at::kFloat).div(127.5).sub(1);
  };
  EXPECT_TRUE(at::equal(out[0], plain(4)));
  EXPECT_TRUE(at::equal(out[1], plain(0).flip({2})));
  EXPECT_TRUE(at::equal(out[2], plain(4).flip({2})));
}

// x0 and the noise by their coefficients; pictures of any part of the batch have the same noise.
TEST(ComposedNoisyBatch, IsTheFormula) {
  const at::Tensor x0 = pictures_of({.pixels = bytes({4, 1, 2, 3}), .indices = {}, .flips = {}});
  const at::Tensor a = at::tensor({0.75, 0.5, 0.0, 1.0}).to(at::kFloat),
                   b = at::tensor({0.25, 0.5, 1.0, 0.0}).to(at::kFloat);
  const StepKey key{.seed = 3, .step = 7, .first_sample = 9};
  const NoisyBatch out = composed_noisy_batch(x0, a, b, Purpose::noise, key);
  at::Tensor eps = at::empty_like(x0);
  fill_normal(eps, 3, Purpose::noise, 7, 9);
  EXPECT_TRUE(at::equal(out.x0, x0));
  EXPECT_TRUE(at::equal(out.eps, eps));
  EXPECT_TRUE(at::equal(out.input[2], eps[2]) && at::equal(out.input[3], x0[3]));
  for (int64_t i = 0; i < 2; ++i) {  // two products and a sum
    const at::Tensor x = a[i].item<double>() * x0[i].to(at::kDouble),
                     e = b[i].item<double>() * eps[i].to(at::kDouble);
    expect_within(out.input[i], x + e, 2 * kUnit * (x.abs() + e.abs()), "input");
  }
  StepKey later = key;
  later.first_sample += 2;
  const auto rest = [](const at::Tensor& t) { return t.narrow(0, 2, 2); };
  EXPECT_TRUE(
      at::equal(composed_noisy_batch(rest(x0), rest(a), rest(b), Purpose::noise, later).input,
                rest(out.input)));
}

TEST(NoisyBatchOnAGpu, EqualsTheComposedBody) {
  std::string why;
  if (open_cuda(&why) == nullptr) GTEST_SKIP() << "no GPU: " << why;
  const at::Device gpu(at::kCUDA, 0);
  const at::Tensor set = bytes({6, 7, 5, 3});
  const PictureBytes chosen{
      .pixels = set, .indices = at::tensor({5, 0, 3, 3}, at::kLong), .flips = flags({1, 0, 0, 1})};
  const PictureBytes whole{.pixels = bytes({4, 1, 9, 5}), .indices = {}, .flips = {}};
  const at::Tensor a = at::tensor({0.9, 0.5, 0.1, 0.0}).to(at::kFloat), b = at::sqrt(1 - a * a);
  const at::Tensor step = at::tensor({int64_t{1} << 40}, at::kLong).to(gpu);
  const StepKey key{.seed = 3, .step = 7, .first_sample = 9};
  const StepKey there{
      .seed = 3, .step = 7, .first_sample = 9, .step_there = step.const_data_ptr<int64_t>()};
  for (const PictureBytes& host : {chosen, whole})
    for (const bool read_step : {false, true})
      for (const bool bf16 : {false, true}) {
        const auto on_gpu = [&](const at::Tensor& t) { return t.defined() ? t.to(gpu) : t; };
        const NoisyBatch out =
            noisy_batch({on_gpu(host.pixels), on_gpu(host.indices), on_gpu(host.flips)},
                        a.to(gpu),
                        b.to(gpu),
                        Purpose::noise,
                        read_step ? there : key,
                        bf16);
        StepKey by_host = key;
        if (read_step) by_host.step = uint64_t{1} << 40;
        const NoisyBatch want =
            composed_noisy_batch(pictures_of(host), a, b, Purpose::noise, by_host);
        // A division or a product with the reciprocal; sines and logarithms of two libraries.
        EXPECT_TRUE(at::allclose(out.x0.cpu(), want.x0, 0x1p-22, 0x1p-23));
        EXPECT_TRUE(at::allclose(out.eps.cpu(), want.eps, 0x1p-23, 0x1p-23));
        EXPECT_TRUE(out.input.is_contiguous(at::MemoryFormat::ChannelsLast));
        EXPECT_EQ(out.input.scalar_type(), bf16 ? at::kBFloat16 : at::kFloat);
        EXPECT_TRUE(at::allclose(out.input.to(at::kFloat).cpu(),
                                 want.input,
                                 bf16 ? 0x1p-8 : 0x1p-21,
                                 bf16 ? 0x1p-9 : 0x1p-21));
      }
}

}  // namespace
}  // namespace diffuse
