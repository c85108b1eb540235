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
    steps.push_back({.level = q.chain.level(t),
                     .c_x = q.chain.posterior_mean_xt[i],
                     .c_x_hat = q.chain.posterior_mean_x0[i],
                     .noise = t > 0 ? std::sqrt(q.variance(q.chain, t)) : 0});
  }
  return steps;
}

}  // namespace diffuse
