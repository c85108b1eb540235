// SPDX-License-Identifier: MIT
#include "likelihood/flow.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/random.h"

namespace diffuse {
namespace {

/// log(1 + e^x) without overflow.
double softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }

/// Signs of +1 and -1, [n, d] of the type and device of `like`: row i is the stream {seed, probe,
/// number, first_sample + i}, a bit an element.
at::Tensor rademacher(const at::Tensor& like, uint64_t seed, int64_t number, int64_t first_sample) {
  const int64_t rows = like.size(0);
  const int64_t size = like.numel() / rows;
  const at::Tensor signs = at::empty({rows, size}, at::kFloat);
  auto* const data = signs.mutable_data_ptr<float>();
  for (int64_t row = 0; row < rows; ++row) {
    const Stream stream{seed,
                        Purpose::probe,
                        static_cast<uint64_t>(number),
                        static_cast<uint64_t>(first_sample + row)};
    uint64_t bits = 0;
    for (int64_t e = 0; e < size; ++e) {
      if (e % 64 == 0) bits = random_bits(stream, static_cast<uint32_t>(e / 64));
      data[row * size + e] = (bits >> (e % 64)) & 1 ? 1.0f : -1.0f;
    }
  }
  return signs.view(like.sizes()).to(like.options());
}

at::Tensor vector_jacobian(const at::Tensor& output,
                           const at::Tensor& input,
                           const at::Tensor& vector,
                           bool keep_graph) {
  return torch::autograd::grad({output}, {input}, {vector}, keep_graph)[0];
}

struct Denoised {
  at::Tensor x_hat;  // float64, of the shape of z
  at::Tensor
      divergence;  // [n, max(probes, 1)] float64: of x_hat as a function of z, for each probe
};

Denoised denoise_with_divergence(const Denoise& denoise,
                                 const at::Tensor& z,
                                 const Level& level,
                                 const std::vector<at::Tensor>& probes) {
  const at::AutoGradMode grad(true);
  const at::Tensor input = z.detach().requires_grad_(true);
  const at::Tensor x_hat = denoise(input, level).x_hat;
  DIFFUSE_CHECK(x_hat.sizes() == z.sizes() && x_hat.requires_grad());
  std::vector<at::Tensor> columns;
  if (probes.empty()) {
    const int64_t size = z.numel() / z.size(0);
    at::Tensor trace = at::zeros({z.size(0)}, z.options().dtype(at::kDouble));
    for (int64_t e = 0; e < size; ++e) {
      at::Tensor unit = at::zeros({z.size(0), size}, x_hat.options().requires_grad(false));
      unit.select(1, e).fill_(1);
      const at::Tensor row = vector_jacobian(x_hat, input, unit.view(z.sizes()), e + 1 < size);
      trace = trace + row.flatten(1).select(1, e).to(at::kDouble);
    }
    columns.push_back(trace);
  }
  for (size_t k = 0; k < probes.size(); ++k) {
    // Hutchinson 1990: E[probe^T J probe] = tr J (Song et al. 2021, eq. 40).
    const at::Tensor product =
        vector_jacobian(x_hat, input, probes[k].to(x_hat.scalar_type()), k + 1 < probes.size());
    columns.push_back(product.to(at::kDouble).mul(probes[k]).flatten(1).sum(1));
  }
  return {.x_hat = x_hat.detach().to(at::kDouble), .divergence = at::stack(columns, 1).detach()};
}

}  // namespace

