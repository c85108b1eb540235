// SPDX-License-Identifier: MIT
#include "ops/kernels/loss.h"

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/random.h"

namespace diffuse {
namespace {

constexpr double kUnit = 0x1p-24;  // of float32: its relative rounding error

std::vector<float> normals(int64_t n, uint64_t what, bool bf16 = false) {
  std::vector<float> out(static_cast<size_t>(n));
  const Stream stream{.seed = 7, .purpose = Purpose::probe, .sample = what};
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = random_normal4(stream, static_cast<uint32_t>(i / 4))[i % 4];
    if (bf16) out[i] = __bfloat162float(__float2bfloat16_rn(out[i]));
  }
  return out;
}

// The sums are taken in float64; the error F - F* is rounded three times in float32, to which the
// loss answers with twice its size, and what is returned once more.
TEST(EmulatedLoss, IsTheFormulaToRounding) {
  using cuda_emulation::Order;
  for (const int64_t values : {1, 3, 255, 257, 3072})
    for (const bool bf16 : {false, true})
      for (const float huber : {0.0f, 0.7f}) {
        SCOPED_TRACE(testing::Message() << values << (bf16 ? " bf16 " : " float ") << huber);
        constexpr int64_t n = 3;
        const std::vector<float> f = normals(n * values, 1, bf16), x0 = normals(n * values, 2),
                                 eps = normals(n * values, 3), by_x0 = normals(n, 4),
                                 by_eps = normals(n, 5), weight = normals(n, 6),
                                 d_weighted = normals(n, 8);
        std::vector<__nv_bfloat16> half;
        for (const float x : f) half.push_back(__float2bfloat16_rn(x));
        const kernels::ErrorBatch b{.n = n,
                                    .values = values,
                                    .f = bf16 ? static_cast<const void*>(half.data()) : f.data(),
                                    .bf16 = bf16,
                                    .x0 = x0.data(),
                                    .eps = eps.data(),
                                    .target_x0 = by_x0.data(),
                                    .target_eps = by_eps.data(),
                                    .weight = weight.data(),
                                    .huber = huber};
        std::vector<std::vector<float>> runs;
        for (const Order order : {Order::shuffled, Order::reverse, Order::forward}) {
          cuda_emulation::settings() = {.order = order};
          std::vector<float> out(2 * n, std::nanf(""));
          ASSERT_EQ(kernels::error_loss(b, out.data(), out.data() + n, nullptr), 0)
              << cuda_emulation::last_launch().failure;
          runs.push_back(out);
        }
        EXPECT_EQ(runs[0], runs[2]);
        EXPECT_EQ(runs[1], runs[2]);
        std::vector<float> df(static_cast<size_t>(n * values), std::nanf(""));
        std::vector<__nv_bfloat16> half_df(df.size(), __nv_bfloat16{0x7FFF});
        ASSERT_EQ(
            kernels::error_loss_backward(b,
                                         d_weighted.data(),
                                         bf16 ? static_cast<void*>(half_df.data()) : df.data(),
                                         nullptr),
            0);
        for (size_t i = 0; i < n; ++i) {
          double raw = 0, loss = 0, raw_error = 0, loss_error = 0;
          for (size_t j = i * static_cast<size_t>(values);
               j < (i + 1) * static_cast<size_t>(values);
               ++j) {
            const double a = static_cast<double>(by_x0[i]) * x0[j],
                         c = static_cast<double>(by_eps[i]) * eps[j];
            const double e = static_cast<double>(f[j]) - (a + c);
            const double off = kUnit * (std::abs(a) + std::abs(c) + std::abs(a + c) + std::abs(e));
            const double size = std::abs(e), h = huber;
            const bool far = huber > 0 && size > h;
            raw += e * e / static_cast<double>(values);
            raw_error += 2 * off * size / static_cast<double>(values);
            loss += (far ? h * (2 * size - h) : e * e) / static_cast<double>(values);
            loss_error += 2 * off * (far ? h : size) / static_cast<double>(values);
            const double slope = far ? std::copysign(h, e) : e;
            const double factor = 2.0 * d_weighted[i] * weight[i] / static_cast<double>(values);
            const double got = bf16 ? __bfloat162float(half_df[j]) : df[j];
            const double unit = bf16 ? 0x1p-8 : kUnit;
            EXPECT_LE(
                std::abs(got - factor * slope),
                1.01 * (std::abs(factor) * off + (4 * kUnit + unit) * std::abs(factor * slope)) +
                    1e-30)
                << j;
          }
          EXPECT_LE(std::abs(runs[2][i] - raw), 1.01 * (raw_error + kUnit * raw));
          EXPECT_LE(std::abs(runs[2][n + i] - weight[i] * loss),
                    1.01 * std::abs(weight[i]) * (loss_error + kUnit * loss));
        }
      }
  cuda_emulation::settings() = {};
}

}  // namespace
}  // namespace diffuse
