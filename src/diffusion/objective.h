// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "diffusion/options.h"

namespace diffuse {

/// The training objective on tensors: E_{t, x0, eps} [ w_t |F*(x0, eps, t) - F(z_t, t)|^2 ]. All of
/// its numbers are computed in float64 on the host and rounded once, to float32 tables on the
/// device. Shapes: x0, eps and F are [n, channels, height, width]; t is [n] int64, 0..T-1, on the
/// device.
class Objective {
 public:
  /// Throws Error{config} for combinations that check(options) refuses.
  Objective(const DiffusionOptions& options, at::Device device);

  int64_t steps() const { return chain_.steps(); }
  const Chain& chain() const { return chain_; }

  /// z_t = alpha_t x0 + sigma_t eps (Ho et al. 2020, eq. 4).
  at::Tensor noise(const at::Tensor& x0, const at::Tensor& eps, const at::Tensor& t) const;
  /// F*, the network output that is right.
  at::Tensor target(const at::Tensor& x0, const at::Tensor& eps, const at::Tensor& t) const;
  /// What the network is told about t: [n] float32.
  at::Tensor time(const at::Tensor& t) const;

  struct Loss {
    at::Tensor weighted;  // [n], what is minimised: w_t times raw
    at::Tensor raw;       // [n], |F* - F|^2 averaged over a picture's values
  };
  Loss loss(const at::Tensor& output,
            const at::Tensor& x0,
            const at::Tensor& eps,
            const at::Tensor& t) const;

 private:
  at::Tensor mix(const at::Tensor& a_table,
                 const at::Tensor& a,
                 const at::Tensor& b_table,
                 const at::Tensor& b,
                 const at::Tensor& t) const;

  Chain chain_;
  at::Tensor alpha_, sigma_, target_x0_, target_eps_, weight_, time_;  // [T] float32
};

}  // namespace diffuse
