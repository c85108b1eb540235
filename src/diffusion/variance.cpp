// SPDX-License-Identifier: MIT
#include "diffusion/variance.h"

namespace diffuse {
namespace {

/// beta~_1, which stands in for beta~_0 = 0; a chain of one step has only its beta.
double first_variance(const Chain& chain) {
  return chain.steps() > 1 ? chain.posterior_variance[1] : chain.beta[0];
}

struct FixedSmall {
  void fields(Fields&) {}
  double operator()(const Chain& chain, int64_t t) const {
    return t == 0 ? first_variance(chain) : chain.posterior_variance[static_cast<size_t>(t)];
  }
};

struct FixedLarge {
  void fields(Fields&) {}
  double operator()(const Chain& chain, int64_t t) const {
    return t == 0 ? first_variance(chain) : chain.beta[static_cast<size_t>(t)];
  }
};

}  // namespace

const Variance::Table& variances() {
  static const Variance::Table table{
      Variance::row<FixedSmall>("fixed_small",
                                "the posterior variance beta~: right for data at a single point",
                                "Ho et al. 2020, section 3.2"),
      Variance::row<FixedLarge>(
          "fixed_large", "beta: right for standard normal data", "Ho et al. 2020, section 3.2"),
  };
  return table;
}

}  // namespace diffuse
