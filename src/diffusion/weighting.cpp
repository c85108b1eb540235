// SPDX-License-Identifier: MIT
#include "diffusion/weighting.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"

namespace diffuse {
namespace {

struct Simple {  // L_simple: Ho et al. 2020, eq. 14, for whatever the network predicts
  void fields(Fields&) {}
  Weight operator()(const WeightQuery& q) const {
    const double c_out = q.prediction(q.chain.level(q.t)).c_out;
    return {.on_x0 = 1 / (c_out * c_out), .published = 1};
  }
};

struct Snr {  // |eps - eps_hat|^2 = SNR |x0 - x0_hat|^2: Salimans & Ho 2022, eq. 9
  void fields(Fields&) {}
  Weight operator()(const WeightQuery& q) const {
    return {.on_x0 = q.chain.snr(q.t), .published = 1};
  }
};

struct MinSnr {  // Hang et al. 2023, sec. 3.4
  double gamma = 5;
  void fields(Fields& f) { f(gamma, "gamma", "cap on the signal-to-noise ratio").above(0); }
  Weight operator()(const WeightQuery& q) const {
    const double snr = q.chain.snr(q.t);
    return {.on_x0 = std::min(snr, gamma), .published = snr <= gamma ? 1 : gamma / snr};
  }
};

struct Vlb {  // L_{t-1} of the bound in nats: Ho et al. 2020, eq. 8 and 12; at t = 0 a Gaussian
              // decoder
  void fields(Fields&) {}
  Weight operator()(const WeightQuery& q) const {
    const auto i = static_cast<size_t>(q.t);
    const double variance = q.variance(q.chain, q.t);
    const double c1 = q.chain.posterior_mean_x0[i];
    const double beta = q.chain.beta[i];
    return {.on_x0 = c1 * c1 / (2 * variance),
            .published =
                beta * beta / (2 * variance * q.chain.alpha(q.t) * (1 - q.chain.alpha_bar[i]))};
  }
};

}  // namespace

const Weighting::Table& weightings() {
  static const Weighting::Table table{
      Weighting::row<Simple>("simple", "1 on the network's own target", "Ho et al. 2020, eq. 14"),
      Weighting::row<Snr>("snr", "SNR on x0, i.e. 1 on epsilon", "Salimans & Ho 2022, eq. 9"),
      Weighting::row<MinSnr>("min_snr", "min(SNR, gamma) on x0", "Hang et al. 2023, section 3.4"),
      Weighting::row<Vlb>(
          "vlb", "the variational bound's own weight, in nats", "Ho et al. 2020, eq. 12"),
  };
  return table;
}

std::vector<double> network_weights(const Chain& chain,
                                    const Prediction& prediction,
                                    const Weighting& weighting,
                                    WeightOn on,
                                    const Variance& variance) {
  std::vector<double> out;
  for (int64_t t = 0; t < chain.steps(); ++t) {
    const Weight w = weighting(WeightQuery{chain, t, prediction, variance});
    const double c_out = prediction(chain.level(t)).c_out;
    // |x0 - x0_hat|^2 = c_out^2 |F* - F|^2
    const double weight = on == WeightOn::network ? w.published : w.on_x0 * c_out * c_out;
    if (!std::isfinite(weight) || weight < 0)
      throw Error(Exit::config,
                  "weighting '" + weighting.name() + "' with target '" + prediction.name() +
                      "' has no finite weight at step " + std::to_string(t) + " (SNR " +
                      std::to_string(chain.snr(t)) + ")");
    out.push_back(weight);
  }
  return out;
}

}  // namespace diffuse
