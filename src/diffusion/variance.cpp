// SPDX-License-Identifier: MIT
#include "diffusion/variance.h"

#include <cmath>

namespace diffuse {
namespace {

struct FixedSmall {
  void fields(Fields&) {}
  ModelVariance operator()(const Chain& chain, int64_t t) const {
    return {.fixed = clipped_posterior_variance(chain, t)};
  }
};

struct FixedLarge {
  void fields(Fields&) {}
  ModelVariance operator()(const Chain& chain, int64_t t) const {
    return {.fixed =
                t == 0 ? clipped_posterior_variance(chain, 0) : chain.beta[static_cast<size_t>(t)]};
  }
};

struct Learned {  // the network's output is log sigma^2
  void fields(Fields&) {}
  ModelVariance operator()(const Chain&, int64_t) const {
    return {.learned = true, .log_offset = 0, .log_slope = 1};
  }
};

struct LearnedRange {  // exp(f log beta + (1 - f) log beta~), f = (v + 1) / 2: Nichol & Dhariwal
                       // 2021, eq. 15
  void fields(Fields&) {}
  ModelVariance operator()(const Chain& chain, int64_t t) const {
    const double high = std::log(chain.beta[static_cast<size_t>(t)]);
    const double low = std::log(clipped_posterior_variance(chain, t));
    return {.learned = true, .log_offset = (high + low) / 2, .log_slope = (high - low) / 2};
  }
};

}  // namespace

double clipped_posterior_variance(const Chain& chain, int64_t t) {
  return t > 0 ? chain.posterior_variance[static_cast<size_t>(t)] : chain.decoder_variance;
}

const Variance::Table& variances() {
  static const Variance::Table table{
      Variance::row<FixedSmall>("fixed_small",
                                "the posterior variance beta~: right for data at a single point",
                                "Ho et al. 2020, section 3.2"),
      Variance::row<FixedLarge>("fixed_large",
                                "beta: right for standard normal data on path vp",
                                "Ho et al. 2020, section 3.2"),
      Variance::row<Learned>(
          "learned", "log sigma^2 from the network", "Nichol & Dhariwal 2021, section 3.1"),
      Variance::row<LearnedRange>("learned_range",
                                  "between beta~ and beta on the log scale, from the network",
                                  "Nichol & Dhariwal 2021, eq. 15"),
  };
  return table;
}

bool is_learned(const Variance& variance) {
  return variance.name() == "learned" || variance.name() == "learned_range";
}

}  // namespace diffuse
