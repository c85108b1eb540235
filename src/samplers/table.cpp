// SPDX-License-Identifier: MIT
#include <cmath>

#include "base/error.h"
#include "samplers/ddim.h"
#include "samplers/ddpm.h"
#include "samplers/sampler.h"

namespace diffuse {

const Sampler::Table& samplers() {
  static const Sampler::Table table{
      Sampler::row<Ddpm>("ddpm", "ancestral sampling", "Ho et al. 2020, algorithm 2"),
      Sampler::row<Ddim>(
          "ddim", "deterministic steps, or with some noise", "Song et al. 2021 (DDIM), eq. 12"),
  };
  return table;
}

std::vector<int64_t> spaced_timesteps(int64_t steps, int64_t count) {
  DIFFUSE_CHECK(count >= 1 && count <= steps);
  if (count == 1) return {steps - 1};
  const double stride = static_cast<double>(steps - 1) / static_cast<double>(count - 1);
  std::vector<int64_t> out;
  double position = 0;
  for (int64_t i = 0; i < count; ++i) {
    out.push_back(static_cast<int64_t>(std::nearbyint(position)));  // half to even
    position += stride;
  }
  return out;
}

}  // namespace diffuse
