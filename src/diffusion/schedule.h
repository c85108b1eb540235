// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/choice.h"

// How to add a schedule: a struct with fields() and operator()(T) -> beta[T], and one row in
// schedule.cpp's table. The tests loop over the table.

namespace diffuse {

/// T (>= 1) -> beta_0..beta_{T-1}. Throws Error{config} when the options allow no such chain.
using Schedule = Choice<std::vector<double>(int64_t)>;

const Schedule::Table& schedules();

/// beta from beta_start to beta_end in equal steps: Ho et al. 2020, sec. 4 (T = 1000).
struct LinearSchedule {
  double beta_start = 1e-4;
  double beta_end = 0.02;
  bool rescale = true;
  void fields(Fields& f);
  std::vector<double> operator()(int64_t steps) const;
};

/// alpha_bar = f(t+1)/f(0) with f(u) = cos^2((u/T + s)/(1 + s) pi/2), beta capped: Nichol &
/// Dhariwal 2021, eq. 17.
struct CosineSchedule {
  double s = 0.008;
  double beta_max = 0.999;
  void fields(Fields& f);
  std::vector<double> operator()(int64_t steps) const;
};

/// sqrt(beta) in equal steps: the code of Rombach et al. 2022 (latent diffusion); the defaults are
/// Stable Diffusion's.
struct ScaledLinearSchedule {
  double beta_start = 0.00085;
  double beta_end = 0.012;
  bool rescale = true;
  void fields(Fields& f);
  std::vector<double> operator()(int64_t steps) const;
};

/// alpha_bar a logistic curve between start and end: Jabri et al. 2022 / Chen 2023, "On the
/// importance of noise scheduling", alg. 1.
struct SigmoidSchedule {
  double start = -3;
  double end = 3;
  double tau = 1;
  double beta_max = 0.999;
  void fields(Fields& f);
  std::vector<double> operator()(int64_t steps) const;
};

enum class TableValues { beta, alpha_bar };

/// beta or alpha_bar from a text file: one number a line, '#' comments.
struct TableSchedule {
  std::string file;
  TableValues values = TableValues::beta;
  void fields(Fields& f);
  std::vector<double> operator()(int64_t steps) const;
};

}  // namespace diffuse
