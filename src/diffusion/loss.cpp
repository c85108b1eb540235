// SPDX-License-Identifier: MIT
#include "diffusion/loss.h"

namespace diffuse {
namespace {

struct Mse {
  void fields(Fields&) {}
  LossTerms operator()() const { return {}; }
};

struct Huber {  // Huber 1964, times 2 so that small errors count as with mse
  double delta = 1;
  void fields(Fields& f) { f(delta, "delta", "errors beyond this count in proportion").above(0); }
  LossTerms operator()() const { return {.huber = delta}; }
};

struct Hybrid {  // L_simple + lambda L_vlb with the mean detached: Nichol & Dhariwal 2021, eq. 16.
                 // The authors' code takes T / 1000 times the term of one t in bits a dimension,
                 // which is lambda = 0.001 of the whole bound: 0.001 / ln 2 = 1.4427e-3 in nats.
  double lambda = 0.001;
  void fields(Fields& f) {
    f(lambda,
      "lambda",
      "weight of the bound in bits a dimension, over all T steps; 0.001 is T / 1000 of one step, "
      "or 1.44e-3 in nats")
        .above(0)
        .at_most(1000);
  }
  LossTerms operator()() const { return {.bound = lambda}; }
};

struct FullBound {  // T L_t in bits a dimension, whose mean over uniform t is L_vlb: Nichol &
                    // Dhariwal 2021, sec. 3.3
  void fields(Fields&) {}
  LossTerms operator()() const { return {.error = false, .bound = 1, .bound_of_mean = true}; }
};

}  // namespace

const LossKind::Table& loss_kinds() {
  static const LossKind::Table table{
      LossKind::row<Mse>("mse", "the weighted squared error", "Ho et al. 2020, eq. 14"),
      LossKind::row<Huber>("huber", "squared up to delta, then linear", "Huber 1964"),
      LossKind::row<Hybrid>("hybrid",
                            "mse, and a little of the bound for a learned variance",
                            "Nichol & Dhariwal 2021, eq. 16"),
      LossKind::row<FullBound>("vlb",
                               "the variational bound in bits a dimension, decoder included",
                               "Nichol & Dhariwal 2021, section 3.3"),
  };
  return table;
}

}  // namespace diffuse
