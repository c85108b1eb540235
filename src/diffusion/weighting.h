// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <vector>

#include "base/choice.h"
#include "diffusion/chain.h"
#include "diffusion/prediction.h"
#include "diffusion/variance.h"

// How to add a weighting: a struct whose operator() gives the weight on |x0 - x0_hat|^2 and one row
// in weighting.cpp's table. One space for all makes papers comparable; the loss itself is computed
// on the network's output with the exactly converted weight, so nothing cancels at high noise.

namespace diffuse {

struct WeightQuery {
  const Chain& chain;
  int64_t t;  // 0..T-1
  const Prediction& prediction;
  const Variance& variance;
};

struct Weight {
  double on_x0;      // on |x0 - x0_hat|^2
  double published;  // the paper's number: on |eps - eps_hat|^2, or on the network's own loss for
                     // `simple`
};

using Weighting = Choice<Weight(const WeightQuery&)>;

/// simple, snr, min_snr, vlb.
const Weighting::Table& weightings();

/// Which loss a weighting's published weights multiply.
enum class WeightOn {
  epsilon,  // as in the papers: w |eps - eps_hat|^2, converted exactly to the network's target
  network,  // as some public code does: the same numbers w on the network's own |F* - F|^2
};

/// The weight on |F* - F|^2 for every t of the chain. Finite and >= 0, else Error{config} with the
/// reason.
std::vector<double> network_weights(const Chain& chain,
                                    const Prediction& prediction,
                                    const Weighting& weighting,
                                    WeightOn on,
                                    const Variance& variance);

}  // namespace diffuse
