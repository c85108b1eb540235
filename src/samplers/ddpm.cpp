// SPDX-License-Identifier: MIT
#include "samplers/ddpm.h"

#include <cmath>

namespace diffuse {

std::vector<SamplerStep> Ddpm::operator()(const SamplerQuery& q) const {
  std::vector<SamplerStep> steps;
  for (int64_t t = q.chain.steps() - 1; t >= 0; --t) {
    const auto i = static_cast<size_t>(t);
    // x_{t-1} ~ q(x_{t-1} | x_t, x0_hat): Ho et al. 2020, eq. 6 and 7, with the variance of choice
    // and no noise in the last step (algorithm 2, line 3).
    const ModelVariance variance = q.variance(q.chain, t);
    SamplerStep step;
    step.level = q.chain.level(t);
    step.c_x = q.chain.posterior_mean_xt[i];
    step.c_x_hat = q.chain.posterior_mean_x0[i];
    step.timestep = q.chain.timestep[i];
    step.learned = t > 0 && variance.learned;
    step.log_offset = variance.log_offset;
    step.log_slope = variance.log_slope;
    if (t > 0 && !variance.learned) step.noise = std::sqrt(variance.fixed);
    steps.push_back(step);
  }
  return steps;
}

}  // namespace diffuse
