// SPDX-License-Identifier: MIT
#include "diffusion/chain.h"

#include <cmath>
#include <string>

#include "base/error.h"
#include "base/text.h"

namespace diffuse {
namespace {

/// Fills in what q(x_{t-1} | x_t, x_0) needs from beta, alpha_bar and alpha_bar_prev.
void add_posterior(Chain& chain) {
  const size_t n = chain.beta.size();
  chain.posterior_variance.resize(n);
  chain.posterior_mean_x0.resize(n);
  chain.posterior_mean_xt.resize(n);
  for (size_t t = 0; t < n; ++t) {
    const double beta = chain.beta[t];
    const double bar = chain.alpha_bar[t];
    const double prev = chain.alpha_bar_prev[t];
    // Ho et al. 2020, eq. 7.
    chain.posterior_variance[t] = (1 - prev) / (1 - bar) * beta;
    chain.posterior_mean_x0[t] = std::sqrt(prev) * beta / (1 - bar);
    chain.posterior_mean_xt[t] = std::sqrt(1 - beta) * (1 - prev) / (1 - bar);
  }
}

}  // namespace

double Chain::snr(int64_t t) const {
  const double bar = alpha_bar[static_cast<size_t>(t)];
  return bar / (1 - bar);
}

Level Chain::level(int64_t t) const {
  const auto i = static_cast<size_t>(t);
  const double bar = alpha_bar[i];
  return Level{.t = static_cast<double>(timestep[i]),
               .logsnr = std::log(bar) - std::log1p(-bar),
               .alpha = std::sqrt(bar),
               .sigma = std::sqrt(1 - bar)};
}

Chain make_chain(const std::vector<double>& beta) {
  if (beta.empty()) throw Error(Exit::config, "a chain needs at least one step");
  Chain chain;
  chain.beta = beta;
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
    chain.alpha_bar_prev.push_back(bar);
    bar *= 1 - beta[t];  // alpha_bar_t = prod (1 - beta), Ho et al. 2020, sec. 2
    if (bar == chain.alpha_bar_prev.back()) refuse(", too small to change alpha_bar");
    chain.alpha_bar.push_back(bar);
    chain.timestep.push_back(static_cast<int64_t>(t));
  }
  add_posterior(chain);
  return chain;
}

Chain respace(const Chain& chain, const std::vector<int64_t>& timesteps) {
  DIFFUSE_CHECK(!timesteps.empty());
  Chain out;
  double prev = 1;
  int64_t last = -1;
  for (const int64_t t : timesteps) {
    DIFFUSE_CHECK(t > last && t < chain.steps());
    last = t;
    const double bar = chain.alpha_bar[static_cast<size_t>(t)];
    out.beta.push_back(1 - bar / prev);  // Nichol & Dhariwal 2021, eq. 19
    out.alpha_bar.push_back(bar);
    out.alpha_bar_prev.push_back(prev);
    out.timestep.push_back(chain.timestep[static_cast<size_t>(t)]);
    prev = bar;
  }
  add_posterior(out);
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
