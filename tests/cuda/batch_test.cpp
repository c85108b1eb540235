// SPDX-License-Identifier: MIT
#include "ops/kernels/batch.h"

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/random.h"

namespace diffuse {
namespace {

// The noise is base/random.h's and x0 is one rounded formula, bit for bit; the input, of two
// products and a sum, may be contracted.
TEST(EmulatedBatch, IsTheFormula) {
  struct Size {
    int64_t channels, height, width;
  };
  for (const Size s :
       {Size{1, 1, 1}, Size{3, 5, 7}, Size{3, 32, 32}, Size{1, 28, 28}, Size{2, 3, 3}})
    for (int option = 0; option < 16; ++option) {
      const bool chosen = option & 1, bf16 = option & 2, last = option & 4, there = option & 8;
      SCOPED_TRACE(testing::Message()
                   << s.channels << "x" << s.height << "x" << s.width << " " << option);
      constexpr int64_t n = 3, set = 5;
      const int64_t plane = s.height * s.width, size = s.channels * plane;
      std::vector<uint8_t> pixels(static_cast<size_t>((chosen ? set : n) * size));
      for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<uint8_t>(i * 37 % 256);
      const std::vector<int64_t> indices{4, 0, 3};
      const std::vector<uint8_t> flips{1, 0, 1};
      const std::vector<float> by_x0{0.9f, 0.5f, 0.1f}, by_eps{0.3f, 0.8f, 0.99f};
      std::vector<float> x0(static_cast<size_t>(n * size), std::nanf("")), eps = x0, input = x0;
      std::vector<__nv_bfloat16> half(x0.size(), __nv_bfloat16{0x7FFF});
      const int64_t step_there = (int64_t{1} << 35) + 9;
      kernels::NoisyBatch b;
      b.n = n, b.channels = s.channels, b.height = s.height, b.width = s.width;
      b.pixels = pixels.data();
      if (chosen) b.indices = indices.data(), b.flips = flips.data();
      b.input_x0 = by_x0.data(), b.input_eps = by_eps.data();
      b.seed = 12, b.purpose = static_cast<uint32_t>(Purpose::noise), b.first_sample = 6;
      b.step.value = 44;
      if (there) b.step.there = &step_there;
      b.x0 = x0.data(), b.eps = eps.data();
      b.input = bf16 ? static_cast<void*>(half.data()) : input.data();
      b.bf16 = bf16, b.channels_last = last;
      ASSERT_EQ(kernels::noisy_batch(b, nullptr), 0);
      for (int64_t i = 0; i < n; ++i)
        for (int64_t c = 0; c < s.channels; ++c)
          for (int64_t y = 0; y < s.height; ++y)
            for (int64_t x = 0; x < s.width; ++x) {
              const int64_t e = c * plane + y * s.width + x;
              const auto at = static_cast<size_t>(i * size + e);
              const Stream stream{12,
                                  Purpose::noise,
                                  there ? static_cast<uint64_t>(step_there) : 44,
                                  static_cast<uint64_t>(6 + i)};
              const float noise =
                  random_normal4(stream, static_cast<uint32_t>(e / 4))[static_cast<size_t>(e % 4)];
              const auto k = static_cast<size_t>(i);
              const int64_t from =
                  chosen ? indices[k] * size +
                               (y * s.width + (flips[k] ? s.width - 1 - x : x)) * s.channels + c
                         : i * size + e;
              const float value =
                  static_cast<float>(pixels[static_cast<size_t>(from)]) / 127.5f - 1.0f;
              ASSERT_EQ(eps[at], noise);
              ASSERT_EQ(x0[at], value);
              const double expected =
                  static_cast<double>(by_x0[k]) * value + static_cast<double>(by_eps[k]) * noise;
              const auto to =
                  static_cast<size_t>(i * size + (last ? (y * s.width + x) * s.channels + c : e));
              const double got = bf16 ? __bfloat162float(half[to]) : input[to];
              const double sizes = std::abs(by_x0[k] * value) + std::abs(by_eps[k] * noise);
              ASSERT_LE(std::abs(got - expected),
                        1.01 * (0x1p-24 * (sizes + std::abs(expected)) +
                                (bf16 ? 0x1p-8 : 0) * std::abs(expected)) +
                            1e-30)
                  << to;
            }
    }
}

}  // namespace
}  // namespace diffuse
