// SPDX-License-Identifier: MIT
#include "diffusion/weighting.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "diffusion/number_file.h"

namespace diffuse {
namespace {

/// A weight w on |eps - eps_hat|^2 = SNR |x0 - x0_hat|^2.
Weight on_eps(double snr, double w) { return {.on_x0 = snr * w, .published = w}; }

struct Simple {  // L_simple: Ho et al. 2020, eq. 14, for whatever the network predicts
  void fields(Fields&) {}
  Weight operator()(const WeightQuery& q) const {
    const double c_out = q.prediction(q.level).c_out;
    return {.on_x0 = 1 / (c_out * c_out), .published = 1};
  }
};

struct Snr {  // |eps - eps_hat|^2 = SNR |x0 - x0_hat|^2: Salimans & Ho 2022, eq. 9
  void fields(Fields&) {}
  Weight operator()(const WeightQuery& q) const { return on_eps(q.level.snr(), 1); }
};

struct MinSnr {  // Hang et al. 2023, sec. 3.4
  double gamma = 5;
  void fields(Fields& f) { f(gamma, "gamma", "cap on the signal-to-noise ratio").above(0); }
  Weight operator()(const WeightQuery& q) const {
    const double snr = q.level.snr();
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
    const double snr = q.level.snr();
    return on_eps(snr, gamma / (snr + gamma));
  }
};

struct TruncatedSnr {  // max(SNR, 1) on x0: Salimans & Ho 2022, sec. 4
  void fields(Fields&) {}
  Weight operator()(const WeightQuery& q) const {
    const double snr = q.level.snr();
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
    const double snr = q.level.snr();
    return on_eps(snr, std::pow(k + snr, -gamma));
  }
};

struct Debiased {  // 1/sqrt(SNR) on epsilon: Yu et al. 2023, "Debias the training of diffusion
                   // models"
  void fields(Fields&) {}
  Weight operator()(const WeightQuery& q) const {
    const double root = std::sqrt(q.level.snr());
    return {.on_x0 = root, .published = 1 / root};
  }
};

struct Edm {  // lambda(sigma) = (sigma^2 + sigma_d^2) / (sigma sigma_d)^2 on x0, sigma^2 = 1/SNR:
              // Karras et al. 2022, Table 1; its density of sigma is a time sampler
  double sigma_data = 0.5;
  void fields(Fields& f) { f(sigma_data, "sigma_data", "standard deviation of the data").above(0); }
  Weight operator()(const WeightQuery& q) const {
    const double snr = q.level.snr();
    const double inverse = 1 / (sigma_data * sigma_data);
    return {.on_x0 = snr + inverse, .published = 1 + inverse / snr};
  }
};

struct Sigmoid {  // sigmoid(bias - log SNR) on epsilon: Kingma & Gao 2023; Hoogeboom et al. 2024
  double bias = 0;
  bool per_logsnr = false;
  void fields(Fields& f) {
    f(bias, "bias", "log SNR at which the weight on epsilon is a half").at_least(-50).at_most(50);
    f(per_logsnr,
      "per_logsnr",
      "as in the papers' integral over log SNR, whatever the schedule: times the log SNR that a "
      "step covers; false: the schedule's own density counts, too");
  }
  Weight operator()(const WeightQuery& q) const {
    const double snr = q.level.snr();
    // The bound is 1/2 |eps - eps_hat|^2 per unit of log SNR (Kingma & Gao 2023, eq. 3).
    const double density = per_logsnr ? 2 * q.bound / snr : 1;
    return on_eps(snr, density / (1 + snr * std::exp(-bias)));
  }
};

struct Vlb {  // Ho et al. 2020, eq. 8 and 12
  void fields(Fields&) {}
  Weight operator()(const WeightQuery& q) const {
    return {.on_x0 = q.bound, .published = q.bound / q.level.snr()};
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
      Weighting::row<TableWeighting>("table", "a curve over log SNR from a text file", ""),
  };
  return table;
}

struct TableWeighting::Curve {
  std::string file;
  std::vector<std::pair<double, double>> points;  // log SNR ascending, weight
};

void TableWeighting::fields(Fields& f) {
  f(file, "file", "text file with a log SNR and a weight a line; '#' starts a comment")
      .path()
      .must_be_set();
  f(on_x0, "on_x0", "the weights are on the x0 error; false: on the epsilon error");
}

const TableWeighting::Curve& TableWeighting::curve() const {
  if (curve_ && curve_->file == file) return *curve_;
  auto curve = std::make_shared<Curve>();
  curve->file = file;
  for (const auto& row : read_number_file(file, 2)) {
    if (row[1] < 0)
      throw Error(Exit::config,
                  file + ": the weight at log SNR " + shortest(row[0]) + " is below 0");
    curve->points.emplace_back(row[0], row[1]);
  }
  std::sort(curve->points.begin(), curve->points.end());
  if (curve->points.empty()) throw Error(Exit::config, file + " holds no row");
  for (size_t i = 1; i < curve->points.size(); ++i)
    if (curve->points[i].first == curve->points[i - 1].first)
      throw Error(Exit::config,
                  file + " has two weights for log SNR " + shortest(curve->points[i].first));
  curve_ = curve;
  return *curve_;
}

Weight TableWeighting::operator()(const WeightQuery& q) const {
  const auto& points = curve().points;
  const double logsnr = q.level.logsnr;
  double w = 0;
  const auto after =
      std::lower_bound(points.begin(), points.end(), logsnr, [](const auto& point, double x) {
        return point.first < x;
      });
  if (after == points.begin() || after == points.end()) {
    w = after == points.end() ? points.back().second : after->second;
  } else {
    const auto& [x1, w1] = *after;
    const auto& [x0, w0] = *(after - 1);
    const double way = (logsnr - x0) / (x1 - x0);
    // A weight of 0 has no logarithm.
    w = w0 > 0 && w1 > 0 ? std::exp(std::log(w0) + way * (std::log(w1) - std::log(w0)))
                         : w0 + way * (w1 - w0);
  }
  const double snr = q.level.snr();
  return on_x0 ? Weight{.on_x0 = w, .published = w / snr} : on_eps(snr, w);
}

double bound_weight(const Process& process, const Variance& variance, const NoisePoint& point) {
  if (point.t < 0) return -0.5 * point.level.snr() * point.slope;  // dSNR/du = SNR d(log SNR)/du
  const Chain& chain = process.chain();
  const ModelVariance model = variance(chain, point.t);
  const double sigma2 = model.learned ? clipped_posterior_variance(chain, point.t) : model.fixed;
  const double c1 = chain.posterior_mean_x0[static_cast<size_t>(point.t)];
  return c1 * c1 / (2 * sigma2);
}

double network_weight(const Process& process,
                      const Prediction& prediction,
                      const Weighting& weighting,
                      WeightOn on,
                      const Variance& variance,
                      const NoisePoint& point) {
  const Weight w = weighting(WeightQuery{.level = point.level,
                                         .prediction = prediction,
                                         .bound = bound_weight(process, variance, point)});
  const double c_out = prediction(point.level).c_out;
  // |x0 - x0_hat|^2 = c_out^2 |F* - F|^2
  const double weight = on == WeightOn::network ? w.published : w.on_x0 * c_out * c_out;
  if (!std::isfinite(weight) || weight < 0)
    throw Error(
        Exit::config,
        "weighting '" + weighting.name() + "' with target '" + prediction.name() +
            "' has no finite weight at " +
            (point.t < 0 ? "time " + shortest(point.level.t) : "step " + std::to_string(point.t)) +
            " (SNR " + significant(point.level.snr(), 6) + ")");
  return weight;
}

}  // namespace diffuse
