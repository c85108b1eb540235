// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "diffusion/level.h"

namespace diffuse {

/// The discrete chain of Ho et al. 2020, sec. 2, in float64: everything that q fixes. Index t =
/// 0..T-1 is the paper's t+1; alpha_bar at index -1 is 1.
struct Chain {
  std::vector<double> beta;
  std::vector<double> alpha_bar;
  std::vector<double> alpha_bar_prev;      // alpha_bar[t-1], 1 at t = 0
  std::vector<double> posterior_variance;  // beta~_t, eq. 7; 0 at t = 0
  std::vector<double> posterior_mean_x0;   // coefficient of x_0 in mu~_t, eq. 7
  std::vector<double> posterior_mean_xt;   // coefficient of x_t in mu~_t
  std::vector<int64_t> timestep;  // what the network sees: differs from the index when respaced

  int64_t steps() const { return static_cast<int64_t>(beta.size()); }
  double alpha(int64_t t) const {
    return 1.0 - beta[static_cast<size_t>(t)];
  }                             // alpha_t = 1 - beta_t
  double snr(int64_t t) const;  // alpha_bar / (1 - alpha_bar); 0 at zero terminal SNR
  Level level(int64_t t) const;
};

/// beta -> chain. Every beta must be in (0, 1]; only the last may be 1 (zero terminal SNR). Throws
/// Error{config} that names the step otherwise.
Chain make_chain(const std::vector<double>& beta);

/// The sub-chain through `timesteps` (ascending, distinct, in range) with
/// beta_i = 1 - alpha_bar[t_i] / alpha_bar[t_{i-1}] (Nichol & Dhariwal 2021, sec. 4). The network
/// still sees the original timesteps.
Chain respace(const Chain& chain, const std::vector<int64_t>& timesteps);

/// Shifts and scales sqrt(alpha_bar) so that the last step has no signal and the first is unchanged
/// (Lin et al. 2023, "Common diffusion noise schedules and sample steps are flawed", algorithm 1).
std::vector<double> zero_terminal_snr(const std::vector<double>& beta);

}  // namespace diffuse
