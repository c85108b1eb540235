// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/fields.h"
#include "nn/network_cost.h"

namespace diffuse {

enum class Resample { conv, resnet };
enum class TimeEmbedding { add, scale_shift };  // how a residual block takes it in

/// The time-conditioned U-Net: config section `model`. With the default options it computes what
/// diffusers' UNet2DModel computes for the same weights.
struct UNetOptions {
  int64_t base_channels = 64;
  std::vector<int64_t> channel_mult{1, 2, 2};  // width of each level / base_channels, finest first
  int64_t blocks_per_level = 2;
  std::vector<int64_t> attention_at{16};  // heights of the feature map whose levels get attention
  int64_t head_channels = 8;              // channels of one attention head
  bool mid_attention = true;
  int64_t norm_groups = 32;
  double norm_eps = 1e-5;
  double dropout = 0.0;
  Resample downsample = Resample::conv;
  Resample upsample = Resample::conv;
  TimeEmbedding time_embedding = TimeEmbedding::add;
  bool flip_sin_to_cos = true;
  double freq_shift = 0.0;
  int64_t downsample_padding = 1;
  bool class_conditional = false;
  bool zero_init = true;
  void fields(Fields& f);

  /// Height and width must be multiples of this: each level but the first halves the picture.
  int64_t size_divisor() const;

  /// Reasons why the network cannot be built for `image_channels` x height x width; empty when it
  /// can. Each names the sizes or numbers that work; a size that cannot be halved often enough
  /// comes first.
  std::vector<std::string> problems(int64_t image_channels, int64_t height, int64_t width) const;

  /// Of a network without problems(). `fused` as runtime.fused, which keeps fewer maps.
  NetworkCost cost(int64_t in_channels,
                   int64_t out_channels,
                   int64_t height,
                   int64_t width,
                   int64_t num_classes = 0,
                   bool fused = true) const;
  int64_t macs(int64_t in_channels, int64_t out_channels, int64_t height, int64_t width) const {
    return cost(in_channels, out_channels, height, width).macs;
  }
};

}  // namespace diffuse
