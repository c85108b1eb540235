// SPDX-License-Identifier: MIT
#include "train/optimizer.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "ops/adamw.h"
#include "ops/cuda.h"
#include "support/threads.h"
#include "train/lr.h"

namespace diffuse {
namespace {

ParamLayout small_layout() {
  ParamLayout layout;
  layout.add("a.weight", {4, 5}, Init::uniform(1.0));
  layout.add("a.bias", {5}, Init::uniform(1.0));
  layout.finalize();
  return layout;
}

/// More values than the kernels' pieces of 65,536 are long, decayed and not, and no multiple of it.
ParamLayout large_layout() {
  ParamLayout layout;
  layout.add("a.weight", {311, 433}, Init::uniform(1.0));
  layout.add("a.bias", {70'001}, Init::uniform(1.0));
  layout.finalize();
  return layout;
}

TrainState initial_state(const ParamLayout& layout) {
  return TrainState(layout, layout.initial(3));
}

void set_gradient(TrainState& state, const ParamLayout& layout, uint64_t seed, double scale) {
  // Only real elements: the padding's gradient is zero in training.
  const Weights from = layout.views(layout.initial(seed));
  const Weights to = layout.views(state.params.grad());
  for (size_t i = 0; i < to.size(); ++i) to[i].copy_(from[i] * scale);
}

TEST(LearningRate, WarmsUpAndDecays) {
  OptimOptions o;
  o.lr = 1.0;
  o.warmup_steps = 10;
  EXPECT_DOUBLE_EQ(learning_rate(o, 0, 110), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate(o, 9, 110), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate(o, 60, 110), 1.0);
  o.decay = Decay::linear;
  EXPECT_DOUBLE_EQ(learning_rate(o, 60, 110), 0.5);
  o.decay = Decay::cosine;
  EXPECT_NEAR(learning_rate(o, 60, 110), 0.5, 1e-15);
  EXPECT_NEAR(learning_rate(o, 35, 110), 0.5 * (1 + std::sqrt(0.5)), 1e-15);
  EXPECT_NEAR(learning_rate(o, 110, 110), 0, 1e-15);
  o.warmup_steps = 0;
  EXPECT_DOUBLE_EQ(learning_rate(o, 0, 110), 1.0);
}

TEST(EmaDecay, WarmsUpToTheConstant) {
  OptimOptions o;
  o.ema_decay = 0.9999;
  EXPECT_EQ(ema_decay(o, 1), 0);                    // the first average is the first weights
  EXPECT_NEAR(ema_decay(o, 10'000), 0.999, 1e-12);  // 1 - n^-3/4
  EXPECT_EQ(ema_decay(o, 1'000'000), 0.9999);
  o.ema_power = 0;
  EXPECT_EQ(ema_decay(o, 1), 0.9999);
}

/// AdamW with clipping and EMA as printed (Loshchilov & Hutter 2019, algorithm 2), in float64.
struct Reference {
  at::Tensor theta, m, v, ema;
  int64_t n = 0;
  void step(const OptimOptions& o,
            at::Tensor g,
            double lr,
            double weight_decay,
            double global_norm,
            double decay) {
    ++n;
    if (o.grad_clip > 0 && global_norm > o.grad_clip) g = g * (o.grad_clip / global_norm);
    theta = theta * (1 - lr * weight_decay);
    m = o.betas[0] * m + (1 - o.betas[0]) * g;
    v = o.betas[1] * v + (1 - o.betas[1]) * g * g;
    const at::Tensor m_hat = m / (1 - std::pow(o.betas[0], n));
    const at::Tensor v_hat = v / (1 - std::pow(o.betas[1], n));
    theta = theta - lr * m_hat / (v_hat.sqrt() + o.eps);
    ema = decay * ema + (1 - decay) * theta;
  }
};

class OptimizerTest : public testing::TestWithParam<std::tuple<bool, bool, bool>> {};

TEST_P(OptimizerTest, IsAdamWWithClippingAndEma) {
  const auto [decay_all, fused, large] = GetParam();
  const ParamLayout layout = large ? large_layout() : small_layout();
  TrainState state = initial_state(layout);
  OptimOptions o;
  o.lr = 0.01;
  o.warmup_steps = 3;
  o.weight_decay = 0.1;
  o.decay_norms_and_biases = decay_all;
  o.grad_clip = 1.0;
  o.ema_decay = 0.9;
  std::vector<Reference> reference;
  for (const at::Tensor& w : layout.views(state.params.flat())) {
    const at::Tensor theta = w.to(at::kDouble);
    reference.push_back({theta, at::zeros_like(theta), at::zeros_like(theta), theta.clone()});
  }
  double initial_share = 1;
  for (int64_t step = 0; step < 8; ++step) {
    set_gradient(state,
                 layout,
                 100 + static_cast<uint64_t>(step),
                 step % 2 ? 0.01 : 10.0);  // unclipped, clipped
    std::vector<at::Tensor> g;
    double squares = 0;
    for (const at::Tensor& t : layout.views(state.params.grad())) {
      g.push_back(t.to(at::kDouble).clone());
      squares += g.back().square().sum().item<double>();
    }
    for (size_t i = 0; i < reference.size(); ++i) {
      const bool decayed = decay_all || layout.infos()[i].decay;
      reference[i].step(o,
                        g[i],
                        learning_rate(o, step, 100),
                        decayed ? o.weight_decay : 0,
                        std::sqrt(squares),
                        ema_decay(o, step + 1));
    }
    update(state, layout, o, 100, at::scalar_tensor(0.5), at::scalar_tensor(0.25), fused);
    ++state.step;
    initial_share *= ema_decay(o, step + 1);
  }
  const Weights theta = layout.views(state.params.flat()), ema = layout.views(state.ema);
  for (size_t i = 0; i < reference.size(); ++i) {
    // 8 updates of about lr: float32 rounding of values below 2.
    EXPECT_LT((theta[i].to(at::kDouble) - reference[i].theta).abs().max().item<double>(),
              8 * 2.4e-7);
    EXPECT_LT((ema[i].to(at::kDouble) - reference[i].ema).abs().max().item<double>(), 16 * 2.4e-7);
  }
  EXPECT_EQ(state.updates.item<float>(), 8);
  EXPECT_EQ(state.tally[Tally::good].item<double>(), 8);
  EXPECT_DOUBLE_EQ(state.tally[Tally::loss].item<double>(), 4);
  EXPECT_DOUBLE_EQ(state.tally[Tally::loss_raw].item<double>(), 2);
  EXPECT_NEAR(state.tally[Tally::ema_initial].item<double>(), initial_share, 1e-12);
}

INSTANTIATE_TEST_SUITE_P(DecayAllFusedLarge,
                         OptimizerTest,
                         testing::Combine(testing::Bool(), testing::Bool(), testing::Bool()));

TEST(NormOf, IsTheNormForAnyNumberOfThreads) {
  const ParamLayout layout = large_layout();
  const Threads restored;
  // The pieces' ends alone, then all values.
  const at::Tensor ends = at::zeros({layout.flat_size()});
  ends.index_fill_(0, at::tensor({0, 65'535, 65'536, 131'071, 131'072}, at::kLong), 3);
  ends[-1].fill_(-2);
  EXPECT_EQ(norm_of(ends), 7);
  const at::Tensor flat = layout.initial(4);
  const double want = flat.to(at::kDouble).norm().item<double>();
  at::set_num_threads(1);
  const double alone = norm_of(flat);
  at::set_num_threads(5);
  const double shared = norm_of(flat);
  EXPECT_EQ(alone, shared);
  // 4,096 squares, each rounded once, are added up in at least 16 sums in float32; what follows is
  // in float64. The root halves a relative error.
  EXPECT_NEAR(alone, want, (4096.0 / 16 + 4) * 0x1p-24 / 2 * want);
}

TEST(Update, ThreadsChangeNothing) {
  const ParamLayout layout = large_layout();
  const Threads restored;
  std::vector<TrainState> states;
  for (const int count : {1, 5}) {
    at::set_num_threads(count);
    states.push_back(initial_state(layout));
    states.back().params.keep_half(layout);
    for (uint64_t step = 0; step < 3; ++step) {
      set_gradient(states.back(), layout, 100 + step, 1);
      update(states.back(), layout, {}, 100, at::scalar_tensor(1.0), at::scalar_tensor(1.0), true);
      ++states.back().step;
    }
  }
  const TrainState &a = states[0], &b = states[1];
  EXPECT_TRUE(at::equal(a.params.flat(), b.params.flat()));
  EXPECT_TRUE(at::equal(a.params.half(), b.params.half()));
  EXPECT_TRUE(at::equal(a.ema, b.ema));
  EXPECT_TRUE(at::equal(a.exp_avg, b.exp_avg) && at::equal(a.exp_avg_sq, b.exp_avg_sq));
  EXPECT_TRUE(at::equal(a.tally, b.tally));
}

class KeptHalf : public testing::TestWithParam<bool> {};

// The bfloat16 copy follows the weights in every piece, and stays when they do.
TEST_P(KeptHalf, IsTheRoundedWeights) {
  const ParamLayout layout = large_layout();
  TrainState state = initial_state(layout);
  OptimOptions o;
  o.lr = 0.1;
  o.warmup_steps = 0;
  o.weight_decay = 0.1;
  state.params.keep_half(layout);
  const at::Tensor before = state.params.half().clone();
  for (const double loss : {1.0, std::nan(""), 1.0}) {
    set_gradient(state, layout, 100, 1);
    update(state, layout, o, 100, at::scalar_tensor(loss), at::scalar_tensor(1.0), GetParam());
    EXPECT_TRUE(at::equal(state.params.half(), state.params.flat().to(at::kBFloat16)));
  }
  // By steps of about lr, which is more than bfloat16's last bit.
  EXPECT_GT((state.params.half() != before).sum().item<int64_t>(), layout.count() / 2);
}

INSTANTIATE_TEST_SUITE_P(Fused, KeptHalf, testing::Bool());

class NonFinite : public testing::TestWithParam<bool> {};

TEST_P(NonFinite, LossOrGradientChangesNothing) {
  const bool fused = GetParam();
  const double inf = std::numeric_limits<double>::infinity();
  const ParamLayout layout = small_layout();
  for (const double bad : {inf, -inf, std::nan("")}) {
    for (const bool in_loss : {true, false}) {
      TrainState state = initial_state(layout);
      const OptimOptions o;
      set_gradient(state, layout, 9, 1);
      update(state, layout, o, 100, at::scalar_tensor(1.0), at::scalar_tensor(1.0), fused);
      ++state.step;
      const at::Tensor before[] = {state.params.flat().clone(),
                                   state.ema.clone(),
                                   state.exp_avg.clone(),
                                   state.exp_avg_sq.clone()};
      if (!in_loss) layout.views(state.params.grad())[1][2].fill_(bad);
      update(state,
             layout,
             o,
             100,
             at::scalar_tensor(in_loss ? bad : 1.0),
             at::scalar_tensor(1.0),
             fused);
      ++state.step;
      EXPECT_TRUE(at::equal(before[0], state.params.flat()));
      EXPECT_TRUE(at::equal(before[1], state.ema));
      EXPECT_TRUE(at::equal(before[2], state.exp_avg));
      EXPECT_TRUE(at::equal(before[3], state.exp_avg_sq));
      EXPECT_EQ(state.updates.item<float>(), 1);
      EXPECT_EQ(state.tally[Tally::steps].item<double>(), 2);
      EXPECT_EQ(state.tally[Tally::good].item<double>(), 1);
      EXPECT_EQ(state.tally[Tally::skipped].item<double>(), 1);
      EXPECT_EQ(state.tally[Tally::skipped_in_row].item<double>(), 1);
      EXPECT_EQ(state.tally[Tally::loss].item<double>(), 1);
      // A good step ends the row.
      set_gradient(state, layout, 10, 1);
      update(state, layout, o, 100, at::scalar_tensor(1.0), at::scalar_tensor(1.0), fused);
      EXPECT_EQ(state.tally[Tally::skipped_in_row].item<double>(), 0);
      EXPECT_EQ(state.tally[Tally::skipped].item<double>(), 1);
      EXPECT_TRUE(at::isfinite(state.params.flat()).all().item<bool>());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Fused, NonFinite, testing::Bool());

TEST(UpdateOnAGpu, EqualsTheComposedBody) {
  std::string why;
  if (open_cuda(&why) == nullptr) GTEST_SKIP() << "no GPU: " << why;
  const at::Device gpu(at::kCUDA, 0);
  ParamLayout layout;
  layout.add("a.weight", {33, 7, 3, 3}, Init::uniform(1.0), true);
  layout.add("a.bias", {33}, Init::uniform(1.0));
  layout.finalize();
  OptimOptions o;
  o.lr = 0.01;
  o.warmup_steps = 3;
  o.weight_decay = 0.1;
  o.grad_clip = 1.0;
  o.ema_decay = 0.9;
  TrainState host(layout, layout.initial(3)), there(layout, layout.initial(3).to(gpu));
  there.params.keep_half(layout);
  for (int64_t step = 0; step < 8; ++step) {
    const double loss = step == 5 ? std::nan("") : 0.5;
    set_gradient(host, layout, 100 + static_cast<uint64_t>(step), step % 2 ? 0.001 : 10.0);
    there.params.grad().copy_(host.params.grad());
    update(host, layout, o, 100, at::scalar_tensor(loss), at::scalar_tensor(0.25), false);
    set_rates(there, o, 100);
    update(there,
           layout,
           o,
           100,
           at::scalar_tensor(loss).to(gpu),
           at::scalar_tensor(0.25).to(gpu),
           true);
    ++host.step;
    ++there.step;
  }
  // As above: 8 updates of about lr of values below 2.
  EXPECT_LT((there.params.flat().cpu() - host.params.flat()).abs().max().item<double>(),
            16 * 2.4e-7);
  EXPECT_LT((there.ema.cpu() - host.ema).abs().max().item<double>(), 32 * 2.4e-7);
  EXPECT_TRUE(at::equal(there.params.half(), there.params.flat().to(at::kBFloat16)));
  EXPECT_EQ(there.updates.item<float>(), 7);
  EXPECT_TRUE(at::allclose(there.tally.cpu(), host.tally, 1e-6, 0));
}

/// What the guard should do, written out again: the step's verdict, and the rings after it.
struct PlainGuard {
  std::vector<double> rings[2];
  bool step(double z, double loss, double norm) {
    const double values[] = {loss, norm};
    bool spike = false;
    for (int i = 0; i < 2; ++i) {
      std::vector<double>& ring = rings[i];
      double entry = values[i];
      if (ring.size() >= 128) {
        double mean = 0, variance = 0;
        const std::vector<double> last(ring.end() - 128, ring.end());
        for (const double x : last) mean += x / 128;
        for (const double x : last) variance += (x - mean) * (x - mean) / 128;
        const double deviation = std::sqrt(variance);
        if (variance > 0) entry = std::min(entry, mean + std::max(z, 24.0) * deviation);
        spike = spike || (variance > 0 && values[i] > mean + z * deviation);
      }
      ring.push_back(entry);
    }
    return spike;
  }
};

class SpikeGuard : public testing::TestWithParam<bool> {};

TEST_P(SpikeGuard, SkipsWhatIsFarAboveTheLastSteps) {
  const bool fused = GetParam();
  const ParamLayout layout = small_layout();
  TrainState state = initial_state(layout);
  OptimOptions o;
  o.spike_guard = 6;
  PlainGuard plain;
  int64_t spikes = 0;
  const auto step = [&](double loss, double gradient) {
    set_gradient(state, layout, 100 + static_cast<uint64_t>(state.step), gradient);
    const double norm = at::linalg_vector_norm(state.params.grad()).item<float>();
    const at::Tensor before = state.params.flat().clone();
    const bool finite = std::isfinite(loss);
    const bool spike = finite && plain.step(o.spike_guard, static_cast<float>(loss), norm);
    update(state, layout, o, 1000, at::scalar_tensor(loss), at::scalar_tensor(loss), fused);
    ++state.step;
    spikes += spike;
    EXPECT_EQ(at::equal(before, state.params.flat()), spike || !finite) << state.step;
    EXPECT_EQ(state.spikes[SpikeWindow::spikes].item<double>(), static_cast<double>(spikes));
    return spike;
  };
  // Nothing is known yet, so nothing is judged.
  EXPECT_FALSE(step(1e9, 1));
  for (int i = 0; i < 127; ++i) EXPECT_FALSE(step(1 + 0.01 * (i % 7), 0.01));
  for (int i = 0; i < 128; ++i) EXPECT_FALSE(step(1 + 0.01 * (i % 7), 0.01));  // 1e9 leaves
  EXPECT_FALSE(step(0, 0.001));                                                // below is no spike
  EXPECT_TRUE(step(1e6, 0.01));
  EXPECT_TRUE(step(1e6, 0.01));  // the first does not hide the second
  EXPECT_TRUE(step(1, 1e6));     // the gradient alone
  EXPECT_FALSE(step(1, 0.01));
  const at::Tensor window = state.spikes.clone();
  EXPECT_FALSE(step(std::nan(""), 0.01));  // skipped, but leaves no trace
  EXPECT_TRUE(at::equal(window, state.spikes));
  // A lasting change becomes the norm before optim.max_skips_in_row is reached.
  int64_t skips = 0;
  while (skips < 20 && step(50, 0.01)) ++skips;
  EXPECT_LT(skips, 20);
  EXPECT_GT(skips, 0);
  EXPECT_EQ(state.tally[Tally::skipped].item<double>(), static_cast<double>(spikes + 1));
}

TEST_P(SpikeGuard, JudgesNothingWhereAllStepsAreEqual) {
  const ParamLayout layout = small_layout();
  TrainState state = initial_state(layout);
  OptimOptions o;
  o.spike_guard = 6;
  for (int i = 0; i < 131; ++i) {
    set_gradient(state, layout, 7, 1);
    const double loss = i < 130 ? 1 : 1.5;
    update(state, layout, o, 1000, at::scalar_tensor(loss), at::scalar_tensor(1.0), GetParam());
    ++state.step;
  }
  EXPECT_EQ(state.updates.item<float>(), 131);
}

INSTANTIATE_TEST_SUITE_P(Fused, SpikeGuard, testing::Bool());

}  // namespace
}  // namespace diffuse
