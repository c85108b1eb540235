// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "nn/blocks.h"
#include "nn/mlp_options.h"
#include "nn/params.h"
#include "ops/noise.h"

namespace diffuse {

/// A multilayer perceptron with residual layers and the U-Net's time embedding, for data of one
/// pixel: points in the plane are two channels of 1 x 1. It owns no weights, like UNet.
class Mlp {
 public:
  /// `num_classes` 0: no class embedding. The options must have no problems(). `more` may register
  /// parameters that belong to the model beside the network.
  Mlp(const MlpOptions& options,
      int64_t in_channels,
      int64_t out_channels,
      int64_t num_classes,
      const std::function<void(ParamLayout&)>& more = nullptr);

  const ParamLayout& layout() const { return layout_; }
  int64_t parameter_count() const { return layout_.count(); }
  int64_t num_classes() const { return num_classes_; }

  /// x [n, in_channels, 1, 1], float32 or float64 like the weights; t [n], the chain index (any
  /// real number); labels [n] int64 in [0, num_classes), undefined exactly when there are no
  /// classes; dropout: null for evaluation; bf16: matrix products in bfloat16. Returns [n,
  /// out_channels, 1, 1], contiguous; of type bfloat16 with `bf16`.
  at::Tensor forward(const Weights& weights,
                     const at::Tensor& x,
                     const at::Tensor& t,
                     const at::Tensor& labels,
                     const StepKey* dropout,
                     bool bf16 = false) const;

 private:
  struct Layer {
    Linear linear1;
    Linear time;
    Linear linear2;
  };

  MlpOptions options_;
  int64_t in_channels_;
  int64_t num_classes_;
  ParamLayout layout_;

  Linear linear_in_;
  TimeEmbedder time_;
  std::vector<Layer> layers_;
  Linear linear_out_;
};

/// x [n, channels] and sin, cos of 2^k pi x for k = 0 .. octaves - 1: [n, channels (1 + 2
/// octaves)]. A network of smooth activations learns fine structure slowly from the coordinates
/// alone: Tancik et al. 2020, "Fourier features let networks learn high frequency functions".
at::Tensor with_fourier_features(const at::Tensor& x, int64_t octaves);

}  // namespace diffuse
