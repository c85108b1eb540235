// SPDX-License-Identifier: MIT
#include "samplers/ddim.h"

#include <cmath>

namespace diffuse {

void Ddim::fields(Fields& f) {
  f(eta, "eta", "noise of a step: 0 none, 1 as much as ddpm with fixed_small")
      .at_least(0)
      .at_most(1)
      .free_on_resume();
}

std::vector<SamplerStep> Ddim::operator()(const SamplerQuery& q) const {
  std::vector<SamplerStep> steps;
  for (int64_t t = q.chain.steps() - 1; t >= 0; --t) {
    const auto i = static_cast<size_t>(t);
    SamplerStep step;
    step.level = q.chain.level(t);
    step.timestep = q.chain.timestep[i];
    // eq. 16, on any path: eta^2 times the posterior variance.
    step.noise = eta * std::sqrt(q.chain.posterior_variance[i]);
    // eq. 12: alpha_s x_hat + sqrt(sigma_s^2 - noise^2) eps_hat, eps_hat = (x - alpha x_hat) /
    // sigma
    const double direction = std::sqrt(q.chain.sigma2_prev[i] - step.noise * step.noise);
    step.c_x = direction / step.level.sigma;
    step.c_x_hat = std::sqrt(q.chain.alpha_bar_prev[i]) - step.c_x * step.level.alpha;
    steps.push_back(step);
  }
  return steps;
}

}  // namespace diffuse