FlowLikelihood flow_likelihood(const Denoise& denoise,
                               const LevelAt& level_at,
                               const at::Tensor& x,
                               int64_t first_sample,
                               const FlowOptions& options) {
  DIFFUSE_CHECK(x.dim() >= 2 && options.probes >= 0);
  DIFFUSE_CHECK(std::isfinite(options.logsnr_clean) && std::isfinite(options.logsnr_noisy) &&
                options.logsnr_clean > options.logsnr_noisy);
  const int64_t n = x.size(0);
  const int64_t columns = std::max<int64_t>(options.probes, 1);
  const at::NoGradGuard no_grad;
  const at::TensorOptions float64 = x.options().dtype(at::kDouble);
  if (x.numel() == 0)
    return {.nats = at::empty({n}, float64),
            .probe = at::empty({n, columns}, float64),
            .prior = at::empty({n}, float64),
            .evaluations = 0,
            .accepted = 0,
            .rejected = 0};
  const int64_t size = x.numel() / n;
  const auto d = static_cast<double>(size);
  if (options.probes == 0 && size > kMaxExactDimensions)
    throw Error(Exit::usage,
                "the exact divergence takes a backward pass for each of " + std::to_string(size) +
                    " dimensions, which is allowed up to " + std::to_string(kMaxExactDimensions) +
                    ": ask for random probes instead");

  const at::Tensor data = x.to(at::kDouble);
  std::vector<at::Tensor> probes;  // one set for the whole way: log p is that of one smooth ODE
  for (int64_t k = 0; k < options.probes; ++k)
    probes.push_back(rademacher(data, options.seed, k, first_sample));

  // In y, with c = sqrt(1 + e^2s): dy/ds = (x~ - D) / c - y c'/c = y / (1 + e^2s) - D / c, and
  // d log p_y / ds = -div_y of it = -(d / (1 + e^2s) - div_x~ D), where div_x~ D = alpha div_z D.
  const OdeFunction flow = [&](double s, const OdeState& state) -> OdeState {
    const Level level = level_at(-2 * s);
    const double scale = std::hypot(level.alpha, level.sigma);  // z = scale y
    const double c = std::exp(0.5 * softplus(2 * s));
    const double signal = std::exp(-softplus(2 * s));  // 1 / (1 + e^2s)
    const at::Tensor z = state[0].mul(scale).to(options.type);
    const Denoised denoised = denoise_with_divergence(denoise, z, level, probes);
    return {state[0].mul(signal).sub_(denoised.x_hat, 1 / c),
            denoised.divergence.mul(level.alpha / d).sub_(signal)};
  };

  const double s_clean = -options.logsnr_clean / 2;
  const double s_noisy = -options.logsnr_noisy / 2;
  const OdeResult end = solve_ode(
      flow,
      {data.mul(std::exp(-0.5 * softplus(2 * s_clean))), at::zeros({n, columns}, float64)},
      s_clean,
      s_noisy,
      options.ode);

  // log p_x~(clean) = log p_y(clean) - d log c, and log p_y(clean) = log p_y(noisy) less its change
  // on the way.
  const at::Tensor prior =
      end.y[0].square().flatten(1).sum(1).mul_(-0.5).sub_(0.5 * d * std::log(2 * std::numbers::pi));
  const at::Tensor probe =
      prior.unsqueeze(1).sub(end.y[1], d).sub_(0.5 * d * softplus(2 * s_clean));
  return {.nats = probe.mean(1),
          .probe = probe,
          .prior = prior,
          .evaluations = end.evaluations,
          .accepted = end.accepted,
          .rejected = end.rejected};
}

at::Tensor probe_error(const FlowLikelihood& likelihood) {
  const int64_t probes = likelihood.probe.size(1);
  if (probes < 2) return at::full_like(likelihood.nats, std::numeric_limits<double>::quiet_NaN());
  return likelihood.probe.std(1, /*unbiased=*/true).div_(std::sqrt(static_cast<double>(probes)));
}

double level_spacing(int bits) {
  DIFFUSE_CHECK(bits >= 1 && bits <= 16);
  return 2.0 / ((1 << bits) - 1);
}

at::Tensor dequantise(
    const at::Tensor& x, int bits, uint64_t seed, uint64_t draw, int64_t first_sample) {
  const double spacing = level_spacing(bits);
  const at::Tensor noise = at::empty(x.sizes(), at::kDouble);
  auto* const data = noise.mutable_data_ptr<double>();
  const int64_t rows = x.size(0);
  const int64_t size = rows > 0 ? x.numel() / rows : 0;
  for (int64_t row = 0; row < rows; ++row) {
    const Stream stream{seed, Purpose::dequantise, draw, static_cast<uint64_t>(first_sample + row)};
    for (int64_t e = 0; e < size; ++e)
      data[row * size + e] = (random_uniform(stream, static_cast<uint32_t>(e)) - 0.5) * spacing;
  }
  return x.to(at::kDouble).add(noise.to(x.device()));
}

double bin_offset(int bits) { return -std::log2(level_spacing(bits)); }

at::Tensor bits_per_dimension(const at::Tensor& nats, int64_t dimensions) {
  return nats.div(-static_cast<double>(dimensions) * std::numbers::ln2);
}

}  // namespace diffuse
