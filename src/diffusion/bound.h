// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

// Terms of the variational bound on tensors, in nats, element by element. See Ho et al. 2020,
// eq. 5; Nichol & Dhariwal 2021, sec. 2.

namespace diffuse {

/// KL(N(m, e^a) || N(m + difference, e^b)), a = `log_variance_q`, b = `log_variance_p`.
at::Tensor gaussian_kl(const at::Tensor& difference,
                       const at::Tensor& log_variance_q,
                       const at::Tensor& log_variance_p);

/// -log of the probability that N(mean, e^(2 log_std)) gives to the bin around x, where x is one of
/// 2^bits levels from -1 to 1 and the bins at the two ends reach to infinity (Ho et al. 2020,
/// eq. 13). bits in 1..16, or 0: x is continuous, and it is -log of the density. In float64,
/// returned in the type of `mean`.
at::Tensor decoder_nll(const at::Tensor& x,
                       const at::Tensor& mean,
                       const at::Tensor& log_std,
                       int64_t bits);

}  // namespace diffuse
