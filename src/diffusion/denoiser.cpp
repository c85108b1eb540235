// SPDX-License-Identifier: MIT
#include "diffusion/denoiser.h"

#include <ATen/ATen.h>

#include <utility>

namespace diffuse {

Denoise make_denoiser(Network network, Prediction prediction, bool clip) {
  return [network = std::move(network), prediction = std::move(prediction), clip](
             const at::Tensor& z, const Level& level) {
    const Coefficients c = prediction(level);
    const at::Tensor t = at::full({z.size(0)}, c.c_noise, z.options());
    const at::Tensor f = network(c.c_in == 1 ? z : at::mul(z, c.c_in), t).to(z.scalar_type());
    const at::Tensor x_hat = at::add(at::mul(z, c.c_skip), f, c.c_out);
    return clip ? x_hat.clamp(-1, 1) : x_hat;
  };
}

}  // namespace diffuse
