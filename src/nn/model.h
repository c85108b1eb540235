// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <variant>

#include "nn/mlp.h"
#include "nn/unet.h"

namespace diffuse {

/// A network and, for a learned weight of the noise levels, the small network u(sigma) beside it,
/// in one layout of parameters.
class Model {
 public:
  /// See UNet. `learned_weight`: has u(sigma).
  Model(const UNetOptions& options,
        int64_t in_channels,
        int64_t out_channels,
        int64_t height,
        int64_t width,
        int64_t num_classes,
        bool learned_weight = false,
        bool fused = false);
  /// See Mlp.
  Model(const MlpOptions& options,
        int64_t in_channels,
        int64_t out_channels,
        int64_t num_classes,
        bool learned_weight = false);

  const ParamLayout& layout() const;
  int64_t parameter_count() const { return layout().count(); }
  int64_t num_classes() const;

  /// See UNet::forward and Mlp::forward.
  at::Tensor forward(const Weights& weights,
                     const at::Tensor& x,
                     const at::Tensor& t,
                     const at::Tensor& labels,
                     const StepKey* dropout,
                     bool bf16 = false) const;
  /// For many calls of forward() with bf16: weights that it has nothing left to round of.
  Weights rounded(const Weights& weights) const;
  /// See UNet.
  bool fused() const;

  bool has_level_weight() const { return head_ >= 0; }
  /// u [n] of logsnr [n]: the log of the loss that is expected there (Karras et al. 2024, EDM2:
  /// random Fourier features of ln(sigma / alpha) / 4, one linear layer).
  /// Starts as 0. With has_level_weight() only.
  at::Tensor level_weight(const Weights& weights, const at::Tensor& logsnr) const;

 private:
  /// Registers u(sigma) if it is wanted.
  std::function<void(ParamLayout&)> head(bool wanted);

  int64_t head_ = -1;
  std::variant<UNet, Mlp> network_;
};

}  // namespace diffuse
