// SPDX-License-Identifier: MIT
#include "samplers/sample.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "base/error.h"
#include "ops/steady.h"

namespace diffuse {

at::Tensor run_sampler(const std::vector<SamplerStep>& steps,
                       const Denoise& denoise,
                       at::Tensor x,
                       const StepNoise& noise,
                       const StepObserver& observer) {
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < steps.size(); ++i) {
    const SamplerStep& step = steps[i];
    const Estimate estimate = denoise(x, step.level);
    const at::Tensor& x_hat = estimate.x_hat;
    // Ho et al. 2020, algorithm 2, line 4, with the mean in terms of x_hat (eq. 7).
    x = at::add(at::mul(x, step.c_x), x_hat, step.c_x_hat);
    if (step.learned) {
      DIFFUSE_CHECK(estimate.v.defined());
      // sigma = exp(1/2 log sigma^2): Nichol & Dhariwal 2021, eq. 15
      x.addcmul_(noise(x, step.timestep),
                 steady_exp(at::add(at::mul(estimate.v, step.log_slope / 2), step.log_offset / 2)));
    } else if (step.noise > 0) {
      x.add_(noise(x, step.timestep), step.noise);
    }
    if (observer && !observer(i, x, x_hat)) return {};
  }
  return x;
}

}  // namespace diffuse
