// SPDX-License-Identifier: MIT
#include "diffusion/weighting.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"

namespace diffuse {
namespace {

/// A weight w on |eps - eps_hat|^2 = SNR |x0 - x0_hat|^2.
Weight on_eps(double snr, double w) { return {.on_x0 = snr * w, .published = w}; }

struct Simple {  // L_simple: Ho et al. 2020, eq. 14, for whatever the network predicts
  void fields(Fields&) {}
  Weight operator()(const WeightQuery& q) const {
    const double c_out = q.prediction(q.chain.level(q.t)).c_out;
    return {.on_x0 = 1 / (c_out * c_out), .published = 1};
  }
};

struct Snr {  // |eps - eps_hat|^2 = SNR |x0 - x0_hat|^2: Salimans & Ho 2022, eq. 9
  void fields(Fields&) {}
  Weight operator()(const WeightQuery& q) const { return on_eps(q.chain.snr(q.t), 1); }
};

struct MinSnr {  // Hang et al. 2023, sec. 3.4
  double gamma = 5;
  void fields(Fields& f) { f(gamma, "gamma", "cap on the signal-to-noise ratio").above(0); }
  Weight operator()(const WeightQuery& q) const {
    const double snr = q.chain.snr(q.t);
    return {.on_x0 = std::min(snr, gamma), .published = snr <= gamma ? 1 : gamma / snr};
  }
};

struct SoftMinSnr {  // 1 / (sigma^2 + sigma_d^2) with sigma^2 = 1/SNR and gamma = 1/sigma_d^2: a
                     // smooth min(SNR, gamma), as k-diffusion weighs
  double gamma = 4;
  void fields(Fields& f) {
    f(gamma, "gamma", "what the weight on x0 tends to at low noise; 4 is sigma_data 0.5").above(0);
  }
  Weight operator()(const WeightQuery& q) const {
    const double snr = q.chain.snr(q.t);
    return on_eps(snr, gamma / (snr + gamma));
  }
};

struct TruncatedSnr {  // max(SNR, 1) on x0: Salimans & Ho 2022, sec. 4
  void fields(Fields&) {}
  Weight operator()(const WeightQuery& q) const {
    const double snr = q.chain.snr(q.t);
    return {.on_x0 = std::max(snr, 1.0), .published = std::max(1.0, 1 / snr)};
  }
};

struct P2 {  // Choi et al. 2022, eq. 8
  double gamma = 1;
  double k = 1;
  void fields(Fields& f) {
    f(gamma, "gamma", "strength: 0 is snr").at_least(0).at_most(10);
    f(k, "k", "added to the signal-to-noise ratio").above(0);
  }
  Weight operator()(const WeightQuery& q) const {
    const double snr = q.chain.snr(q.t);
    return on_eps(snr, std::pow(k + snr, -gamma));
  }
};

struct Debiased {  // 1/sqrt(SNR) on epsilon: Yu et al. 2023, "Debias the training of diffusion
                   // models"
  void fields(Fields&) {}
  Weight operator()(const WeightQuery& q) const {
    const double root = std::sqrt(q.chain.snr(q.t));
    return {.on_x0 = root, .published = 1 / root};
  }
};

struct Edm {  // lambda(sigma) = (sigma^2 + sigma_d^2) / (sigma sigma_d)^2 on x0, sigma^2 = 1/SNR:
              // Karras et al. 2022, Table 1; its density of sigma is a time sampler
  double sigma_data = 0.5;
  void fields(Fields& f) { f(sigma_data, "sigma_data", "standard deviation of the data").above(0); }
  Weight operator()(const WeightQuery& q) const {
    const double snr = q.chain.snr(q.t);
    const double inverse = 1 / (sigma_data * sigma_data);
    return {.on_x0 = snr + inverse, .published = 1 + inverse / snr};
  }
};

struct Sigmoid {  // sigmoid(bias - log SNR) on epsilon: Kingma & Gao 2023; Hoogeboom et al. 2024
  double bias = 0;
  void fields(Fields& f) {
    f(bias, "bias", "log SNR at which the weight on epsilon is a half").at_least(-50).at_most(50);
  }
  Weight operator()(const WeightQuery& q) const {
    const double snr = q.chain.snr(q.t);
    return on_eps(snr, 1 / (1 + snr * std::exp(-bias)));
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
      Weighting::row<SoftMinSnr>(
          "soft_min_snr", "SNR gamma / (SNR + gamma) on x0", "k-diffusion; Hang et al. 2023"),
      Weighting::row<TruncatedSnr>(
          "truncated_snr", "max(SNR, 1) on x0", "Salimans & Ho 2022, section 4"),
      Weighting::row<P2>("p2", "1 / (k + SNR)^gamma on epsilon", "Choi et al. 2022, eq. 8"),
      Weighting::row<Debiased>("debiased", "1 / sqrt(SNR) on epsilon", "Yu et al. 2023"),
      Weighting::row<Edm>("edm", "SNR + 1/sigma_data^2 on x0", "Karras et al. 2022, Table 1"),
      Weighting::row<Sigmoid>("sigmoid",
                              "sigmoid(bias - log SNR) on epsilon",
                              "Kingma & Gao 2023; Hoogeboom et al. 2024"),
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
