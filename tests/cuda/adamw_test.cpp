// SPDX-License-Identifier: MIT
#include "ops/kernels/adamw.h"

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/random.h"
#include "ops/kernels/tally.h"

namespace diffuse {
namespace {

using cuda_emulation::Order;

constexpr double kUnit = 0x1p-24;          // of float32: its relative rounding error
constexpr int64_t kLong = 300 * 4096 + 4;  // the norm has more parts than a block has threads

std::vector<float> normals(int64_t n, uint64_t what) {
  std::vector<float> out(static_cast<size_t>(n));
  const Stream stream{.seed = 7, .purpose = Purpose::probe, .sample = what};
  for (size_t i = 0; i < out.size(); ++i)
    out[i] = random_normal4(stream, static_cast<uint32_t>(i / 4))[i % 4];
  return out;
}

struct State {
  std::vector<float> grad, weight, exp_avg, exp_avg_sq, ema;
  std::vector<__nv_bfloat16> half;
  std::vector<double> tally = std::vector<double>(Tally::count, 0.0);
  float updates = 4, loss = 1.5f, loss_raw = 2.5f;
  std::vector<double> rates{1e-2, 0.9};

  explicit State(int64_t n)
      : grad(normals(n, 1)),
        weight(normals(n, 2)),
        exp_avg(normals(n, 3)),
        exp_avg_sq(normals(n, 4)),
        ema(normals(n, 5)),
        half(static_cast<size_t>(n), __nv_bfloat16{0x7FFF}) {
    for (float& x : exp_avg_sq) x *= x;
    tally[Tally::skipped_in_row] = 2;
    tally[Tally::ema_initial] = 0.5;
  }
  kernels::AdamwUpdate of(int64_t decay_end, double clip) {
    kernels::AdamwUpdate u;
    u.n = static_cast<int64_t>(grad.size());
    u.decay_end = decay_end;
    u.weight_decay = 0.1;
    u.clip = clip;
    u.grad = grad.data();
    u.weight = weight.data();
    u.exp_avg = exp_avg.data();
    u.exp_avg_sq = exp_avg_sq.data();
    u.ema = ema.data();
    u.half = half.data();
    u.rates = rates.data();
    u.loss = &loss;
    u.loss_raw = &loss_raw;
    u.updates = &updates;
    u.tally = tally.data();
    return u;
  }
};

int run(const kernels::AdamwUpdate& u) {
  std::vector<double> scratch(static_cast<size_t>((kernels::update_scratch_bytes(u.n) + 7) / 8),
                              std::nan(""));
  return kernels::update(u, scratch.data(), nullptr);
}

TEST(EmulatedAdamw, IsTheFormulaToRounding) {
  for (const int64_t n : std::vector<int64_t>{4, 12, 1024, 1028, 12288, kLong})
    for (const double clip : {0.0, 1.0, 1e6}) {
      if (n == kLong && clip != 1.0) continue;
      SCOPED_TRACE(testing::Message() << n << " " << clip);
      const State before(n);
      State s(n), other(n);
      const int64_t decay_end = n / 8 * 4;
      ASSERT_EQ(run(s.of(decay_end, clip)), 0);
      cuda_emulation::settings() = {.order = Order::shuffled, .seed = 3};
      ASSERT_EQ(run(other.of(decay_end, clip)), 0);
      cuda_emulation::settings() = {};
      EXPECT_EQ(s.weight, other.weight);
      EXPECT_EQ(s.ema, other.ema);
      EXPECT_EQ(s.tally, other.tally);
      double squares = 0;
      for (const float g : before.grad) squares += static_cast<double>(g) * g;
      const double norm = std::sqrt(squares), scale = clip > 0 ? std::min(1.0, clip / norm) : 1.0;
      EXPECT_EQ(s.updates, 5);
      EXPECT_EQ(s.tally[Tally::steps], 1);
      EXPECT_EQ(s.tally[Tally::good], 1);
      EXPECT_EQ(s.tally[Tally::loss], 1.5);
      EXPECT_EQ(s.tally[Tally::loss_raw], 2.5);
      EXPECT_NEAR(s.tally[Tally::grad_norm], norm, 2 * kUnit * norm);
      EXPECT_EQ(s.tally[Tally::skipped_in_row], 0);
      EXPECT_EQ(s.tally[Tally::ema_initial], 0.45);
      const double size = 1e-2 / (1 - std::pow(0.9, 5)),
                   root = 1 / std::sqrt(1 - std::pow(0.999, 5));
      for (size_t i = 0; i < before.grad.size(); ++i) {
        const double g = before.grad[i] * scale;
        const double kept = 0.9 * before.exp_avg[i], fresh = 0.1 * g;
        const double m = kept + fresh;
        const double v = 0.999 * before.exp_avg_sq[i] + 0.001 * g * g;
        const double shrink = static_cast<int64_t>(i) < decay_end ? 1 - 1e-2 * 0.1 : 1.0;
        const double over = std::sqrt(v) * root + 1e-8;
        const double w = before.weight[i] * shrink - size * m / over;
        // g carries its scale's 3 roundings; constants and products one each.
        const double of_m = 7 * kUnit * (std::abs(kept) + std::abs(fresh));
        EXPECT_NEAR(s.exp_avg[i], m, of_m);
        EXPECT_NEAR(s.exp_avg_sq[i], v, 12 * kUnit * v);
        const double of_w = size / over * (of_m + 12 * kUnit * std::abs(m)) +
                            3 * kUnit * std::abs(before.weight[i]) + kUnit * std::abs(w);
        EXPECT_NEAR(s.weight[i], w, of_w) << i;
        EXPECT_NEAR(s.ema[i],
                    0.9 * before.ema[i] + 0.1 * w,
                    of_w + 5 * kUnit * (std::abs(w) + std::abs(before.ema[i])));
        EXPECT_EQ(s.half[i].bits, __float2bfloat16_rn(s.weight[i]).bits);
      }
    }
}

TEST(EmulatedAdamw, ABadStepMovesTheTallyAlone) {
  for (const int kind : {0, 1, 2}) {
    const State before(1028);
    State s(1028);
    if (kind == 0) s.loss = std::nanf("");
    if (kind == 1) s.grad[1027] = HUGE_VALF;
    if (kind == 2) s.grad[5] = std::nanf("");
    ASSERT_EQ(run(s.of(512, 1.0)), 0);
    EXPECT_EQ(s.weight, before.weight);
    EXPECT_EQ(s.exp_avg, before.exp_avg);
    EXPECT_EQ(s.exp_avg_sq, before.exp_avg_sq);
    EXPECT_EQ(s.ema, before.ema);
    EXPECT_EQ(s.updates, 4);
    EXPECT_EQ(s.tally[Tally::steps], 1);
    EXPECT_EQ(s.tally[Tally::good], 0);
    EXPECT_EQ(s.tally[Tally::loss], 0);
    EXPECT_EQ(s.tally[Tally::skipped], 1);
    EXPECT_EQ(s.tally[Tally::skipped_in_row], 3);
    EXPECT_EQ(s.tally[Tally::longest_row], 3);
    EXPECT_EQ(s.tally[Tally::ema_initial], 0.5);
  }
}

TEST(EmulatedAdamw, ASpikeMovesTallyAndWindowAlone) {
  // Rings of known values, of which one is overwritten.
  const auto with_window = [](double seen, double norms) {
    std::vector<double> window(SpikeWindow::count, 0.0);
    window[SpikeWindow::seen] = seen;
    for (int64_t i = 0; i < SpikeWindow::kLength; ++i) {
      window[static_cast<size_t>(SpikeWindow::losses + i)] = 1 + 0.01 * static_cast<double>(i % 5);
      window[static_cast<size_t>(SpikeWindow::norms + i)] =
          norms + 0.1 * static_cast<double>(i % 7);
    }
    return window;
  };
  const auto at = [](const std::vector<double>& window, int64_t ring, double deviations) {
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < 128; ++i) mean += window[static_cast<size_t>(ring + i)] / 128;
    for (int64_t i = 0; i < 128; ++i) {
      const double off = window[static_cast<size_t>(ring + i)] - mean;
      variance += off * off / 128;
    }
    return mean + deviations * std::sqrt(variance);
  };
  struct Case {
    double seen;
    float loss;
    double norms;  // mean of the ring of norms; that of 1028 normals is near 32
    bool spike;
  };
  for (const Case& c : std::vector<Case>{{130, 1.0f, 33, false},
                                         {130, 1.2f, 33, true},   // 1.02 +- 0.014
                                         {130, 9.0f, 33, true},   // beyond kFarthest
                                         {130, 1.0f, 25, true},   // the gradient alone
                                         {127, 9.0f, 25, false},  // before the window is full
                                         {130, std::nanf(""), 33, false}}) {
    SCOPED_TRACE(testing::Message() << c.seen << " " << c.loss << " " << c.norms);
    const State before(1028);
    for (const Order order : {Order::forward, Order::shuffled}) {
      State s(1028);
      s.loss = c.loss;
      const std::vector<double> old = with_window(c.seen, c.norms);
      std::vector<double> window = old;
      kernels::AdamwUpdate u = s.of(512, 1.0);
      u.spike_z = 6;
      u.spikes = window.data();
      cuda_emulation::settings() = {.order = order, .seed = 3};
      ASSERT_EQ(run(u), 0);
      cuda_emulation::settings() = {};
      const bool skipped = c.spike || !std::isfinite(c.loss);
      EXPECT_EQ(s.weight == before.weight, skipped);
      EXPECT_EQ(s.updates, skipped ? 4 : 5);
      EXPECT_EQ(s.tally[Tally::skipped], skipped ? 1 : 0);
      EXPECT_EQ(s.tally[Tally::skipped_in_row], skipped ? 3 : 0);
      if (!std::isfinite(c.loss)) {
        EXPECT_EQ(window, old);
        continue;
      }
      EXPECT_EQ(window[SpikeWindow::seen], c.seen + 1);
      EXPECT_EQ(window[SpikeWindow::spikes], c.spike ? 1 : 0);
      double squares = 0;
      for (const float g : before.grad) squares += static_cast<double>(g) * g;
      const double norm = std::sqrt(squares), loss = static_cast<double>(c.loss);
      const bool full = c.seen >= 128;
      const auto place = static_cast<size_t>(static_cast<int64_t>(c.seen) % 128);
      // 128 additions of float64 each; the norm is a float32.
      EXPECT_NEAR(window[SpikeWindow::losses + place],
                  full ? std::min(loss, at(old, SpikeWindow::losses, 24)) : loss,
                  1e-12);
      EXPECT_NEAR(window[SpikeWindow::norms + place],
                  full ? std::min(norm, at(old, SpikeWindow::norms, 24)) : norm,
                  2 * kUnit * norm);
      for (size_t i = SpikeWindow::losses; i < SpikeWindow::count; ++i) {
        if (i == SpikeWindow::losses + place || i == SpikeWindow::norms + place) continue;
        EXPECT_EQ(window[i], old[i]);
      }
    }
  }
}

}  // namespace
}  // namespace diffuse
