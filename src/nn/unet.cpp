// SPDX-License-Identifier: MIT
#include "nn/unet.h"

#include <ATen/ops/cat.h>

#include <algorithm>
#include <string>
#include <utility>

#include "base/error.h"
#include "nn/autocast.h"
#include "ops/channels_last.h"
#include "ops/conv.h"
#include "ops/steady.h"

namespace diffuse {

UNet::UNet(const UNetOptions& options,
           int64_t in_channels,
           int64_t out_channels,
           int64_t height,
           int64_t width,
           int64_t num_classes,
           bool fused,
           const std::function<void(ParamLayout&)>& more)
    : options_(options),
      in_channels_(in_channels),
      height_(height),
      width_(width),
      num_classes_(num_classes),
      fused_(fused),
      layout_(fused) {
  const auto levels = static_cast<int64_t>(options.channel_mult.size());
  DIFFUSE_CHECK(levels > 0 && options.blocks_per_level > 0);
  DIFFUSE_CHECK(height % (int64_t{1} << (levels - 1)) == 0 &&
                width % (int64_t{1} << (levels - 1)) == 0);

  const int64_t embedding = 4 * options.base_channels * options.channel_mult.front();
  Builder b{layout_, options_, embedding};
  const auto channels = [&](int64_t level) {
    return options.base_channels * options.channel_mult[static_cast<size_t>(level)];
  };
  const auto attends = [&](int64_t level) {
    return std::ranges::count(options.attention_at, height >> level) > 0;
  };

  conv_in_ = Conv::build(b, "conv_in", in_channels, channels(0), 3);
  time_ = TimeEmbedder::build(layout_, channels(0), embedding, num_classes);

  std::vector<int64_t> skips{channels(0)};  // the widths that the way up takes in
  int64_t in = channels(0);
  for (int64_t level = 0; level < levels; ++level) {
    const std::string name = "down_blocks." + std::to_string(level);
    const int64_t out = channels(level);
    Level& l = down_.emplace_back();
    for (int64_t i = 0; i < options.blocks_per_level; ++i) {
      const std::string number = std::to_string(i);
      l.blocks.push_back(ResBlock::build(
          b, name + ".resnets." + number, in, out, height >> level, width >> level));
      if (attends(level))
        l.attention.push_back(AttentionBlock::build(b, name + ".attentions." + number, out));
      in = out;
      skips.push_back(out);
    }
    if (level + 1 < levels) {
      l.resampler = Resampler::build(
          b, name + ".downsamplers.0", false, out, height >> (level + 1), width >> (level + 1));
      skips.push_back(out);
    }
  }

  const int64_t top = levels - 1;
  for (const char* name : {"mid_block.resnets.0", "mid_block.resnets.1"})
    middle_.blocks.push_back(ResBlock::build(b, name, in, in, height >> top, width >> top));
  if (options.mid_attention)
    middle_.attention.push_back(AttentionBlock::build(b, "mid_block.attentions.0", in));

  for (int64_t level = top; level >= 0; --level) {
    const std::string name = "up_blocks." + std::to_string(top - level);
    const int64_t out = channels(level);
    Level& l = up_.emplace_back();
    for (int64_t i = 0; i <= options.blocks_per_level; ++i) {
      const std::string number = std::to_string(i);
      l.blocks.push_back(ResBlock::build(
          b, name + ".resnets." + number, in + skips.back(), out, height >> level, width >> level));
      if (attends(level))
        l.attention.push_back(AttentionBlock::build(b, name + ".attentions." + number, out));
      in = out;
      skips.pop_back();
    }
    if (level > 0)
      l.resampler = Resampler::build(
          b, name + ".upsamplers.0", true, out, height >> (level - 1), width >> (level - 1));
  }

  time_layers_ = b.times;
  norm_out_ = Norm::build(b, "conv_norm_out", in);
  conv_out_ = Conv::build(b, "conv_out", in, out_channels, 3, options.zero_init);
  if (more) more(layout_);
  layout_.finalize();
}

at::Tensor UNet::forward(const Weights& weights,
                         const at::Tensor& x,
                         const at::Tensor& t,
                         const at::Tensor& labels,
                         const StepKey* dropout,
                         bool bf16) const {
  if (!bf16) return forward_as_is(weights, x, t, labels, dropout);
  if (!fused_)
    return with_autocast(x.device(), [&] { return forward_as_is(weights, x, t, labels, dropout); });
  return forward_as_is(rounded(weights), x, t, labels, dropout);
}

Weights UNet::rounded(const Weights& weights) const {
  Weights out = weights;
  if (!fused_) return out;  // autocast rounds
  for (size_t i = 0; i < out.size(); ++i)
    if (layout_.infos()[i].half) out[i] = weights[i].to(at::kBFloat16);
  return out;
}

std::vector<at::Tensor> UNet::times_of(const Pass& pass) const {
  std::vector<at::Tensor> weights, biases;
  std::vector<int64_t> sizes;
  for (const Linear& layer : time_layers_) {
    weights.push_back(pass[layer.weight]);
    biases.push_back(pass[layer.bias]);
    sizes.push_back(weights.back().size(0));
  }
  return linear(pass.embedding, at::cat(weights), at::cat(biases)).split_with_sizes(sizes, 1);
}

at::Tensor UNet::forward_as_is(const Weights& weights,
                               const at::Tensor& x,
                               const at::Tensor& t,
                               const at::Tensor& labels,
                               const StepKey* dropout) const {
  DIFFUSE_CHECK(x.dim() == 4 && x.size(1) == in_channels_ && x.size(2) == height_ &&
                x.size(3) == width_);
  DIFFUSE_CHECK(t.dim() == 1 && t.size(0) == x.size(0));
  DIFFUSE_CHECK(labels.defined() == (num_classes_ > 0));
  DIFFUSE_CHECK(weights.size() == layout_.infos().size());

  Pass pass{weights, options_, dropout, fused_, {}, {}};
  const at::Tensor sinusoids =
      time_sinusoids(t,
                     options_.base_channels * options_.channel_mult.front(),
                     options_.flip_sin_to_cos,
                     options_.freq_shift,
                     pass[time_.linear1.weight].scalar_type());
  pass.embedding = steady_silu(time_(weights, sinusoids, labels, fused_));
  if (fused_) pass.times = times_of(pass);

  const at::ScalarType type = pass[conv_in_.weight].scalar_type();
  at::Tensor h = conv_in_(pass, fused_ ? x.to(type).contiguous(at::MemoryFormat::ChannelsLast) : x);
  std::vector<at::Tensor> skips{h};
  for (const Level& level : down_) {
    for (size_t i = 0; i < level.blocks.size(); ++i) {
      h = level.blocks[i](pass, h);
      if (!level.attention.empty()) h = level.attention[i](pass, h);
      skips.push_back(h);
    }
    if (level.resampler) {
      h = (*level.resampler)(pass, h);
      skips.push_back(h);
    }
  }

  h = middle_.blocks[0](pass, h);
  if (!middle_.attention.empty()) h = middle_.attention[0](pass, h);
  h = middle_.blocks[1](pass, h);

  for (const Level& level : up_) {
    for (size_t i = 0; i < level.blocks.size(); ++i) {
      h = level.blocks[i](
          pass, fused_ ? concat_channels(h, skips.back()) : at::cat({h, skips.back()}, 1));
      skips.pop_back();
      if (!level.attention.empty()) h = level.attention[i](pass, h);
    }
    if (level.resampler) h = (*level.resampler)(pass, h);
  }
  return conv_out_(pass, norm_out_(pass, h, {.silu = true}).y).contiguous();
}

}  // namespace diffuse
