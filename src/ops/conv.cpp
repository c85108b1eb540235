// SPDX-License-Identifier: MIT
#include "ops/conv.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "ops/kernels/cpu.h"

namespace diffuse {
namespace {

using kernels::ConvKernels;
using kernels::ConvPart;
using kernels::ConvShape;

const ConvKernels& table() { return kernels::cpu_kernels().conv; }

at::Tensor channels_last(const at::Tensor& t) {
  return t.defined() ? t.contiguous(at::MemoryFormat::ChannelsLast) : t;
}

const float* data_of(const at::Tensor& t) {
  return t.defined() ? t.const_data_ptr<float>() : nullptr;
}

ConvShape shape_of(const at::Tensor& x, const at::Tensor& weight) {
  return {.height = x.size(2),
          .width = x.size(3),
          .in = weight.size(1),
          .out = weight.size(0),
          .kernel = weight.size(2)};
}

bool has_kernel(const at::Tensor& x, const at::Tensor& weight) {
  // Values of a picture's map: beyond, LibTorch is as fast or faster.
  constexpr int64_t kLargest = 1 << 15;
  const int64_t kernel = weight.size(2), width = x.size(3);
  const bool small = x.size(2) * width * std::max(weight.size(0), weight.size(1)) <= kLargest;
  return small && x.is_cpu() && x.scalar_type() == at::kFloat &&
         weight.scalar_type() == at::kFloat && x.numel() > 0 && (kernel == 1 || kernel == 3) &&
         (width == 4 || width % 8 == 0) && x.size(1) % 16 == 0 && weight.size(0) % 16 == 0;
}

/// forward() of the kernels for x and weight as they need them; see ConvKernels::pack.
at::Tensor applied(const ConvShape& shape,
                   const at::Tensor& x,
                   const at::Tensor& weight,
                   bool backward,
                   const at::Tensor& bias,
                   const at::Tensor& added) {
  const int64_t n = x.size(0), pixels = shape.height * shape.width, block = table().block;
  const int64_t blocks = (shape.out + block - 1) / block;
  const int64_t parts = blocks * shape.kernel * shape.kernel;
  const at::Tensor packed = at::empty({parts * shape.in * block}, x.options());
  at::Tensor y = at::empty({n, shape.out, shape.height, shape.width},
                           x.options().memory_format(at::MemoryFormat::ChannelsLast));
  const float *const w = data_of(weight), *const from = data_of(x), *const more = data_of(added);
  float *const ready = packed.mutable_data_ptr<float>(), *const to = y.mutable_data_ptr<float>();
  at::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) table().pack(shape, w, backward, i, ready);
  });
  // In parallel over pictures and, where these are fewer than the threads, over blocks.
  const int64_t shares = n >= at::get_num_threads() ? 1 : blocks;
  at::parallel_for(0, shares * n, shares == 1 ? 2 : 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin, count = 0; task < end; task += count) {
      const int64_t share = task / n, i = task % n, offset = i * pixels * shape.out;
      count = std::min(end - task, n - i);
      table().forward(shape,
                      count,
                      blocks * share / shares,
                      blocks * (share + 1) / shares,
                      ready,
                      data_of(bias),
                      more == nullptr ? nullptr : more + offset,
                      from + i * pixels * shape.in,
                      to + offset);
    }
  });
  return y;
}

/// The gradients of weight and bias.
std::pair<at::Tensor, at::Tensor> parameter_gradients(const ConvShape& shape,
                                                      const at::Tensor& x,
                                                      const at::Tensor& dy,
                                                      const at::Tensor& weight) {
  const at::Tensor dw = at::empty_like(weight), db = at::empty({shape.out}, x.options());
  const float *const from = data_of(x), *const gradient = data_of(dy);
  float *const to = dw.mutable_data_ptr<float>(), *const sums = db.mutable_data_ptr<float>();
  // Larger parts read the maps less often, more of them share the work evenly; no sum depends on
  // it.
  constexpr int64_t kInputs = 32;
  const int64_t columns = (shape.in + kInputs - 1) / kInputs;
  const int64_t outputs = shape.out / 32 * columns >= 4 * at::get_num_threads() ? 32 : 16;
  const int64_t rows = (shape.out + outputs - 1) / outputs;
  at::parallel_for(0, rows * columns, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t in = i % columns * kInputs, out = i / columns * outputs;
      const ConvPart part{.in = in,
                          .in_end = std::min(in + kInputs, shape.in),
                          .out = out,
                          .out_end = std::min(out + outputs, shape.out)};
      table().weights(shape, x.size(0), from, gradient, part, to, in == 0 ? sums : nullptr);
    }
  });
  return {dw, db};
}

class ConvFunction : public torch::autograd::Function<ConvFunction> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* ctx,
                            const at::Tensor& x,
                            const at::Tensor& weight,
                            const at::Tensor& bias,
                            const std::optional<at::Tensor>& added) {
    ctx->save_for_backward({x, weight});
    ctx->saved_data["added"] = added.has_value();
    return applied(
        shape_of(x, weight), x, weight, false, bias, added.has_value() ? *added : at::Tensor());
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    DIFFUSE_CHECK(!at::GradMode::is_enabled());  // it has no derivative of its own
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1];
    const ConvShape shape = shape_of(x, weight);
    const at::Tensor dy = channels_last(grads[0]);
    at::Tensor dx, dw, db;
    if (ctx->needs_input_grad(0)) {
      ConvShape opposite = shape;
      std::swap(opposite.in, opposite.out);
      dx = applied(opposite, dy, weight, true, {}, {});
    }
    if (ctx->needs_input_grad(1) || ctx->needs_input_grad(2))
      std::tie(dw, db) = parameter_gradients(shape, x, dy, weight);
    return {dx, dw, db, ctx->saved_data["added"].toBool() ? dy : at::Tensor()};
  }
};

}  // namespace

at::Tensor composed_conv(const at::Tensor& x,
                         const at::Tensor& weight,
                         const at::Tensor& bias,
                         const at::Tensor& added) {
  // In place only on what the convolution has just made: its backward does not need it.
  const at::Tensor y = at::conv2d(x, weight, bias, 1, weight.size(2) / 2);
  return added.defined() ? y.add_(added) : y;
}

at::Tensor conv(const at::Tensor& x,
                const at::Tensor& weight,
                const at::Tensor& bias,
                const at::Tensor& added) {
  if (!has_kernel(x, weight)) return composed_conv(x, weight, bias, added);
  DIFFUSE_CHECK(x.size(1) == weight.size(1) && weight.size(2) == weight.size(3));
  const at::Tensor map = channels_last(x), kernel = channels_last(weight),
                   more = channels_last(added);
  if (!at::GradMode::is_enabled())
    return applied(shape_of(map, kernel), map, kernel, false, bias, more);
  // An undefined tensor is no input of a function.
  return ConvFunction::apply(
      map, kernel, bias, more.defined() ? std::optional(more) : std::nullopt);
}

}  // namespace diffuse
