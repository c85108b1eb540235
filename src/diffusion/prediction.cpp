// SPDX-License-Identifier: MIT
#include "diffusion/prediction.h"

#include <cmath>

namespace diffuse {
namespace {

struct NoOptions {
  void fields(Fields&) {}
};

struct Epsilon : NoOptions {  // x0 = (z - sigma eps) / alpha: Ho et al. 2020, eq. 15 with eq. 4
  Coefficients operator()(const Level& l) const {
    return {.c_skip = 1 / l.alpha, .c_out = -l.sigma / l.alpha, .c_in = l.c_in, .c_noise = l.t};
  }
};

struct X0 : NoOptions {
  Coefficients operator()(const Level& l) const {
    return {.c_skip = 0, .c_out = 1, .c_in = l.c_in, .c_noise = l.t};
  }
};

struct Velocity : NoOptions {  // v = alpha eps - sigma x0: Salimans & Ho 2022, sec. 4; off the
                               // variance-preserving path divided by alpha^2 + sigma^2
  Coefficients operator()(const Level& l) const {
    const double scale = l.alpha * l.alpha + l.sigma * l.sigma;
    return {.c_skip = l.alpha / scale, .c_out = -l.sigma / scale, .c_in = l.c_in, .c_noise = l.t};
  }
};

struct Score : NoOptions {  // s = -eps / sigma: Song et al. 2021, sec. 2
  Coefficients operator()(const Level& l) const {
    return {.c_skip = 1 / l.alpha,
            .c_out = l.sigma * l.sigma / l.alpha,
            .c_in = l.c_in,
            .c_noise = l.t};
  }
};

struct Flow : NoOptions {  // u = eps - x0: Liu et al. 2022, eq. 1; z = (alpha + sigma) x0 + sigma u
  Coefficients operator()(const Level& l) const {
    const double sum = l.alpha + l.sigma;
    return {.c_skip = 1 / sum, .c_out = -l.sigma / sum, .c_in = l.c_in, .c_noise = l.t};
  }
};

struct Mu : NoOptions {  // mu~ = c_1 x0 + c_2 z, the mean of q(z_{t-1} | z_t, x0): Ho et al. 2020,
                         // eq. 7 and 8
  Coefficients operator()(const Level& l) const {
    return {
        .c_skip = -l.mean_z / l.mean_x0, .c_out = 1 / l.mean_x0, .c_in = l.c_in, .c_noise = l.t};
  }
};

struct Edm {  // Karras et al. 2022, Table 1, with sigma / alpha for sigma and z / alpha for x
  double sigma_data = 0.5;
  void fields(Fields& f) { f(sigma_data, "sigma_data", "standard deviation of the data").above(0); }
  Coefficients operator()(const Level& l) const {
    const double data = sigma_data * l.alpha;
    const double variance = l.sigma * l.sigma + data * data;
    return {.c_skip = sigma_data * data / variance,
            .c_out = l.sigma * sigma_data / std::sqrt(variance),
            .c_in = 1 / std::sqrt(variance),
            .c_noise = -l.logsnr / 8};  // ln(sigma / alpha) / 4
  }
};

}  // namespace

const Prediction::Table& predictions() {
  static const Prediction::Table table{
      Prediction::row<Epsilon>("epsilon", "the noise eps", "Ho et al. 2020, eq. 14"),
      Prediction::row<X0>("x0", "the clean picture", "Ho et al. 2020, section 3.2"),
      Prediction::row<Velocity>(
          "velocity", "v = alpha eps - sigma x0", "Salimans & Ho 2022, section 4"),
      Prediction::row<Score>("score", "the score -eps / sigma", "Song et al. 2021, section 2"),
      Prediction::row<Flow>("flow", "the flow's velocity eps - x0", "Liu et al. 2022, eq. 1"),
      Prediction::row<Mu>("mu", "the mean of the step before", "Ho et al. 2020, eq. 8"),
      Prediction::row<Edm>("edm",
                           "preconditioned: x0 at high noise, the noise at low",
                           "Karras et al. 2022, Table 1"),
  };
  return table;
}

TargetCoefficients target_coefficients(const Prediction& prediction, const Level& level) {
  // F* = (x0 - c_skip (alpha x0 + sigma eps)) / c_out
  const Coefficients c = prediction(level);
  return {.x0 = (1 - c.c_skip * level.alpha) / c.c_out, .eps = -c.c_skip * level.sigma / c.c_out};
}

Conversion convert(const Prediction& from, const Prediction& to, const Level& level) {
  // Both give the same x_hat: c_skip z + c_out F.
  const Coefficients a = from(level);
  const Coefficients b = to(level);
  return {.z = (a.c_skip - b.c_skip) / b.c_out, .f = a.c_out / b.c_out};
}

}  // namespace diffuse
