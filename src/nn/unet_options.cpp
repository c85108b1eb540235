// SPDX-License-Identifier: MIT
#include "nn/unet_options.h"

#include <algorithm>

namespace diffuse {
namespace {

std::string text(int64_t n) { return std::to_string(n); }

/// "28 or 32": the multiples around n.
std::string nearest_multiples(int64_t n, int64_t divisor) {
  const int64_t below = n / divisor * divisor;
  return (below > 0 ? text(below) + " or " : "") + text(below + divisor);
}

}  // namespace

void UNetOptions::fields(Fields& f) {
  f(base_channels, "base_channels", "channels of the finest level")
      .at_least(1)
      .at_most(4096)
      .also_called({"model_channels", "num_channels", "dim", "ch", "width"});
  f(channel_mult,
    "channel_mult",
    "channels of each level / base_channels, finest first; each further level halves the picture")
      .at_least(1)
      .at_most(64)
      .items(1, 8)
      .also_called({"dim_mults", "ch_mult", "channel_multipliers", "block_out_channels"});
  f(blocks_per_level, "blocks_per_level", "residual blocks of each level")
      .at_least(1)
      .at_most(64)
      .also_called({"num_res_blocks", "layers_per_block", "num_blocks"});
  f(attention_at,
    "attention_at",
    "heights of the feature maps whose levels get attention; [] for none")
      .at_least(1)
      .items(0, 8)
      .or_scalar()
      .also_called({"attn_resolutions", "attention_resolutions", "attention"});
  f(head_channels, "head_channels", "channels of one attention head")
      .at_least(1)
      .at_most(4096)
      .also_called({"attention_head_dim", "num_head_channels", "heads_dim", "dim_head"});
  f(mid_attention, "mid_attention", "attention at the coarsest point")
      .also_called({"add_attention", "mid_block_add_attention"});
  f(norm_groups, "norm_groups", "groups of GroupNorm")
      .at_least(1)
      .at_most(4096)
      .also_called({"norm_num_groups", "resnet_groups", "resnet_block_groups"});
  f(norm_eps, "norm_eps", "epsilon of GroupNorm").above(0).at_most(1).also_called({"resnet_eps"});
  f(dropout, "dropout", "dropout in the residual blocks")
      .at_least(0)
      .below(1)
      .also_called({"drop", "dropout_rate"});
  const std::vector<std::pair<Resample, std::string>> resample{{Resample::conv, "conv"},
                                                               {Resample::resnet, "resnet"}};
  f.one_of(
       downsample, "downsample", resample, "halve by a strided convolution, or by a residual block")
      .also_called({"downsample_type", "down_block_types"});
  f.one_of(upsample, "upsample", resample, "double by a convolution, or by a residual block")
      .also_called({"upsample_type", "up_block_types"});
  f.one_of(time_embedding,
           "time_embedding",
           {{TimeEmbedding::add, "add"}, {TimeEmbedding::scale_shift, "scale_shift"}},
           "how the time enters a residual block: added, or as scale and shift after the norm")
      .also_called({"resnet_time_scale_shift", "use_scale_shift_norm", "time_embedding_type"});
  f(flip_sin_to_cos, "flip_sin_to_cos", "time embedding in the order cos, sin");
  f(freq_shift, "freq_shift", "shift of the time embedding's frequencies").at_least(0).at_most(1);
  f(downsample_padding,
    "downsample_padding",
    "1: on all sides; 0: right and bottom only, as DDPM does")
      .at_least(0)
      .at_most(1);
  f(class_conditional, "class_conditional", "learn one embedding for each class folder")
      .also_called({"class_cond", "conditional", "num_class_embeds", "num_classes"});
  f(zero_init, "zero_init", "start each block's last layer at zero");
}

int64_t UNetOptions::size_divisor() const {
  return int64_t{1} << std::min<size_t>(channel_mult.size() - 1, 62);
}

std::vector<std::string> UNetOptions::problems(int64_t image_channels,
                                               int64_t height,
                                               int64_t width) const {
  std::vector<std::string> out;
  if (channel_mult.empty())
    return {"model.channel_mult is empty: the network needs at least one level"};
  if (image_channels < 1) out.push_back("data.channels must be at least 1");

  const int64_t divisor = size_divisor();
  if (height % divisor != 0 || width % divisor != 0) {
    std::string sizes;
    if (height % divisor != 0) sizes += "height " + nearest_multiples(height, divisor);
    if (width % divisor != 0 && !(width == height && !sizes.empty()))
      sizes += (sizes.empty() ? "width " : ", width ") + nearest_multiples(width, divisor);
    if (width == height && height % divisor != 0) sizes = nearest_multiples(height, divisor);
    out.push_back("pictures of " + text(height) + " x " + text(width) + " cannot be halved " +
                  text(static_cast<int64_t>(channel_mult.size()) - 1) + " times, as the " +
                  text(static_cast<int64_t>(channel_mult.size())) +
                  " levels of model.channel_mult need: the size must be a multiple of " +
                  text(divisor) + "; nearest: " + sizes);
  }
  if (base_channels % 2 != 0)
    out.push_back("model.base_channels must be even for the time embedding, got " +
                  text(base_channels) + "; nearest: " + nearest_multiples(base_channels, 2));

  std::vector<int64_t> widths{base_channels};
  for (const int64_t m : channel_mult)
    if (std::find(widths.begin(), widths.end(), base_channels * m) == widths.end())
      widths.push_back(base_channels * m);
  constexpr int64_t kWidest = 16384;  // its 3 x 3 convolutions alone have 2.4e9 weights
  if (const int64_t widest = *std::max_element(widths.begin(), widths.end()); widest > kWidest)
    out.push_back("a level has " + text(widest) +
                  " channels (model.base_channels times its model.channel_mult), more than " +
                  text(kWidest));
  for (const int64_t w : widths) {
    if (w % norm_groups == 0) continue;
    out.push_back("a level has " + text(w) + " channels, which model.norm_groups " +
                  text(norm_groups) + " does not divide; use a model.base_channels of " +
                  nearest_multiples(base_channels, norm_groups) + ", or other norm_groups");
    break;
  }

  const auto check_heads = [&](size_t level, const std::string& where) {
    const int64_t w = base_channels * channel_mult[level];
    if (w % head_channels == 0) return true;
    out.push_back("attention " + where + " has " + text(w) +
                  " channels, which model.head_channels " + text(head_channels) +
                  " does not divide; use a divisor of " + text(w));
    return false;
  };
  for (size_t level = 0; level < channel_mult.size(); ++level) {
    const int64_t h = height >> level;
    if (std::find(attention_at.begin(), attention_at.end(), h) == attention_at.end()) continue;
    if (!check_heads(level, "at height " + text(h))) return out;
  }
  if (mid_attention) check_heads(channel_mult.size() - 1, "at the coarsest point");
  return out;
}

NetworkCost UNetOptions::cost(int64_t in_channels,
                              int64_t out_channels,
                              int64_t height,
                              int64_t width,
                              int64_t num_classes,
                              bool fused) const {
  const auto levels = static_cast<int64_t>(channel_mult.size());
  const auto channels = [&](int64_t level) {
    return base_channels * channel_mult[static_cast<size_t>(level)];
  };
  const auto pixels = [&](int64_t level) { return (height >> level) * (width >> level); };
  const auto attends = [&](int64_t level) {
    return std::ranges::count(attention_at, height >> level) > 0;
  };
  const int64_t embedding = 4 * channels(0);
  const int64_t times = time_embedding == TimeEmbedding::scale_shift ? 2 : 1;
  NetworkCost sum;
  const auto keep = [&](int64_t values) {
    sum.kept += values;
    sum.widest = std::max(sum.widest, values);
  };
  const auto linear = [&](int64_t in, int64_t out, int64_t rows) {
    sum.parameters += (in + 1) * out;
    sum.macs += in * out * rows;
  };
  // `level` is that of the output, which is kept: what comes next reads it.
  const auto conv = [&](int64_t in, int64_t out, int64_t level, int64_t area = 9) {
    sum.parameters += (area * in + 1) * out;
    sum.macs += area * in * out * pixels(level);
    keep(out * pixels(level));
  };
  // The operators apart keep the map before the activation, too, and the fused norm one bit of
  // dropout a value.
  const auto norm = [&](int64_t c, int64_t level, bool activated, bool dropped = false) {
    sum.parameters += 2 * c;
    const int64_t maps = fused ? 1 : 1 + (activated ? 1 : 0) + (dropped && dropout > 0 ? 2 : 0);
    for (int64_t i = 0; i < maps; ++i) keep(c * pixels(level));
  };
  const auto block = [&](int64_t in, int64_t out, int64_t level) {
    norm(in, level, true);
    conv(in, out, level);
    linear(embedding, times * out, 1);
    if (!fused) keep(out * pixels(level));  // with the time added
    norm(out, level, true, true);
    if (in != out) conv(in, out, level, 1);
    conv(out, out, level);
  };
  const auto attention = [&](int64_t level) {
    const int64_t tokens = pixels(level), c = channels(level);
    norm(c, level, false);
    for (int i = 0; i < 4; ++i) linear(c, c, tokens);
    sum.macs += 2 * tokens * tokens * c;  // two products of tokens
    for (int i = 0; i < 5; ++i) keep(c * tokens);
    if (!fused)
      for (int i = 0; i < 4; ++i) keep(c * tokens);  // in the order of heads
  };
  const auto resampler = [&](Resample kind, int64_t c, int64_t level, bool up) {
    if (kind == Resample::resnet) return block(c, c, level);
    if (up && !fused) keep(c * pixels(level));  // the enlarged map
    conv(c, c, level);
  };

  keep(in_channels * pixels(0));
  conv(in_channels, channels(0), 0);
  linear(channels(0), embedding, 1);
  linear(embedding, embedding, 1);
  sum.parameters += num_classes * embedding;
  std::vector<int64_t> skips{channels(0)};
  sum.skips = channels(0) * pixels(0);
  int64_t in = channels(0);
  for (int64_t level = 0; level < levels; ++level) {
    for (int64_t i = 0; i < blocks_per_level; ++i) {
      block(in, channels(level), level);
      if (attends(level)) attention(level);
      in = channels(level);
      skips.push_back(in);
      sum.skips += in * pixels(level);
    }
    if (level + 1 == levels) continue;
    resampler(downsample, in, level + 1, false);
    skips.push_back(in);
    sum.skips += in * pixels(level + 1);
  }
  for (int i = 0; i < 2; ++i) block(in, in, levels - 1);
  if (mid_attention) attention(levels - 1);
  for (int64_t level = levels - 1; level >= 0; --level) {
    for (int64_t i = 0; i <= blocks_per_level; ++i) {
      keep((in + skips.back()) * pixels(level));  // both in one map
      block(in + skips.back(), channels(level), level);
      if (attends(level)) attention(level);
      in = channels(level);
      skips.pop_back();
    }
    if (level > 0) resampler(upsample, in, level - 1, true);
  }
  norm(in, 0, true);
  conv(in, out_channels, 0);
  return sum;
}

}  // namespace diffuse
