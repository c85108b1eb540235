// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

#include "diffusion/denoiser.h"
#include "likelihood/ode.h"

namespace diffuse {

/// The level of a log-SNR: alpha, sigma > 0 with log(alpha^2 / sigma^2) = logsnr.
using LevelAt = std::function<Level(double logsnr)>;

struct FlowOptions {
  double logsnr_clean = 10;   // the ends, finite, clean > noisy: what is evaluated is the density
  double logsnr_noisy = -10;  // of data + e^(-logsnr_clean / 2) eps, at the data
  int64_t probes = 1;         // of the divergence's estimate; 0 is the exact one
  uint64_t seed = 0;          // of the probes
  OdeOptions ode;
  /// What the denoiser is called with: below rtol of 1e-6 its rounding asks for float64.
  at::ScalarType type = at::kFloat;
};

struct FlowLikelihood {
  at::Tensor nats;   // [n] float64: log p(x), the mean over the probes
  at::Tensor probe;  // [n, max(probes, 1)] float64: by each of them
  at::Tensor prior;  // [n] float64: the share of `nats` that is the log density of the noisy end
  int64_t evaluations = 0;  // of the denoiser, over all n
  int64_t accepted = 0;     // steps
  int64_t rejected = 0;
};

/// The exact divergence takes a backward pass a dimension; beyond this many it is refused.
constexpr int64_t kMaxExactDimensions = 256;

/// log p(x) for x [n, ...] (any type), by the probability-flow ODE (Song et al. 2021, eq. 39).
///
/// One rule for every path. With s = log(sigma / alpha) = -logsnr / 2 and x~ = z / alpha, noise has
/// the scale e^s and the ODE is dx~/ds = x~ - D (Karras et al. 2022, eq. 3, with log sigma as the
/// time), d log p/ds = -(d - div D). It is solved in y = x~ / sqrt(1 + e^2s), where data of unit
/// variance stand still and the noisy end is N(0, I) on every path: z ~ N(0, (alpha^2 + sigma^2)
/// I), which is the prior. The tolerances are those of y, and of log p in nats a dimension.
///
/// `denoise` gets z as `options.type` and must let gradients pass: no NoGradGuard inside, nobody's
/// inference mode outside, no clipping (a flat x_hat has no divergence). A row must not see the
/// others. Row i draws from the streams {seed, probe, probe number, first_sample + i}: any split
/// into batches has the same probes, and results that differ by the tolerance alone.
///
/// Throws Error{usage} for exact divergences beyond kMaxExactDimensions, and solve_ode's.
FlowLikelihood flow_likelihood(const Denoise& denoise,
                               const LevelAt& level_at,
                               const at::Tensor& x,
                               int64_t first_sample,
                               const FlowOptions& options);

/// The spread over the probes as the standard error of `nats`, [n] float64. NaN where there is one
/// probe, or none: the exact divergence has no spread.
at::Tensor probe_error(const FlowLikelihood& likelihood);

/// The distance of neighbouring values in data of `bits` bits (1 to 16) that fill [-1, 1]:
/// 2 / (2^bits - 1).
double level_spacing(int bits);

/// x + (u - 1/2) level_spacing(bits), u uniform on [0, 1): spreads each value evenly over its bin
/// (Uria et al. 2013; Theis et al. 2016, sec. 3.1), so that a density can be compared with
/// probabilities of the bins. x is [n, ...] in [-1, 1]; float64 comes back. Row i draws from the
/// stream {seed, dequantise, draw, first_sample + i}.
at::Tensor dequantise(
    const at::Tensor& x, int bits, uint64_t seed, uint64_t draw, int64_t first_sample);

/// What dequantised data's bits per dimension have over their density's: a bin of width w has
/// E[log p] + d log w for its log-probability's lower bound, so -log2(level_spacing(bits)).
double bin_offset(int bits);

/// -nats / (dimensions ln 2): bits per dimension of a density; add bin_offset for dequantised data.
at::Tensor bits_per_dimension(const at::Tensor& nats, int64_t dimensions);

}  // namespace diffuse
