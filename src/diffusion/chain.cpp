// SPDX-License-Identifier: MIT
#include "diffusion/chain.h"

#include <cmath>
#include <string>

#include "base/error.h"
#include "base/text.h"

namespace diffuse {
namespace {

void add_step(Chain& chain, const Level& level, double alpha2, double sigma2, double beta) {
  chain.timestep.push_back(chain.steps());
  const double alpha2_prev = chain.levels.empty() ? 1 : chain.alpha_bar.back();
  const double sigma2_prev = chain.levels.empty() ? 0 : chain.sigma2.back();
  chain.levels.push_back(level);
  chain.beta.push_back(beta);
  chain.alpha_bar.push_back(alpha2);
  chain.alpha_bar_prev.push_back(alpha2_prev);
  chain.sigma2.push_back(sigma2);
  chain.sigma2_prev.push_back(sigma2_prev);
  // Ho et al. 2020, eq. 7; Kingma et al. 2021, eq. 25-29, for any path.
  chain.posterior_variance.push_back(sigma2_prev / sigma2 * beta);
  chain.posterior_mean_x0.push_back(std::sqrt(alpha2_prev) * beta / sigma2);
  chain.posterior_mean_xt.push_back(std::sqrt(alpha2 / alpha2_prev) * sigma2_prev / sigma2);
}

/// The levels learn the means of the chain that they are trained in; the decoder's variance is
/// beta~_1 in place of beta~_0 = 0, as improved-diffusion has it.
void set_means(Chain& chain) {
  for (size_t t = 0; t < chain.levels.size(); ++t) {
    chain.levels[t].mean_x0 = chain.posterior_mean_x0[t];
    chain.levels[t].mean_z = chain.posterior_mean_xt[t];
  }
  // A chain of one step has only its beta.
  chain.decoder_variance = chain.steps() > 1 ? chain.posterior_variance[1] : chain.beta[0];
}

/// The variance that q adds between the chain's last level and one of alpha2, sigma2.
double added_variance(const Chain& chain, double alpha2, double sigma2) {
  if (chain.levels.empty()) return sigma2;
  // sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2 = sigma_t^2 (1 - SNR_t / SNR_s)
  return sigma2 * (1 - alpha2 / sigma2 / chain.snr(chain.steps() - 1));
}

}  // namespace

Chain make_chain(const std::vector<double>& beta) {
  if (beta.empty()) throw Error(Exit::config, "a chain needs at least one step");
  Chain chain;
  double bar = 1;
  for (size_t t = 0; t < beta.size(); ++t) {
    const bool last = t + 1 == beta.size();
    const auto refuse = [&](const std::string& reason) {
      throw Error(Exit::config,
                  "beta at step " + std::to_string(t) + " of " + std::to_string(beta.size()) +
                      " is " + shortest(beta[t]) + reason +
                      "; change the options of diffusion.schedule (for a table: its file) or "
                      "diffusion.steps");
    };
    if (!(beta[t] > 0) || beta[t] > 1 || (beta[t] == 1 && !last))
      refuse(", but every beta must be above 0 and below 1 (the last may be 1)");
    if (bar == 0) refuse(", but the steps before it leave an alpha_bar of 0 already");
    const double prev = bar;
    bar *= 1 - beta[t];  // alpha_bar_t = prod (1 - beta), Ho et al. 2020, sec. 2
    if (bar == prev) refuse(", too small to change alpha_bar");
    Level level;
    level.t = static_cast<double>(t);
    level.logsnr = std::log(bar) - std::log1p(-bar);
    level.alpha = std::sqrt(bar);
    level.sigma = std::sqrt(1 - bar);
    add_step(chain, level, bar, 1 - bar, beta[t]);
  }
  set_means(chain);
  return chain;
}

Chain make_chain(const std::vector<Level>& levels) {
  DIFFUSE_CHECK(!levels.empty());
  Chain chain;
  for (const Level& level : levels) {
    const double alpha2 = level.alpha * level.alpha, sigma2 = level.sigma * level.sigma;
    const double beta = chain.levels.empty()
                            ? sigma2
                            : -sigma2 * std::expm1(level.logsnr - chain.levels.back().logsnr);
    if (chain.levels.empty() && !(beta > 0 && std::isfinite(beta)))
      throw Error(Exit::config,
                  "the first step has no noise that a number can hold (sigma " +
                      shortest(level.sigma) +
                      "); raise the clean end of diffusion.schedule (sigma_min, t_min) or lower "
                      "logsnr_max or logsnr_shift");
    if (!(beta > 0))
      throw Error(Exit::config,
                  "the noise does not grow from step " + std::to_string(chain.steps() - 1) +
                      " to the next of " + std::to_string(levels.size()) +
                      "; use fewer diffusion.steps, or change the options of diffusion.schedule");
    add_step(chain, level, alpha2, sigma2, beta);
  }
  set_means(chain);
  return chain;
}

Chain respace(const Chain& chain, const std::vector<int64_t>& timesteps) {
  DIFFUSE_CHECK(!timesteps.empty());
  Chain out;
  out.decoder_variance = chain.decoder_variance;
  int64_t last = -1;
  for (const int64_t t : timesteps) {
    DIFFUSE_CHECK(t > last && t < chain.steps());
    last = t;
    const double alpha2 = chain.alpha_bar[static_cast<size_t>(t)];
    const double sigma2 = chain.sigma2[static_cast<size_t>(t)];
    // On vp it is 1 - alpha_bar_t / alpha_bar_s: Nichol & Dhariwal 2021, eq. 19.
    add_step(out, chain.level(t), alpha2, sigma2, added_variance(out, alpha2, sigma2));
    out.timestep.back() = chain.timestep[static_cast<size_t>(t)];
  }
  return out;
}

std::vector<double> zero_terminal_snr(const std::vector<double>& beta) {
  const Chain chain = make_chain(beta);
  const size_t n = beta.size();
  if (n < 2) throw Error(Exit::config, "zero_terminal_snr needs at least 2 steps");
  const double first = std::sqrt(chain.alpha_bar.front());
  const double last = std::sqrt(chain.alpha_bar.back());
  std::vector<double> out(n);
  double prev = 1;
  for (size_t t = 0; t < n; ++t) {
    const double r = (std::sqrt(chain.alpha_bar[t]) - last) * (first / (first - last));
    const double bar = r * r;
    out[t] = 1 - bar / prev;
    prev = bar;
  }
  return out;
}

}  // namespace diffuse
