// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "nn/blocks.h"
#include "nn/params.h"
#include "nn/unet_options.h"
#include "ops/noise.h"

namespace diffuse {

/// The time-conditioned U-Net of DDPM (Ho et al. 2020, appendix B) and its descendants. It owns no
/// weights: forward takes any tensors of its layout, so raw and EMA weights are used in place.
class UNet {
 public:
  /// `num_classes` 0: no class embedding. The options must have no problems() for the size.
  /// `fused`: channels-last, with the kernels of ops/, and bfloat16 without autocast. `more` may
  /// register parameters that belong to the model beside the network.
  UNet(const UNetOptions& options,
       int64_t in_channels,
       int64_t out_channels,
       int64_t height,
       int64_t width,
       int64_t num_classes,
       bool fused = false,
       const std::function<void(ParamLayout&)>& more = nullptr);

  const ParamLayout& layout() const { return layout_; }
  int64_t parameter_count() const { return layout_.count(); }
  int64_t num_classes() const { return num_classes_; }

  /// x [n, in_channels, height, width], float32 or float64 like the weights; t [n], the chain index
  /// (any real number); labels [n] int64 in [0, num_classes), undefined exactly when there are no
  /// classes; dropout: null for evaluation; bf16: convolutions and attention in bfloat16, sums and
  /// norms in float32. Returns [n, out_channels, height, width], contiguous; of type bfloat16 with
  /// `bf16`.
  at::Tensor forward(const Weights& weights,
                     const at::Tensor& x,
                     const at::Tensor& t,
                     const at::Tensor& labels,
                     const StepKey* dropout,
                     bool bf16 = false) const;
  /// Weights that forward() with bf16 has nothing left to round of.
  Weights rounded(const Weights& weights) const;
  bool fused() const { return fused_; }

 private:
  /// Pass::times, by one matrix product.
  std::vector<at::Tensor> times_of(const Pass& pass) const;
  /// Without a cast that is not wanted.
  at::Tensor forward_as_is(const Weights& weights,
                           const at::Tensor& x,
                           const at::Tensor& t,
                           const at::Tensor& labels,
                           const StepKey* dropout) const;

  struct Level {
    std::vector<ResBlock> blocks;
    std::vector<AttentionBlock> attention;  // one after each block, or none
    std::optional<Resampler> resampler;     // at the end
  };

  UNetOptions options_;
  int64_t in_channels_;
  int64_t height_;
  int64_t width_;
  int64_t num_classes_;
  bool fused_;
  ParamLayout layout_;

  Conv conv_in_;
  TimeEmbedder time_;
  std::vector<Linear> time_layers_;  // of all residual blocks
  std::vector<Level> down_;
  Level middle_;
  std::vector<Level> up_;
  Norm norm_out_;
  Conv conv_out_;
};

}  // namespace diffuse
