// SPDX-License-Identifier: MIT
#include "samplers/ddpm.h"

#include <cmath>

namespace diffuse {

std::vector<SamplerStep> Ddpm::operator()(const SamplerQuery& q) const {
  std::vector<SamplerStep> steps;
  for (int64_t t = q.chain.steps() - 1; t >= 0; --t) {
    const auto i = static_cast<size_t>(t);
    steps.push_back({.level = q.chain.level(t),
                     .x = q.chain.posterior_mean_xt[i],
                     .x_hat = q.chain.posterior_mean_x0[i],
                     .noise = t > 0 ? std::sqrt(q.variance(q.chain, t)) : 0});
  }
  return steps;
}

}  // namespace diffuse
