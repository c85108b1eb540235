// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/choice.h"
#include "diffusion/path.h"

// How to add a schedule: a struct with fields() and operator()(T) -> beta[T] (a chain), or -> a
// ContinuousSchedule, and one row in schedule.cpp's table. The tests loop over the table.

namespace diffuse {

/// log SNR as a function of time, falling.
struct LogSnr {
  double value = 0;
  double slope = 0;  // d value / du, < 0
};

/// A schedule without steps. Two parametrisations of one noise axis:
struct ContinuousSchedule {
  /// u in (0, 1), uniform, gives the noise levels that are trained: the schedule's own density.
  std::function<LogSnr(double u)> train;
  /// v in [0, 1] from the clean to the noisy end: the levels that a chain of T steps visits, which
  /// sampling and the bound use.
  std::function<double(double v)> chain;
  /// The schedule's time, 1/1000 of what the network sees: the inverse of `chain`, up to t_min
  /// where a schedule has one, also beyond its ends.
  std::function<double(double logsnr)> time;
  Path path = Path::vp;  // the paper's own
};

/// What a schedule is: a chain's beta_0..beta_{T-1}, or a continuous schedule.
struct Noising {
  Noising(std::vector<double> betas) : beta(std::move(betas)) {}             // NOLINT: on purpose
  Noising(ContinuousSchedule schedule) : continuous(std::move(schedule)) {}  // NOLINT
  std::vector<double> beta;
  std::optional<ContinuousSchedule> continuous;
};

/// T (>= 1) -> the noising. Throws Error{config} when the options allow no such chain.
using Schedule = Choice<Noising(int64_t)>;

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

/// beta(t) = beta_min + t (beta_max - beta_min), t from t_min to 1: Song et al. 2021, sec. 3.4 and
/// appendix B; Ho et al. 2020 in the limit of many steps.
struct VpSchedule {
  double beta_min = 0.1;
  double beta_max = 20;
  double t_min = 1e-5;
  void fields(Fields& f);
  ContinuousSchedule operator()(int64_t steps) const;
};

/// sigma from sigma_min to sigma_max in equal steps of its logarithm: Song et al. 2021, appendix C.
struct VeSchedule {
  double sigma_min = 0.01;
  double sigma_max = 50;
  void fields(Fields& f);
  ContinuousSchedule operator()(int64_t steps) const;
};

/// ln(sigma) ~ N(p_mean, p_std^2) in training; a chain visits sigma^(1/rho) in equal steps: Karras
/// et al. 2022, Table 1 and eq. 5.
struct EdmSchedule {
  double p_mean = -1.2;
  double p_std = 1.2;
  double sigma_min = 0.002;
  double sigma_max = 80;
  double rho = 7;
  void fields(Fields& f);
  ContinuousSchedule operator()(int64_t steps) const;
};

enum class FlowDensity { uniform, logit_normal, mode };

/// sigma = t, alpha = 1 - t (t = 1 is noise): Liu et al. 2022; Lipman et al. 2022; densities of t:
/// Esser et al. 2024, sec. 3.1.
struct FlowSchedule {
  FlowDensity density = FlowDensity::uniform;
  double mean = 0;      // of logit_normal; above 0: more noise
  double std = 1;       // of logit_normal
  double scale = 1.29;  // of mode
  double t_min = 1e-5;  // t from t_min to 1 - t_min
  void fields(Fields& f);
  ContinuousSchedule operator()(int64_t steps) const;
};

/// log SNR = -2 log tan(pi t / 2) between two ends, shifted for the size of the pictures: Hoogeboom
/// et al. 2023 (simple diffusion), sec. 3.1.
struct ShiftedCosineSchedule {
  double logsnr_max = 15;
  double logsnr_min = -15;
  double reference_size = 64;
  double size = 64;
  void fields(Fields& f);
  ContinuousSchedule operator()(int64_t steps) const;
};

/// The logistic alpha_bar of SigmoidSchedule without steps.
struct ContinuousSigmoidSchedule {
  double start = -3;
  double end = 3;
  double tau = 1;
  double t_min = 1e-5;  // t from t_min to 1 - t_min
  void fields(Fields& f);
  ContinuousSchedule operator()(int64_t steps) const;
};

/// log SNR ~ Laplace(mu, b) in training, cut at the ends; a chain visits it in equal steps: Hang et
/// al. 2024, "Improved noise schedule for diffusion training", sec. 3.
struct LaplaceSchedule {
  double mu = 0;
  double b = 0.5;
  double logsnr_max = 10;
  double logsnr_min = -10;
  void fields(Fields& f);
  ContinuousSchedule operator()(int64_t steps) const;
};

}  // namespace diffuse
