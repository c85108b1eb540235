// SPDX-License-Identifier: MIT
#include "diffusion/denoiser.h"

#include <ATen/ATen.h>

#include <utility>

namespace diffuse {

Denoise make_denoiser(Network network, Prediction prediction, bool clip) {
  return [network = std::move(network), prediction = std::move(prediction), clip](
             const at::Tensor& z, const Level& level) -> Estimate {
    const Coefficients c = prediction(level);
    const at::Tensor t = at::full({z.size(0)}, c.c_noise, z.options());
    const at::Tensor out = network(c.c_in == 1 ? z : at::mul(z, c.c_in), t).to(z.scalar_type());
    const int64_t channels = z.size(1);
    const bool learned = out.size(1) == 2 * channels;
    const at::Tensor f = learned ? out.narrow(1, 0, channels) : out;
    const at::Tensor x_hat = at::add(at::mul(z, c.c_skip), f, c.c_out);
    return Estimate(clip ? x_hat.clamp(-1, 1) : x_hat,
                    learned ? out.narrow(1, channels, channels) : at::Tensor());
  };
}

}  // namespace diffuse
