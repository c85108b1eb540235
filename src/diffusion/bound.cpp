// SPDX-License-Identifier: MIT
#include "diffusion/bound.h"

#include <ATen/ATen.h>

#include <cmath>
#include <numbers>

#include "base/error.h"

namespace diffuse {

at::Tensor gaussian_kl(const at::Tensor& difference,
                       const at::Tensor& log_variance_q,
                       const at::Tensor& log_variance_p) {
  // 1/2 (b - a + e^(a - b) - 1 + difference^2 e^-b), with expm1 for a near b
  const at::Tensor gap = at::sub(log_variance_q, log_variance_p);
  const at::Tensor distance = at::mul(at::square(difference), at::exp(at::neg(log_variance_p)));
  return at::mul(at::add(at::sub(at::expm1(gap), gap), distance), 0.5);
}

at::Tensor decoder_nll(const at::Tensor& x,
                       const at::Tensor& mean,
                       const at::Tensor& log_std,
                       int64_t bits) {
  DIFFUSE_CHECK(bits >= 0 && bits <= 16);
  const at::Tensor log_scale = log_std.to(at::kDouble);
  const at::Tensor inverse = at::exp(at::neg(log_scale));
  const at::Tensor exact = x.to(at::kDouble);
  const at::Tensor offset = at::sub(exact, mean.to(at::kDouble));
  if (bits == 0) {
    const double log_root = 0.5 * std::log(2 * std::numbers::pi);
    return at::add(at::add(at::mul(at::square(at::mul(offset, inverse)), 0.5), log_scale), log_root)
        .to(mean.scalar_type());
  }
  const double half = 1.0 / (std::pow(2.0, static_cast<double>(bits)) - 1);
  const at::Tensor low = at::mul(at::sub(offset, half), inverse);
  const at::Tensor high = at::mul(at::add(offset, half), inverse);
  // Phi(high) - Phi(low) = Phi(-low) - Phi(-high): on the side where both are below 1/2 or around
  // it, the logarithms keep their precision.
  const at::Tensor flip = at::gt(offset, 0);
  const at::Tensor a = at::where(flip, at::neg(high), low);
  const at::Tensor b = at::where(flip, at::neg(low), high);
  const at::Tensor log_b = at::special_log_ndtr(b);
  const at::Tensor gap = at::sub(at::special_log_ndtr(a), log_b);  // < 0
  // log(1 - e^gap); a bin so far out that both ends round to one value has the width's density.
  const at::Tensor inner = at::add(log_b, at::log(at::clamp_min(at::neg(at::expm1(gap)), 1e-300)));
  // Halfway to the neighbour: any level's x is its own to rounding.
  const at::Tensor first = at::lt(exact, -1 + half);
  const at::Tensor last = at::gt(exact, 1 - half);
  const at::Tensor probability =
      at::where(first,
                at::special_log_ndtr(high),
                at::where(last, at::special_log_ndtr(at::neg(low)), inner));
  return at::neg(probability).to(mean.scalar_type());
}

}  // namespace diffuse
