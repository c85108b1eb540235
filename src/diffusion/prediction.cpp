// SPDX-License-Identifier: MIT
#include "diffusion/prediction.h"

namespace diffuse {
namespace {

struct NoOptions {
  void fields(Fields&) {}
};

struct Epsilon : NoOptions {  // x0 = (z - sigma eps) / alpha: Ho et al. 2020, eq. 15 with eq. 4
  Coefficients operator()(const Level& l) const {
    return {.c_skip = 1 / l.alpha, .c_out = -l.sigma / l.alpha, .c_in = 1, .c_noise = l.t};
  }
};

struct X0 : NoOptions {
  Coefficients operator()(const Level& l) const {
    return {.c_skip = 0, .c_out = 1, .c_in = 1, .c_noise = l.t};
  }
};

struct Velocity : NoOptions {  // v = alpha eps - sigma x0: Salimans & Ho 2022, sec. 4
  Coefficients operator()(const Level& l) const {
    return {.c_skip = l.alpha, .c_out = -l.sigma, .c_in = 1, .c_noise = l.t};
  }
};

struct Score : NoOptions {  // s = -eps / sigma: Song et al. 2021, sec. 2
  Coefficients operator()(const Level& l) const {
    return {.c_skip = 1 / l.alpha, .c_out = l.sigma * l.sigma / l.alpha, .c_in = 1, .c_noise = l.t};
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
