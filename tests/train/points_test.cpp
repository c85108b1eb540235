// SPDX-License-Identifier: MIT
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <optional>

#include "data/point_batches.h"
#include "diffusion/denoiser.h"
#include "ops/noise.h"
#include "train/train.h"

// A network trained on points whose best denoiser is known.

namespace diffuse {
namespace {

constexpr int64_t kBatch = 256;

/// A Gaussian learned for `steps` steps.
struct Learned {
  explicit Learned(int64_t steps) {
    mlp.hidden = 32;
    mlp.layers = 2;
    mlp.fourier_octaves = 0;
    diffusion.steps = 100;
    diffusion.target.select("x0");
    diffusion.weight_on = WeightOn::network;  // |x_hat - x_0|^2 as it is
    network.emplace(mlp, 2, 2, 0);
    objective.emplace(diffusion, at::kCPU, 0);
    times.emplace(diffusion.time_sampler, objective->process().bin_edges());
    OptimOptions optim;
    optim.lr = 5e-3;
    optim.warmup_steps = 20;
    optim.decay = Decay::cosine;
    state.emplace(network->layout(), network->layout().initial(1));
    PointBatches batches(GaussianPoints{}(), kBatch, 1, 0);
    train(*state,
          {.network = *network,
           .objective = *objective,
           .times = *times,
           .image_shape = {2, 1, 1},
           .optim = optim,
           .steps = steps,
           .batch = kBatch,
           .micro_batch = kBatch,
           .seed = 1,
           .bf16 = false},
          batches,
          {},
          [] { return false; });
  }

  at::Tensor x_hat(const at::Tensor& z, const Level& level) const {
    const Network f = [&](const at::Tensor& x, const at::Tensor& t) {
      return network->forward(network->layout().views(state->params.flat()), x, t, {}, nullptr);
    };
    return make_denoiser(f, diffusion.target, false)(z, level).x_hat;
  }

  MlpOptions mlp;
  DiffusionOptions diffusion;
  std::optional<Model> network;
  std::optional<Objective> objective;
  std::optional<TimeDraw> times;
  std::optional<TrainState> state;
};

TEST(Points, ATrainedNetworkComesCloseToTheExactMinimumAndNeverBelow) {
  const at::NoGradGuard no_grad;
  Learned* trained = nullptr;
  {
    const at::AutoGradMode grad(true);
    static Learned learned(400);
    trained = &learned;
  }
  const auto truth = GaussianPoints{}();
  constexpr int64_t n = 20'000;
  at::Tensor x0 = at::empty({n, 2, 1, 1}, at::kFloat), eps = at::empty_like(x0);
  const std::vector<Point> points = sample_points(*truth, 99, 0, n);  // none that it has seen
  for (int64_t i = 0; i < n; ++i) {
    x0.mutable_data_ptr<float>()[2 * i] = static_cast<float>(points[static_cast<size_t>(i)].x);
    x0.mutable_data_ptr<float>()[2 * i + 1] = static_cast<float>(points[static_cast<size_t>(i)].y);
  }
  fill_normal(eps, 99, Purpose::noise, 0, 0);
  const double variance = 0.25 * 0.25 + 0.15 * 0.15;  // of x0, both coordinates together
  for (const int64_t t : {5, 15, 25, 35}) {
    const Level level = trained->objective->process().chain().level(t);
    const auto noised = truth->noised(level.alpha, level.sigma);
    const double least = noised->minimal_loss().value;
    const at::Tensor z = x0 * level.alpha + eps * level.sigma;
    at::Tensor best = at::empty_like(x0);
    for (int64_t i = 0; i < n; ++i) {
      const float* at_z = z.const_data_ptr<float>() + 2 * i;
      const Point p = (*noised)({at_z[0], at_z[1]}).x_hat;
      best.mutable_data_ptr<float>()[2 * i] = static_cast<float>(p.x);
      best.mutable_data_ptr<float>()[2 * i + 1] = static_cast<float>(p.y);
    }
    const at::Tensor x_hat = trained->x_hat(z, level);
    const auto squares = [](const at::Tensor& d) {
      return at::square(d.to(at::kDouble)).sum({1, 2, 3});
    };
    const at::Tensor losses = squares(x_hat - x0);
    const double loss = losses.mean().item<double>();
    const double excess = squares(x_hat - best).mean().item<double>();
    // |x_hat - x0|^2 = |x_hat - E|^2 + |E - x0|^2 + a product whose mean is 0, as E = E[x0 | z]:
    // the loss is the minimum plus the distance to the best denoiser, to the error of the mean.
    const double error = (losses - squares(x_hat - best)).std().item<double>() / std::sqrt(n);
    EXPECT_NEAR(loss, least + excess, 5 * error) << t;
    EXPECT_GT(loss, least - 5 * losses.std().item<double>() / std::sqrt(n)) << t;
    // Of what can be known of x0 at all, nine tenths are learned: untrained it is nothing.
    EXPECT_LT(excess, 0.1 * (variance - least)) << t;
  }
}

}  // namespace
}  // namespace diffuse
