// SPDX-License-Identifier: MIT
#include "ops/group_norm.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/add.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/group_norm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/silu.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <vector>

#include "base/error.h"
#include "ops/cuda.h"
#include "ops/kernels/cpu.h"

namespace diffuse {
namespace {

using kernels::Bf16;
using kernels::NormKernels;
using kernels::NormParameters;
using kernels::NormShape;

/// The layer without its tensors that have a gradient.
struct Settings {
  int64_t groups;
  double eps;
  bool silu;
  double dropout;  // 0: none
  StepKey key;
  int64_t dropout_block;

  explicit Settings(const NormLayer& layer)
      : groups(layer.groups),
        eps(layer.eps),
        silu(layer.silu),
        dropout(layer.key == nullptr ? 0 : dropout_probability(layer.dropout)),
        key(layer.key == nullptr ? StepKey{} : *layer.key),
        dropout_block(layer.dropout_block) {}
};

float keep_value(const Settings& settings) {
  return static_cast<float>(1.0 / (1.0 - settings.dropout));
}

/// [n, channels] or [channels] in float32 for the kernels; those of the CPU take rows with gaps.
at::Tensor plain(const at::Tensor& t) {
  if (!t.defined()) return t;
  const at::Tensor values = t.to(at::kFloat);
  return values.is_cpu() && values.stride(-1) == 1 ? values : values.contiguous();
}

struct Parameters {
  at::Tensor weight, bias, added, scale, shift;

  Parameters(const at::Tensor& w,
             const at::Tensor& b,
             const at::Tensor& a,
             const at::Tensor& sc,
             const at::Tensor& sh)
      : weight(plain(w)), bias(plain(b)), added(plain(a)), scale(plain(sc)), shift(plain(sh)) {}

  NormParameters of_picture(int64_t i, bool silu) const {
    const auto row = [i](const at::Tensor& t) -> const float* {
      return t.defined() ? t.const_data_ptr<float>() + i * t.stride(0) : nullptr;
    };
    return {.weight = weight.const_data_ptr<float>(),
            .bias = bias.const_data_ptr<float>(),
            .added = row(added),
            .scale = row(scale),
            .shift = row(shift),
            .silu = silu};
  }
};

/// Runs body(picture, shape, parameters, scratch), in parallel over pictures and, where these are
/// fewer than the threads, over groups of channels. scratch is [pixels, channels] floats.
template <class Body>
void for_parts(const at::Tensor& x,
               const Settings& settings,
               const Parameters& parameters,
               bool with_scratch,
               const Body& body) {
  const int64_t n = x.size(0), channels = x.size(1), pixels = x.size(2) * x.size(3);
  const int64_t group = channels / settings.groups;
  const int64_t threads = at::get_num_threads();
  const int64_t parts = n >= threads ? 1 : std::min(settings.groups, (threads + n - 1) / n);
  const auto& table = kernels::cpu_kernels();
  at::parallel_for(0, n * parts, 1, [&](int64_t begin, int64_t end) {
    std::unique_ptr<float[]> scratch;
    if (with_scratch) scratch.reset(new float[static_cast<size_t>(pixels * channels)]);
    std::vector<uint8_t> kept;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t i = task / parts, part = task % parts;
      const NormShape shape{.pixels = pixels,
                            .channels = channels,
                            .group_channels = group,
                            .first = settings.groups * part / parts * group,
                            .last = settings.groups * (part + 1) / parts * group};
      NormParameters p = parameters.of_picture(i, settings.silu);
      if (settings.dropout > 0) {
        const int64_t blocks = dropout_blocks(channels * pixels);
        kept.resize(static_cast<size_t>(blocks));
        const StepKey& key = settings.key;
        table.dropout_bits(
            Stream{
                key.seed, Purpose::dropout, key.step, static_cast<uint64_t>(key.first_sample + i)},
            static_cast<uint32_t>(settings.dropout_block),
            blocks,
            static_cast<uint32_t>(settings.dropout * 65536.0),
            kept.data());
        p.kept = kept.data();
        p.keep_value = keep_value(settings);
      }
      body(i, shape, p, scratch.get());
    }
  });
}

struct Moments {
  at::Tensor mean, rstd;  // [n, groups]
};

struct Gradients {
  at::Tensor x;
  at::Tensor of_scaled;  // [n, channels]: sum of the gradient of scale' norm + shift
  at::Tensor with_norm;  // likewise, times the normalised x
  at::Tensor added;      // undefined where there is none
};

const float* data_of(const at::Tensor& t) {
  return t.defined() ? t.const_data_ptr<float>() : nullptr;
}

// On a GPU.

/// The layer for the kernels, and the bits of the mask that it points to.
struct OnGpu {
  kernels::NormBatch batch;
  at::Tensor kept;

