// SPDX-License-Identifier: MIT
#include "diffusion/objective.h"

#include <ATen/ATen.h>

namespace diffuse {
namespace {

at::Tensor table(std::vector<double> values, at::Device device) {
  return at::tensor(values, at::kDouble).to(at::kFloat).to(device);
}

/// [n] values of a table as [n, 1, 1, 1], in the type of `like`.
at::Tensor rows(const at::Tensor& values, const at::Tensor& t, const at::Tensor& like) {
  return values.index_select(0, t).to(like.scalar_type()).view({-1, 1, 1, 1});
}

}  // namespace

Objective::Objective(const DiffusionOptions& options, at::Device device)
    : chain_(make_chain(options)) {
  std::vector<double> alpha, sigma, x0, eps, time;
  for (int64_t t = 0; t < chain_.steps(); ++t) {
    const Level level = chain_.level(t);
    const TargetCoefficients target = target_coefficients(options.target, level);
    alpha.push_back(level.alpha);
    sigma.push_back(level.sigma);
    x0.push_back(target.x0);
    eps.push_back(target.eps);
    time.push_back(options.target(level).c_noise);
  }
  alpha_ = table(alpha, device);
  sigma_ = table(sigma, device);
  target_x0_ = table(x0, device);
  target_eps_ = table(eps, device);
  time_ = table(time, device);
  weight_ =
      table(network_weights(
                chain_, options.target, options.weighting, options.weight_on, options.variance),
            device);
}

at::Tensor Objective::mix(const at::Tensor& a_table,
                          const at::Tensor& a,
                          const at::Tensor& b_table,
                          const at::Tensor& b,
                          const at::Tensor& t) const {
  return at::addcmul(at::mul(a, rows(a_table, t, a)), b, rows(b_table, t, b));
}

at::Tensor Objective::noise(const at::Tensor& x0,
                            const at::Tensor& eps,
                            const at::Tensor& t) const {
  return mix(alpha_, x0, sigma_, eps, t);
}

at::Tensor Objective::target(const at::Tensor& x0,
                             const at::Tensor& eps,
                             const at::Tensor& t) const {
  return mix(target_x0_, x0, target_eps_, eps, t);
}

at::Tensor Objective::time(const at::Tensor& t) const { return time_.index_select(0, t); }

Objective::Loss Objective::loss(const at::Tensor& output,
                                const at::Tensor& x0,
                                const at::Tensor& eps,
                                const at::Tensor& t) const {
  // A bfloat16 network's output is compared in float32.
  const at::Tensor error = at::sub(output.to(x0.scalar_type()), target(x0, eps, t));
  const at::Tensor raw = at::mean(at::square(error), {1, 2, 3});
  return {.weighted = at::mul(raw, weight_.index_select(0, t).to(raw.scalar_type())),
          .raw = raw.detach()};
}

}  // namespace diffuse
