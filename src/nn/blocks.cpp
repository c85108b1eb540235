// SPDX-License-Identifier: MIT
#include "nn/blocks.h"

#include <ATen/ops/add.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/upsample_nearest2d.h>

#include <cmath>
#include <vector>

#include "base/error.h"
#include "ops/attention.h"
#include "ops/channels_last.h"
#include "ops/conv.h"
#include "ops/steady.h"

namespace diffuse {
namespace {

// Glorot & Bengio 2010, eq. 16, as in Ho et al. 2020's code: variance 2 / (fan_in + fan_out).
Init fan_avg(int64_t fan_in, int64_t fan_out) {
  return Init::uniform(std::sqrt(6.0 / static_cast<double>(fan_in + fan_out)));
}

at::Tensor resized(const at::Tensor& x, ResBlock::Resize resize) {
  switch (resize) {
    case ResBlock::Resize::down:
      return at::avg_pool2d(x, {2, 2}, {2, 2});
    case ResBlock::Resize::up:
      return at::upsample_nearest2d(x, {2 * x.size(2), 2 * x.size(3)});
    case ResBlock::Resize::none:
      break;
  }
  return x;
}

}  // namespace

Linear Linear::build(
    ParamLayout& layout, const std::string& name, int64_t in, int64_t out, bool zero, bool half) {
  Linear l;
  l.weight =
      layout.add(name + ".weight", {out, in}, zero ? Init::constant(0) : fan_avg(in, out), half);
  l.bias = layout.add(name + ".bias", {out}, Init::constant(0), half);
  return l;
}

at::Tensor Linear::operator()(const Weights& weights, const at::Tensor& x) const {
  return at::linear(x, weights[static_cast<size_t>(weight)], weights[static_cast<size_t>(bias)]);
}

TimeEmbedder TimeEmbedder::build(ParamLayout& layout,
                                 int64_t channels,
                                 int64_t embedding,
                                 int64_t num_classes) {
  TimeEmbedder e;
  e.linear1 = Linear::build(layout, "time_embedding.linear_1", channels, embedding);
  e.linear2 = Linear::build(layout, "time_embedding.linear_2", embedding, embedding);
  if (num_classes > 0)
    e.classes = layout.add("class_embedding.weight", {num_classes, embedding}, Init::normal(1));
  return e;
}

at::Tensor TimeEmbedder::operator()(const Weights& weights,
                                    const at::Tensor& sinusoids,
                                    const at::Tensor& labels,
                                    bool fused) const {
  const auto apply = [&](const Linear& layer, const at::Tensor& x) {
    return fused ? linear(x,
                          weights[static_cast<size_t>(layer.weight)],
                          weights[static_cast<size_t>(layer.bias)])
                 : layer(weights, x);
  };
  const at::Tensor embedding = apply(linear2, steady_silu(apply(linear1, sinusoids)));
  if (classes < 0) return embedding;
  return at::add(embedding, at::embedding(weights[static_cast<size_t>(classes)], labels));
}

Conv Conv::build(
    Builder& b, const std::string& name, int64_t in, int64_t out, int64_t kernel, bool zero) {
  Conv c;
  const int64_t area = kernel * kernel;
  c.weight = b.layout.add(name + ".weight",
                          {out, in, kernel, kernel},
                          zero ? Init::constant(0) : fan_avg(in * area, out * area),
                          true);
  c.bias = b.layout.add(name + ".bias", {out}, Init::constant(0), true);
  c.padding = kernel / 2;
  return c;
}

at::Tensor Conv::operator()(const Pass& pass, const at::Tensor& x, const at::Tensor& added) const {
  return (pass.fused ? conv : composed_conv)(x, pass[weight], pass[bias], added);
}

at::Tensor Conv::halved(const Pass& pass, const at::Tensor& x) const {
  return (pass.fused ? halved_conv : composed_halved_conv)(x, pass[weight], pass[bias], padding);
}

Norm Norm::build(Builder& b, const std::string& name, int64_t channels) {
  DIFFUSE_CHECK(channels % b.options.norm_groups == 0);
  Norm n;
  n.weight = b.layout.add(name + ".weight", {channels}, Init::constant(1));
  n.bias = b.layout.add(name + ".bias", {channels}, Init::constant(0));
  return n;
}

Normed Norm::operator()(const Pass& pass, const at::Tensor& x, NormLayer around) const {
  around.groups = pass.options.norm_groups;
  around.eps = pass.options.norm_eps;
  around.weight = pass[weight];
  around.bias = pass[bias];
  return pass.fused ? norm_layer(x, around) : composed_norm_layer(x, around);
}

ResBlock ResBlock::build(Builder& b,
                         const std::string& name,
                         int64_t in,
                         int64_t out,
                         int64_t height,
                         int64_t width,
                         Resize resize) {
  const bool scale = b.options.time_embedding == TimeEmbedding::scale_shift;
  ResBlock r;
  r.norm1 = Norm::build(b, name + ".norm1", in);
  r.conv1 = Conv::build(b, name + ".conv1", in, out, 3);
  r.time = Linear::build(b.layout, name + ".time_emb_proj", b.embedding, scale ? 2 * out : out);
  r.norm2 = Norm::build(b, name + ".norm2", out);
  r.conv2 = Conv::build(b, name + ".conv2", out, out, 3, b.options.zero_init);
  if (in != out) r.shortcut = Conv::build(b, name + ".conv_shortcut", in, out, 1);
  r.resize = resize;
  r.number = static_cast<int64_t>(b.times.size());
  b.times.push_back(r.time);
  r.dropout_block = b.dropout_blocks;
  b.dropout_blocks += dropout_blocks(out * height * width);
  return r;
}

at::Tensor ResBlock::operator()(const Pass& pass, const at::Tensor& x) const {
  const Normed first = norm1(pass, x, {.silu = true});
  const at::Tensor embedded = pass.times.empty() ? time(pass.weights, pass.embedding)
                                                 : pass.times[static_cast<size_t>(number)];
  NormLayer around{.silu = true,
                   .dropout = pass.options.dropout,
                   .key = pass.options.dropout > 0 ? pass.dropout : nullptr,
                   .dropout_block = dropout_block};
  if (pass.options.time_embedding == TimeEmbedding::add) {
    around.added = embedded;
  } else {
    // Dhariwal and Nichol 2021, section 3, "adaptive group normalization".
    const std::vector<at::Tensor> scale_shift = embedded.chunk(2, 1);
    around.scale = scale_shift[0];
    around.shift = scale_shift[1];
  }
  const at::Tensor h = norm2(pass, conv1(pass, resized(first.y, resize)), around).y;
  const at::Tensor skip = resized(first.x, resize);
  return conv2(pass, h, shortcut ? (*shortcut)(pass, skip) : skip);
}

AttentionBlock AttentionBlock::build(Builder& b, const std::string& name, int64_t channels) {
  DIFFUSE_CHECK(channels % b.options.head_channels == 0);
  AttentionBlock a;
  a.norm = Norm::build(b, name + ".group_norm", channels);
  const auto linear = [&](const char* part, bool zero) {
    return Linear::build(b.layout, name + part, channels, channels, zero, true);
  };
  a.query = linear(".to_q", false);
  a.key = linear(".to_k", false);
  a.value = linear(".to_v", false);
  a.out = linear(".to_out.0", b.options.zero_init);
  return a;
}

at::Tensor AttentionBlock::operator()(const Pass& pass, const at::Tensor& x) const {
  const Normed normed = norm(pass, x, {});
  const auto rows = [](const at::Tensor& map) { return map.flatten(2).transpose(1, 2); };
  const auto map_of = [&](const at::Tensor& tokens) {
    return tokens.transpose(1, 2).unflatten(2, {x.size(2), x.size(3)});
  };
  const int64_t head = pass.options.head_channels;
  if (!pass.fused) {
    // One transposed copy here instead of one in each of the three projections.
    const at::Tensor h = rows(normed.y).contiguous();
    const at::Tensor mixed = composed_attention(
        query(pass.weights, h), key(pass.weights, h), value(pass.weights, h), head);
    return at::add(normed.x, map_of(out(pass.weights, mixed)));
  }
  // As convolutions of one pixel, which on the CPU are faster than matrix products.
  const auto kernel = [](const at::Tensor& matrix) { return matrix.unsqueeze(-1).unsqueeze(-1); };
  const at::Tensor weight = at::cat({pass[query.weight], pass[key.weight], pass[value.weight]});
  const at::Tensor bias = at::cat({pass[query.bias], pass[key.bias], pass[value.bias]});
  const at::Tensor mixed = attention(rows(conv(normed.y, kernel(weight), bias)), head);
  return conv(map_of(mixed), kernel(pass[out.weight]), pass[out.bias], normed.x);
}

Resampler Resampler::build(
    Builder& b, const std::string& name, bool up, int64_t channels, int64_t height, int64_t width) {
  Resampler r;
  r.up = up;
  if ((up ? b.options.upsample : b.options.downsample) == Resample::resnet) {
    const auto resize = up ? ResBlock::Resize::up : ResBlock::Resize::down;
    r.block = ResBlock::build(b, name, channels, channels, height, width, resize);
  } else {
    r.conv = Conv::build(b, name + ".conv", channels, channels, 3);
    if (!up) r.conv->padding = b.options.downsample_padding;
  }
  return r;
}

at::Tensor Resampler::operator()(const Pass& pass, const at::Tensor& x) const {
  if (block) return (*block)(pass, x);
  if (!up) return conv->halved(pass, x);
  return (pass.fused ? upsampled_conv : composed_upsampled_conv)(
      x, pass[conv->weight], pass[conv->bias]);
}

at::Tensor time_sinusoids(const at::Tensor& t,
                          int64_t channels,
                          bool flip_sin_to_cos,
                          double freq_shift,
                          at::ScalarType type) {
  // sin and cos of t 10000^(-i / (half - shift)), i = 0..half-1: Vaswani et al. 2017, sec. 3.5,
  // whose two are interleaved. Shift 0 is improved-diffusion's, 1 DDPM's.
  const int64_t half = channels / 2;
  const at::Tensor exponent = at::arange(half, t.options().dtype(type))
                                  .mul_(-std::log(10000.0))
                                  .div_(static_cast<double>(half) - freq_shift);
  const at::Tensor angle = at::mul(t.to(type).unsqueeze(1), exponent.exp());
  const at::Tensor sin = steady_sin(angle);
  const at::Tensor cos = steady_cos(angle);
  const at::Tensor both = flip_sin_to_cos ? at::cat({cos, sin}, 1) : at::cat({sin, cos}, 1);
  return channels % 2 == 0 ? both : at::constant_pad_nd(both, {0, 1});
}

}  // namespace diffuse