  OnGpu(const at::Tensor& x, const Settings& settings, const Parameters& p)
      : batch{.n = x.size(0),
              .pixels = x.size(2) * x.size(3),
              .channels = x.size(1),
              .group_channels = x.size(1) / settings.groups,
              .bf16 = x.scalar_type() == at::kBFloat16,
              .silu = settings.silu,
              .eps = settings.eps,
              .x = x.const_data_ptr(),
              .weight = data_of(p.weight),
              .bias = data_of(p.bias),
              .added = data_of(p.added),
              .scale = data_of(p.scale),
              .shift = data_of(p.shift)} {
    if (settings.dropout == 0) return;
    kept = at::empty({batch.n, kernels::kept_bytes(batch.pixels, batch.channels)},
                     x.options().dtype(at::kByte));
    batch.kept = kept.const_data_ptr<uint8_t>();
    batch.keep_value = keep_value(settings);
    cuda_ops(x).dropout_bits(x.device(),
                             batch,
                             kept.mutable_data_ptr<uint8_t>(),
                             static_cast<uint32_t>(settings.dropout * 65536.0),
                             settings.key.seed,
                             {settings.key.step, settings.key.step_there},
                             settings.key.first_sample,
                             settings.dropout_block);
  }
};

template <class T>
const NormKernels<T>& kernels_of();
template <>
const NormKernels<float>& kernels_of<float>() {
  return kernels::cpu_kernels().norm;
}
template <>
const NormKernels<Bf16>& kernels_of<Bf16>() {
  return kernels::cpu_kernels().norm_bf16;
}

template <class T>
const T* values_of(const at::Tensor& t) {
  return t.defined() ? static_cast<const T*>(t.const_data_ptr()) : nullptr;
}

template <class T>
void forward_body(const at::Tensor& x,
                  const Settings& settings,
                  const Parameters& parameters,
                  const at::Tensor& y,
                  const Moments& out) {
  const int64_t picture = x.size(1) * x.size(2) * x.size(3);
  const T* const from = values_of<T>(x);
  T* const to = static_cast<T*>(y.mutable_data_ptr());
  float* const mean = out.mean.mutable_data_ptr<float>();
  float* const rstd = out.rstd.mutable_data_ptr<float>();
  for_parts(x,
            settings,
            parameters,
            false,
            [&](int64_t i, const NormShape& shape, const NormParameters& p, float*) {
              kernels_of<T>().forward(shape,
                                      p,
                                      settings.eps,
                                      from + i * picture,
                                      to + i * picture,
                                      mean + i * settings.groups,
                                      rstd + i * settings.groups);
            });
}

template <class T>
void backward_body(const at::Tensor& x,
                   const Settings& settings,
                   const Parameters& parameters,
                   const Moments& moments,
                   const at::Tensor& dy,
                   const at::Tensor& more,
                   const Gradients& out) {
  const int64_t channels = x.size(1);
  const int64_t picture = channels * x.size(2) * x.size(3);
  const T* const from = values_of<T>(x);
  const T* const gradient = values_of<T>(dy);
  const T* const other = values_of<T>(more);
  T* const dx = static_cast<T*>(out.x.mutable_data_ptr());
  const float* const mean = moments.mean.const_data_ptr<float>();
  const float* const rstd = moments.rstd.const_data_ptr<float>();
  float* const of_scaled = out.of_scaled.mutable_data_ptr<float>();
  float* const with_norm = out.with_norm.mutable_data_ptr<float>();
  float* const added = out.added.defined() ? out.added.mutable_data_ptr<float>() : nullptr;
  for_parts(x,
            settings,
            parameters,
            true,
            [&](int64_t i, const NormShape& shape, const NormParameters& p, float* scratch) {
              kernels_of<T>().backward(shape,
                                       p,
                                       from + i * picture,
                                       gradient + i * picture,
                                       other == nullptr ? nullptr : other + i * picture,
                                       mean + i * settings.groups,
                                       rstd + i * settings.groups,
                                       dx + i * picture,
                                       scratch,
                                       with_norm + i * channels,
                                       of_scaled + i * channels,
                                       added == nullptr ? nullptr : added + i * channels);
            });
}

Moments forward_of(const at::Tensor& x,
                   const Settings& settings,
                   const Parameters& parameters,
                   const at::Tensor& y) {
  const auto like = x.options().dtype(at::kFloat);
  Moments out{at::empty({x.size(0), settings.groups}, like),
              at::empty({x.size(0), settings.groups}, like)};
  if (x.is_cuda())
    cuda_ops(x).norm_forward(x.device(),
                             OnGpu(x, settings, parameters).batch,
                             y.mutable_data_ptr(),
                             out.mean.mutable_data_ptr<float>(),
                             out.rstd.mutable_data_ptr<float>());
  else if (x.scalar_type() == at::kFloat)
    forward_body<float>(x, settings, parameters, y, out);
  else
    forward_body<Bf16>(x, settings, parameters, y, out);
  return out;
}

Gradients backward_of(const at::Tensor& x,
                      const Settings& settings,
                      const Parameters& parameters,
                      const Moments& moments,
                      const at::Tensor& dy,
                      const at::Tensor& more) {
  const auto like = x.options().dtype(at::kFloat);
  Gradients out{.x = at::empty_like(x),
                .of_scaled = at::empty({x.size(0), x.size(1)}, like),
                .with_norm = at::empty({x.size(0), x.size(1)}, like),
                .added = {}};
  if (parameters.added.defined()) out.added = at::empty({x.size(0), x.size(1)}, like);
  if (x.is_cuda())
    cuda_ops(x).norm_backward(x.device(),
                              OnGpu(x, settings, parameters).batch,
                              dy.const_data_ptr(),
                              more.defined() ? more.const_data_ptr() : nullptr,
                              data_of(moments.mean),
                              data_of(moments.rstd),
                              out.x.mutable_data_ptr(),
                              out.with_norm.mutable_data_ptr<float>(),
                              out.of_scaled.mutable_data_ptr<float>(),
                              out.added.defined() ? out.added.mutable_data_ptr<float>() : nullptr);
  else if (x.scalar_type() == at::kFloat)
    backward_body<float>(x, settings, parameters, moments, dy, more, out);
  else
    backward_body<Bf16>(x, settings, parameters, moments, dy, more, out);
  return out;
}

/// Whether there is a kernel for x; on a GPU, whether its groups fit.
bool has_kernel(const at::Tensor& x, const NormLayer& layer) {
  if (x.dim() != 4 || x.numel() == 0) return false;
  if (x.scalar_type() != at::kFloat && x.scalar_type() != at::kBFloat16) return false;
  if (x.is_cpu()) return true;
  kernels::NormBatch batch;
  batch.channels = x.size(1);
  batch.group_channels = x.size(1) / layer.groups;
  batch.bf16 = x.scalar_type() == at::kBFloat16;
  return x.is_cuda() && cuda_ops(x).norm_fits(batch);
}

/// The sum of rows [n, channels]; LibTorch's costs more than the addition.
at::Tensor over_pictures(const at::Tensor& rows) {
  if (!rows.is_cpu()) return rows.sum(0);
  const int64_t channels = rows.size(1);
  at::Tensor out = at::empty({channels}, rows.options());
  const float* const from = rows.const_data_ptr<float>();
  std::vector<double> sums(static_cast<size_t>(channels));
  for (int64_t i = 0; i < rows.size(0); ++i)
    for (int64_t c = 0; c < channels; ++c)
      sums[static_cast<size_t>(c)] += static_cast<double>(from[i * channels + c]);
  std::transform(sums.begin(), sums.end(), out.mutable_data_ptr<float>(), [](double sum) {
    return static_cast<float>(sum);
  });
  return out;
}

/// Settings as autograd keeps them.
struct Kept : torch::CustomClassHolder {
  explicit Kept(const Settings& from) : settings(from) {}
  Settings settings;
};

class NormFunction : public torch::autograd::Function<NormFunction> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* ctx,
                                                const at::Tensor& x,
                                                const at::Tensor& weight,
                                                const at::Tensor& bias,
                                                const std::optional<at::Tensor>& maybe_added,
                                                const std::optional<at::Tensor>& maybe_scale,
                                                const std::optional<at::Tensor>& maybe_shift,
                                                const Settings& settings) {
    const at::Tensor added = maybe_added.value_or(at::Tensor()),
                     scale = maybe_scale.value_or(at::Tensor()),
                     shift = maybe_shift.value_or(at::Tensor());
    const at::Tensor y = at::empty_like(x);
    const Moments moments =
        forward_of(x, settings, Parameters(weight, bias, added, scale, shift), y);
    ctx->save_for_backward({x, weight, bias, added, scale, shift, moments.mean, moments.rstd});
    ctx->saved_data["settings"] = c10::IValue::make_capsule(c10::make_intrusive<Kept>(settings));
    ctx->set_materialize_grads(false);
    return {y, x};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    DIFFUSE_CHECK(!at::GradMode::is_enabled());  // it has no derivative of its own
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &bias = saved[2], &added = saved[3],
                     &scale = saved[4], &shift = saved[5];
    if (!grads[0].defined()) return {grads[1], {}, {}, {}, {}, {}, {}};
    const auto like_x = [&](const at::Tensor& t) {
      return t.defined() ? t.to(x.scalar_type()).contiguous(at::MemoryFormat::ChannelsLast) : t;
    };
    const auto kept = ctx->saved_data["settings"].toCapsule();
    const Settings& settings = static_cast<const Kept&>(*kept).settings;
    const Parameters parameters(weight, bias, added, scale, shift);
    const Moments moments{saved[6], saved[7]};
    const at::Tensor dy = like_x(grads[0]), more = like_x(grads[1]);
    const Gradients g = backward_of(x, settings, parameters, moments, dy, more);
    // u = scale' (weight x^ + bias) + shift, scale' = 1 + scale
    at::Tensor d_weight = g.with_norm, d_bias = g.of_scaled, d_scale, d_shift;
    if (scale.defined()) {
      d_scale = at::addcmul(at::mul(g.with_norm, parameters.weight), g.of_scaled, parameters.bias);
      d_shift = g.of_scaled;
      d_weight = at::addcmul(d_weight, d_weight, parameters.scale);
      d_bias = at::addcmul(d_bias, d_bias, parameters.scale);
    }
    const auto as = [](const at::Tensor& gradient, const at::Tensor& of) {
      return of.defined() ? gradient.to(of.scalar_type()) : at::Tensor();
    };
    return {g.x,
            as(over_pictures(d_weight), weight),
            as(over_pictures(d_bias), bias),
            as(g.added, added),
            as(d_scale, scale),
            as(d_shift, shift),
            {}};
  }
};

}  // namespace

