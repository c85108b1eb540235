// SPDX-License-Identifier: MIT
#include "ops/noise.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <vector>

#include "ops/cuda.h"
#include "support/threads.h"

namespace diffuse {
namespace {

std::array<uint32_t, 4> words(const Philox4& p) { return {p.v[0], p.v[1], p.v[2], p.v[3]}; }

at::Tensor normals(std::vector<int64_t> shape, uint64_t seed, uint64_t step, int64_t first_sample) {
  at::Tensor out = at::full(shape, std::nan(""));
  fill_normal(out, seed, Purpose::noise, step, first_sample);
  return out;
}

// The known-answer vectors that Random123 (Salmon et al. 2011) ships for philox4x32-10.
TEST(Philox, KnownAnswers) {
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(words(philox4x32({{0, 0, 0, 0}}, 0, 0)),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(
      words(philox4x32({{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}}, 0xffffffff, 0xffffffff)),
      (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(
      words(philox4x32({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0)),
      (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(FillNormal, IsTheStreamOfEachSample) {
  const at::Tensor out = normals({2, 3, 3, 1}, 7, 5, 40);
  for (int64_t row = 0; row < 2; ++row) {
    const Stream stream{7, Purpose::noise, 5, static_cast<uint64_t>(40 + row)};
    for (int64_t e = 0; e < 9; ++e) {
      const auto block = random_normal4(stream, static_cast<uint32_t>(e / 4));
      EXPECT_EQ(out.data_ptr<float>()[row * 9 + e], block[static_cast<size_t>(e % 4)]);
    }
  }
}

TEST(FillNormal, MicroBatchesAndThreadsChangeNothing) {
  const std::vector<int64_t> shape{16, 3, 32, 32};
  const Threads restored;
  at::set_num_threads(1);
  const at::Tensor whole = normals(shape, 3, 9, 100);
  at::set_num_threads(3);
  const at::Tensor threaded = normals(shape, 3, 9, 100);
  const at::Tensor parts =
      at::cat({normals({5, 3, 32, 32}, 3, 9, 100), normals({11, 3, 32, 32}, 3, 9, 105)});
  EXPECT_TRUE(at::equal(whole, threaded));
  EXPECT_TRUE(at::equal(whole, parts));
}

TEST(FillNormal, EveryPartOfTheNameMatters) {
  const at::Tensor base = normals({1, 64}, 1, 1, 1);
  EXPECT_FALSE(at::equal(base, normals({1, 64}, 2, 1, 1)));
  EXPECT_FALSE(at::equal(base, normals({1, 64}, 1, 2, 1)));
  EXPECT_FALSE(at::equal(base, normals({1, 64}, 1, 1, 2)));
  at::Tensor other = at::empty({1, 64});
  fill_normal(other, 1, Purpose::sample_step, 1, 1);
  EXPECT_FALSE(at::equal(base, other));
}

// 4 million values: each sample moment lies within five of its standard deviations, sqrt(Var[x^k] /
// n) with Var[x^k] = E[x^2k] - E[x^k]^2 and E[x^2k] = (2k - 1)!! (a miss once in 1.7 million
// draws).
TEST(FillNormal, Moments) {
  const at::Tensor x = normals({64, 1 << 16}, 0, 0, 0).to(at::kDouble);
  const double root = std::sqrt(static_cast<double>(x.numel()));
  const auto moment = [&](int k) { return x.pow(k).mean().item<double>(); };
  EXPECT_NEAR(moment(1), 0, 5 * std::sqrt(1.0) / root);
  EXPECT_NEAR(moment(2), 1, 5 * std::sqrt(3.0 - 1) / root);
  EXPECT_NEAR(moment(3), 0, 5 * std::sqrt(15.0) / root);
  EXPECT_NEAR(moment(4), 3, 5 * std::sqrt(105.0 - 9) / root);
  // Neighbours within a block, across blocks and across samples are uncorrelated: Var[x y] = 1.
  for (const int64_t lag : {1, 2, 3, 4, 1 << 16}) {
    const at::Tensor flat = x.flatten();
    const at::Tensor product = flat.slice(0, lag) * flat.slice(0, 0, flat.size(0) - lag);
    EXPECT_NEAR(product.mean().item<double>(), 0, 5 / root) << lag;
  }
}

// Share of values below fixed points against the normal distribution function, five standard
// deviations of a binomial share.
TEST(FillNormal, Distribution) {
  const at::Tensor x = normals({64, 1 << 16}, 1, 0, 0);
  for (const double at : {-3.0, -1.5, -0.5, 0.0, 0.25, 1.0, 2.0, 4.0}) {
    const double p = 0.5 * std::erfc(-at / std::sqrt(2.0));
    const double share = (x < at).to(at::kDouble).mean().item<double>();
    EXPECT_NEAR(share, p, 5 * std::sqrt(p * (1 - p) / static_cast<double>(x.numel()))) << at;
  }
}

TEST(FillNormal, EmptyIsFine) {
  EXPECT_EQ(normals({0, 4}, 0, 0, 0).numel(), 0);
  EXPECT_EQ(normals({4, 0}, 0, 0, 0).numel(), 0);
}

TEST(DropoutMask, HasTwoValuesInTheRightShares) {
  const at::Tensor like = at::empty({64, 1 << 14});
  for (const double p : {0.0, 0.1, 0.5, 0.9}) {
    const double q = dropout_probability(p);
    EXPECT_NEAR(q, p, 0x1p-17);
    const at::Tensor mask = dropout_mask(like, p, {1, 2, 3}, 0);
    const at::Tensor dropped = mask == 0;
    EXPECT_TRUE((dropped | (mask == static_cast<float>(1 / (1 - q)))).all().item<bool>());
    EXPECT_NEAR(dropped.to(at::kDouble).mean().item<double>(),
                q,
                5 * std::sqrt(q * (1 - q) / static_cast<double>(like.numel())));
  }
}

TEST(DropoutMask, MicroBatchesAndThreadsChangeNothing) {
  const at::Tensor like = at::empty({12, 3, 31, 33});
  const Threads restored;
  at::set_num_threads(1);
  const at::Tensor whole = dropout_mask(like, 0.3, {1, 2, 10}, 77);
  at::set_num_threads(3);
  EXPECT_TRUE(at::equal(whole, dropout_mask(like, 0.3, {1, 2, 10}, 77)));
  const at::Tensor head = dropout_mask(like.slice(0, 0, 5), 0.3, {1, 2, 10}, 77);
  const at::Tensor tail = dropout_mask(like.slice(0, 5), 0.3, {1, 2, 15}, 77);
  EXPECT_TRUE(at::equal(whole, at::cat({head, tail})));
}

TEST(DropoutMask, LayersReadTheirOwnBlocks) {
  const int64_t size = 40;
  const at::Tensor two = dropout_mask(at::empty({3, 2 * size}), 0.5, {1, 2, 0}, 6);
  EXPECT_TRUE(
      at::equal(two.slice(1, 0, size), dropout_mask(at::empty({3, size}), 0.5, {1, 2, 0}, 6)));
  EXPECT_TRUE(
      at::equal(two.slice(1, size),
                dropout_mask(at::empty({3, size}), 0.5, {1, 2, 0}, 6 + dropout_blocks(size))));
  EXPECT_FALSE(at::equal(two.slice(1, 0, size), two.slice(1, size)));
}

TEST(DropoutMask, HasTheTypeOfTheActivation) {
  const at::Tensor like = at::empty({2, 9}, at::kBFloat16);
  EXPECT_EQ(dropout_mask(like, 0.5, {}, 0).scalar_type(), at::kBFloat16);
}

TEST(DropoutProbability, IsAMultipleBelowOne) {
  EXPECT_EQ(dropout_probability(0.25), 0.25);
  EXPECT_EQ(dropout_probability(0.3), 19661 / 65536.0);
  EXPECT_EQ(dropout_probability(std::nextafter(1.0, 0.0)), 65535 / 65536.0);
}

// The CPU bodies are the reference of the kernels. Masks are integer work and agree exactly; the
// normals go through log, sin and cos in double precision, whose last digits may differ: one
// rounding of the result.
TEST(CudaKernels, EqualTheCpuBodies) {
  std::string why;
  if (open_cuda(&why) == nullptr) GTEST_SKIP() << "no GPU: " << why;
  const at::Tensor host = normals({7, 3, 17, 5}, 11, 1234567890123, 1ll << 33);
  at::Tensor device = at::empty(host.sizes(), at::device(at::kCUDA));
  fill_normal(device, 11, Purpose::noise, 1234567890123, 1ll << 33);
  EXPECT_TRUE(at::allclose(device.cpu(), host, 0x1p-23, 0x1p-23));

  const StepKey key{3, 4, 5};
  EXPECT_TRUE(
      at::equal(dropout_mask(device, 0.3, key, 999).cpu(), dropout_mask(host, 0.3, key, 999)));
}

TEST(CudaDevice, ReportsItself) {
  std::string why;
  const CudaOps* cuda = open_cuda(&why);
  if (cuda == nullptr) GTEST_SKIP() << "no GPU: " << why;
  EXPECT_FALSE(cuda->device_name(0).empty());
  EXPECT_GE(cuda->capability(0), 80);
  const at::Tensor held = at::zeros({1 << 20}, at::device(at::kCUDA));
  EXPECT_GE(cuda->memory_peak(0), 4 << 20);
}

TEST(CudaDevice, CountsWaits) {
  std::string why;
  const CudaOps* cuda = open_cuda(&why);
  if (cuda == nullptr) GTEST_SKIP() << "no GPU: " << why;
  const at::Tensor one = at::ones({1}, at::device(at::kCUDA));
  const auto syncs = cuda->count_syncs();
  const at::Tensor two = one + one;
  EXPECT_EQ(syncs->count(), 0);
  EXPECT_EQ(two.item<float>(), 2);
  EXPECT_GT(syncs->count(), 0);
}

}  // namespace
}  // namespace diffuse
