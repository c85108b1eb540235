// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <string>

#include "base/choice.h"
#include "diffusion/prediction.h"
#include "diffusion/process.h"
#include "diffusion/variance.h"

// How to add a weighting: a struct whose operator() gives the weight on |x0 - x0_hat|^2 and one row
// in weighting.cpp's table. One space for all makes papers comparable; the loss itself is computed
// on the network's output with the exactly converted weight, so nothing cancels at high noise.

namespace diffuse {

struct WeightQuery {
  const Level& level;
  const Prediction& prediction;
  double bound;  // on |x0 - x0_hat|^2 in the variational bound, in nats; see bound_weight
};

struct Weight {
  double on_x0;      // on |x0 - x0_hat|^2
  double published;  // the paper's number: on |eps - eps_hat|^2, or on the network's own loss for
                     // `simple`
};

using Weighting = Choice<Weight(const WeightQuery&)>;

/// simple, snr, min_snr, soft_min_snr, truncated_snr, p2, debiased, edm, sigmoid, vlb, table.
const Weighting::Table& weightings();

/// Which loss a weighting's published weights multiply.
enum class WeightOn {
  epsilon,  // as in the papers: w |eps - eps_hat|^2, converted exactly to the network's target
  network,  // as some public code does: the same numbers w on the network's own |F* - F|^2
};

/// The bound's weight on |x0 - x0_hat|^2 in nats: L_{t-1}'s with a fixed variance on a chain
/// (Ho et al. 2020, eq. 8; at t = 0 a Gaussian decoder; for a learned variance beta~), and
/// -1/2 dSNR/du where time is continuous (Kingma et al. 2021, eq. 17), which is T times as much.
double bound_weight(const Process& process, const Variance& variance, const NoisePoint& point);

/// The weight on |F* - F|^2 at a level. Finite and >= 0, else Error{config} with the reason.
double network_weight(const Process& process,
                      const Prediction& prediction,
                      const Weighting& weighting,
                      WeightOn on,
                      const Variance& variance,
                      const NoisePoint& point);

/// A curve from a file: rows of log SNR and weight. Between rows the weight's logarithm is a
/// straight line, beyond them the weight is constant.
struct TableWeighting {
  std::string file;
  bool on_x0 = false;
  void fields(Fields& f);
  Weight operator()(const WeightQuery& q) const;

 private:
  struct Curve;
  const Curve& curve() const;
  mutable std::shared_ptr<const Curve> curve_;  // read once
};

}  // namespace diffuse
