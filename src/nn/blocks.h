// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "nn/params.h"
#include "nn/unet_options.h"
#include "ops/group_norm.h"

// The pieces of the U-Net: values that know the numbers of their parameters and are called with the
// weights. Feature maps are [n, channels, height, width], of the weights' type, or bfloat16 under
// autocast or where the weights of convolutions and of attention are.

namespace diffuse {

/// [..., in] -> [..., out].
struct Linear {
  int64_t weight = -1;  // [out, in]
  int64_t bias = -1;    // [out]

  /// `zero`: starts at zero; `half`: ParamInfo::half.
  static Linear build(ParamLayout& layout,
                      const std::string& name,
                      int64_t in,
                      int64_t out,
                      bool zero = false,
                      bool half = false);
  at::Tensor operator()(const Weights& weights, const at::Tensor& x) const;
};

/// What the pieces need while the network is laid out.
struct Builder {
  ParamLayout& layout;
  const UNetOptions& options;
  int64_t embedding;            // channels of the time embedding
  int64_t dropout_blocks = 0;   // of a random stream, given to the dropout layers so far
  std::vector<Linear> times{};  // the residual blocks' layers of the embedding
};

/// What the pieces need in one forward pass.
struct Pass {
  const Weights& weights;
  const UNetOptions& options;
  const StepKey* dropout;  // null: none
  bool fused;              // channels-last, with the kernels of ops/
  at::Tensor
      embedding;  // [n, embedding], after the activation: every residual block starts with it
  std::vector<at::Tensor> times{};  // it behind each block's layer, in the order of Builder::times;
                                    // empty: the blocks' own work

  const at::Tensor& operator[](int64_t i) const { return weights[static_cast<size_t>(i)]; }
};

/// Two layers over the sinusoids of the time, plus one learned row for each class.
struct TimeEmbedder {
  Linear linear1;
  Linear linear2;
  int64_t classes = -1;  // [num_classes, embedding]; -1: none

  /// [n, channels] -> [n, embedding]; `num_classes` 0: no classes.
  static TimeEmbedder build(ParamLayout& layout,
                            int64_t channels,
                            int64_t embedding,
                            int64_t num_classes);
  /// labels [n] int64, undefined exactly when there are no classes; fused: see Pass.
  at::Tensor operator()(const Weights& weights,
                        const at::Tensor& sinusoids,
                        const at::Tensor& labels,
                        bool fused) const;
};

/// [n, in, h, w] -> [n, out, h, w], since the padding is kernel / 2 unless told otherwise.
struct Conv {
  int64_t weight = -1;  // [out, in, kernel, kernel]
  int64_t bias = -1;    // [out]
  int64_t padding = 0;

  /// `kernel` is odd; `zero`: starts at zero.
  static Conv build(Builder& b,
                    const std::string& name,
                    int64_t in,
                    int64_t out,
                    int64_t kernel,
                    bool zero = false);
  /// Plus `added` [n, out, h, w] where that is defined.
  at::Tensor operator()(const Pass& pass, const at::Tensor& x, const at::Tensor& added = {}) const;
  /// With stride 2: [n, out, h / 2, w / 2], for even h and w.
  at::Tensor halved(const Pass& pass, const at::Tensor& x) const;
};

/// GroupNorm (Wu & He 2018) of [n, channels, h, w], of the same shape; a multiple of norm_groups
/// channels.
struct Norm {
  int64_t weight = -1;  // [channels]
  int64_t bias = -1;    // [channels]

  static Norm build(Builder& b, const std::string& name, int64_t channels);
  /// With what `around` has around it; its other members are set here.
  Normed operator()(const Pass& pass, const at::Tensor& x, NormLayer around) const;
};

/// Norm, SiLU, (resize,) conv, time embedding, norm, SiLU, dropout, conv, around a skip connection:
/// [n, in, h, w] -> [n, out, h', w'], h' and w' being h and w, their halves (rounded down) or their
/// doubles. The result is a new tensor.
struct ResBlock {
  enum class Resize { none, down, up };

  Norm norm1;
  Conv conv1;
  Linear time;
  Norm norm2;
  Conv conv2;
  std::optional<Conv> shortcut;  // where the width changes
  Resize resize = Resize::none;
  int64_t number = 0;         // among the residual blocks
  int64_t dropout_block = 0;  // first block of its masks' stream (ops/noise.h)

  /// `height` and `width` are those of the output.
  static ResBlock build(Builder& b,
                        const std::string& name,
                        int64_t in,
                        int64_t out,
                        int64_t height,
                        int64_t width,
                        Resize resize = Resize::none);
  at::Tensor operator()(const Pass& pass, const at::Tensor& x) const;
};

/// Multi-head self-attention over the pixels of a feature map (Vaswani et al. 2017, sec. 3.2),
/// around a skip connection: [n, channels, h, w], of the same shape; a multiple of head_channels
/// channels.
struct AttentionBlock {
  Norm norm;
  Linear query;
  Linear key;
  Linear value;
  Linear out;

  static AttentionBlock build(Builder& b, const std::string& name, int64_t channels);
  at::Tensor operator()(const Pass& pass, const at::Tensor& x) const;
};

/// Halves or doubles a feature map: a convolution (strided, or after nearest-neighbour upsampling)
/// or a residual block that resizes. [n, channels, h, w] -> [n, channels, h/2, w/2], h and w even,
/// or [n, channels, 2h, 2w].
struct Resampler {
  bool up = false;
  std::optional<Conv> conv;
  std::optional<ResBlock> block;

  /// `height` and `width` are those of the output.
  static Resampler build(Builder& b,
                         const std::string& name,
                         bool up,
                         int64_t channels,
                         int64_t height,
                         int64_t width);
  at::Tensor operator()(const Pass& pass, const at::Tensor& x) const;
};

/// Sinusoids of t (Vaswani et al. 2017, section 3.5), [n] to [n, channels], of type `type`:
/// float64, or float32, in which case every step is rounded as in diffusers. An odd last channel is
/// 0; channels / 2 > freq_shift.
at::Tensor time_sinusoids(const at::Tensor& t,
                          int64_t channels,
                          bool flip_sin_to_cos,
                          double freq_shift,
                          at::ScalarType type);

}  // namespace diffuse
