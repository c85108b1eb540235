// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "diffusion/level.h"

namespace diffuse {

/// A discrete chain of noise levels z_t = alpha_t x_0 + sigma_t eps, t = 0..T-1 (the paper's t+1),
/// of falling SNR, in float64: everything that q fixes. Before t = 0 comes the data: alpha 1, sigma
/// 0. On the variance-preserving path it is the chain of Ho et al. 2020, sec. 2; on others its
/// steps are q(z_t | z_s) = N(alpha_t / alpha_s z_s, beta_t) (Kingma et al. 2021, eq. 20-21).
struct Chain {
  std::vector<Level> levels;
  std::vector<double> beta;                // variance that step t adds
  std::vector<double> alpha_bar;           // alpha_t^2
  std::vector<double> alpha_bar_prev;      // alpha_{t-1}^2, 1 at t = 0
  std::vector<double> sigma2;              // sigma_t^2: 1 - alpha_bar on vp
  std::vector<double> sigma2_prev;         // 0 at t = 0
  std::vector<double> posterior_variance;  // beta~_t, Ho et al. 2020, eq. 7; 0 at t = 0
  std::vector<double> posterior_mean_x0;   // coefficient of x_0 in mu~_t, eq. 7
  std::vector<double> posterior_mean_xt;   // coefficient of z_t in mu~_t
  double decoder_variance = 0;             // sigma^2 of p(x_0 | z_0): beta~_1 of chains of betas
  std::vector<int64_t> timestep;           // t in the full chain: differs when respaced

  int64_t steps() const { return static_cast<int64_t>(levels.size()); }
  double snr(int64_t t) const {  // 0 at zero terminal SNR
    return alpha_bar[static_cast<size_t>(t)] / sigma2[static_cast<size_t>(t)];
  }
  const Level& level(int64_t t) const { return levels[static_cast<size_t>(t)]; }
};

/// beta -> chain on the variance-preserving path. Every beta must be in (0, 1]; only the last may
/// be 1 (zero terminal SNR). Throws Error{config} that names the step otherwise.
Chain make_chain(const std::vector<double>& beta);

/// The chain through levels of falling SNR, from the cleanest. Their `mean_x0` and `mean_z` are
/// set. Throws Error{config} when the SNR does not fall.
Chain make_chain(const std::vector<Level>& levels);

/// The sub-chain through steps `timesteps` (ascending, distinct, in range) with
/// beta_i = 1 - alpha_bar[t_i] / alpha_bar[t_{i-1}] (Nichol & Dhariwal 2021, sec. 4). Its levels
/// are unchanged: the network still sees the original timesteps and was trained for their means.
Chain respace(const Chain& chain, const std::vector<int64_t>& timesteps);

/// Shifts and scales sqrt(alpha_bar) so that the last step has no signal and the first is unchanged
/// (Lin et al. 2023, "Common diffusion noise schedules and sample steps are flawed", algorithm 1).
std::vector<double> zero_terminal_snr(const std::vector<double>& beta);

}  // namespace diffuse