Normed composed_norm_layer(const at::Tensor& x, const NormLayer& layer) {
  const auto rows = [](const at::Tensor& t) { return t.unsqueeze(-1).unsqueeze(-1); };
  // A float32 `added` must not widen a bfloat16 x.
  const at::Tensor sum =
      layer.added.defined() ? at::add(x, rows(layer.added)).to(x.scalar_type()) : x;
  at::Tensor h = at::group_norm(sum, layer.groups, layer.weight, layer.bias, layer.eps);
  if (layer.scale.defined()) h = at::addcmul(rows(layer.shift), h, at::add(rows(layer.scale), 1));
  // Backward needs the input of SiLU; without it the buffer is free to reuse.
  if (layer.silu) h = at::GradMode::is_enabled() ? at::silu(h) : at::silu_(h);
  if (layer.key != nullptr && layer.dropout > 0)
    h.mul_(dropout_mask(h, layer.dropout, *layer.key, layer.dropout_block));
  return {h, x};
}

Normed norm_layer(const at::Tensor& x, const NormLayer& layer) {
  if (!has_kernel(x, layer)) return composed_norm_layer(x, layer);
  DIFFUSE_CHECK(x.size(1) % layer.groups == 0 && layer.scale.defined() == layer.shift.defined());
  const at::Tensor input = x.contiguous(at::MemoryFormat::ChannelsLast);
  const Settings settings(layer);
  DIFFUSE_CHECK(settings.dropout >= 0 && settings.dropout < 1 &&
                layer.dropout_block + dropout_blocks(x.numel() / x.size(0)) <= int64_t{1} << 32);
  if (!at::GradMode::is_enabled()) {
    const at::Tensor y = at::empty_like(input);
    forward_of(input,
               settings,
               Parameters(layer.weight, layer.bias, layer.added, layer.scale, layer.shift),
               y);
    return {y, input};
  }
  // An undefined tensor is no input of a function.
  const auto if_any = [](const at::Tensor& t) {
    return t.defined() ? std::optional(t) : std::nullopt;
  };
  const auto out = NormFunction::apply(input,
                                       layer.weight,
                                       layer.bias,
                                       if_any(layer.added),
                                       if_any(layer.scale),
                                       if_any(layer.shift),
                                       settings);
  return {out[0], out[1]};
}

}  // namespace diffuse
