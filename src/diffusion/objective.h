// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "diffusion/options.h"

namespace diffuse {

/// The training objective on tensors: E_{level, x0, eps} [ w |F*(x0, eps) - F(c_in z, c_noise)|^2 ]
/// and, for the losses that have it, the variational bound. All of its numbers are computed in
/// float64 on the host and rounded once, to float32 on the device. Shapes: x0 and eps are
/// [n, channels, height, width]; F has as many channels, or twice as many when the variance is
/// learned: the mean's come first.
class Objective {
 public:
  /// Throws Error{config} for combinations that check(options) refuses. `bits`: of the data's
  /// levels in [-1, 1], 0 for continuous data; the bound's decoder needs it.
  Objective(const DiffusionOptions& options, at::Device device, int64_t bits = 8);

  const DiffusionOptions& options() const { return options_; }
  const Process& process() const { return process_; }
  bool learns_variance() const { return learns_variance_; }

  /// Some samples' levels; each tensor is [n] float32 on the device.
  struct Rows {
    at::Tensor input_x0, input_eps;    // c_in z = input_x0 x0 + input_eps eps
    at::Tensor time;                   // c_noise: what the network is told
    at::Tensor target_x0, target_eps;  // F* = target_x0 x0 + target_eps eps
    at::Tensor weight;                 // on the error
    at::Tensor share;                  // 1 / (bins x probability of the draw)
    at::Tensor logsnr;
    // For the bound; undefined without it.
    at::Tensor c_out;                  // x0_hat - x0 = c_out (F - F*)
    at::Tensor mean_error;             // mu~(x0_hat) - mu~(x0) = mean_error (F - F*)
    at::Tensor mean_x0;                // = mean_x0 (x0_hat - x0)
    at::Tensor log_posterior;          // log beta~
    at::Tensor log_offset, log_slope;  // of the model's variance
    at::Tensor decoded;                // int64, the rows at t = 0
  };
  Rows rows(const Time* times, int64_t n) const;
  /// What rows() without the bound is made of: [any, n] float32 on the host, to be kept in one
  /// place of the device from step to step; and the rows that are views of it there.
  at::Tensor numbers(const Time* times, int64_t n) const;
  static Rows rows_in(const at::Tensor& numbers);
  /// Whether the loss needs the bound's numbers.
  bool has_bound() const { return terms_.bound > 0; }
  /// Rows for steps of the chain, each with share 1. Where time is continuous the chain is not what
  /// is trained: the weights are 0.
  Rows rows_of_steps(const std::vector<int64_t>& steps) const;
  /// Rows for levels, each with share 1; with those of the bound where all are steps.
  Rows rows_of_points(const std::vector<NoisePoint>& points) const;

  /// What the network is fed: c_in z.
  at::Tensor input(const at::Tensor& x0, const at::Tensor& eps, const Rows& rows) const;
  /// F*, the network output that is right.
  at::Tensor target(const at::Tensor& x0, const at::Tensor& eps, const Rows& rows) const;

  struct Loss {
    at::Tensor weighted;        // [n], what is minimised: error + weighted_bound
    at::Tensor error;           // [n], its part that a learned weight divides; undefined for `vlb`
    at::Tensor weighted_bound;  // [n]; undefined without the bound
    at::Tensor raw;             // [n], |F* - F|^2 averaged over a picture's values
    at::Tensor bound;           // [n], L_t in bits a dimension; undefined without the bound
  };
  /// `fused`: in one pass on a GPU where there is a kernel for it.
  Loss loss(const at::Tensor& output,
            const at::Tensor& x0,
            const at::Tensor& eps,
            const Rows& rows,
            bool fused = false) const;

  /// [n] the term of the bound, in bits a dimension: L_{t-1} = KL(q(z_{t-1} | z_t, x_0) || p), and
  /// at t = 0 the decoder's -log p(x_0 | z_0) (Ho et al. 2020, eq. 5). `error` is F - F*, `v` the
  /// variance's output (undefined where it is fixed).
  at::Tensor bound_bits(const at::Tensor& error,
                        const at::Tensor& v,
                        const at::Tensor& x0,
                        const Rows& rows) const;
  /// The same, `error` being x0_hat - x0: for an estimate that is not the network's own.
  at::Tensor bound_bits_of_estimate(const at::Tensor& error,
                                    const at::Tensor& v,
                                    const at::Tensor& x0,
                                    const Rows& rows) const;

  /// The two parts of an output: F, and v (undefined where the variance is fixed).
  std::pair<at::Tensor, at::Tensor> split(const at::Tensor& output) const;

 private:
  Rows rows_at(const std::vector<NoisePoint>& points,
               const std::vector<double>& shares,
               bool with_bound) const;
  at::Tensor numbers_at(const std::vector<NoisePoint>& points,
                        const std::vector<double>& shares,
                        bool with_bound) const;
  /// mu~(x0_hat) - mu~(x0) = to_mean error, x0_hat - x0 = to_x0 error.
  at::Tensor bound_terms(const at::Tensor& error,
                         const at::Tensor& to_mean,
                         const at::Tensor& to_x0,
                         const at::Tensor& v,
                         const at::Tensor& x0,
                         const Rows& rows) const;

  DiffusionOptions options_;
  Process process_;
  LossTerms terms_;
  bool learns_variance_;
  at::Device device_;
  int64_t bits_;
};

}  // namespace diffuse
