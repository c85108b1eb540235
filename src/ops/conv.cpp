// SPDX-License-Identifier: MIT
#include "ops/conv.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linear.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "base/error.h"
#include "ops/kernels/cpu.h"
#include "ops/room.h"

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

/// forward() of the kernels for n pictures x and weight as they need them; see ConvKernels::pack.
at::Tensor applied(const ConvShape& shape,
                   int64_t n,
                   const at::Tensor& x,
                   const at::Tensor& weight,
                   bool backward,
                   const at::Tensor& bias,
                   const at::Tensor& added) {
  const int64_t block = table().block, blocks = (shape.out + block - 1) / block;
  const int64_t parts = blocks * shape.kernel * shape.kernel;
  const at::Tensor packed = at::empty({parts * shape.in * block}, x.options());
  at::Tensor y = at::empty({n, shape.out, shape.height, shape.width},
                           x.options().memory_format(at::MemoryFormat::ChannelsLast));
  const float *const w = data_of(weight), *const from = data_of(x), *const more = data_of(added);
  float *const ready = packed.mutable_data_ptr<float>(), *const to = y.mutable_data_ptr<float>();
  at::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) table().pack(shape, w, backward, i, ready);
  });
  // In parallel over rows or, where two pictures are done at once, over pictures; and, where these
  // are fewer than the threads, over blocks.
  const int64_t rows = shape.width == 4 ? 1 : shape.height, units = n * rows;
  const int64_t height = shape.height / rows, row = height * shape.width;  // of a unit
  const int64_t shares = units >= at::get_num_threads() ? 1 : blocks;
  constexpr int64_t kGrain = 1 << 18;  // products for a thread to be worth waking
  const int64_t products = row * shape.in * shape.out * shape.kernel * shape.kernel / shares;
  const int64_t grain = std::max<int64_t>(shares == 1 && rows == 1 ? 2 : 1, kGrain / products);
  at::parallel_for(0, shares * units, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin, count = 0; task < end; task += count) {
      const int64_t share = task / units, unit = task % units,
                    left = std::min(end - task, units - unit);
      // Whole pictures, or rows of one.
      const int64_t first = unit % rows, pictures = first == 0 ? left / rows : 0;
      count = pictures > 0 ? pictures * rows : std::min(left, rows - first);
      const int64_t offset = unit / rows * shape.height * shape.width;
      table().forward(shape,
                      std::max<int64_t>(pictures, 1),
                      first * height,
                      pictures > 0 ? shape.height : (first + count) * height,
                      blocks * share / shares,
                      blocks * (share + 1) / shares,
                      ready,
                      data_of(bias),
                      more == nullptr ? nullptr : more + offset * shape.out,
                      from + offset * shape.in,
                      to + offset * shape.out);
    }
  });
  return y;
}

/// Whether the kernels do all there is: without a gradient, as in sampling, where a picture shall
/// not depend on how many are drawn at once. The order in which LibTorch adds up does.
bool always(const at::Tensor& x, const at::Tensor& weight) {
  return !at::GradMode::is_enabled() && x.is_cpu() && x.scalar_type() == at::kFloat &&
         weight.scalar_type() == at::kFloat && x.numel() > 0;
}

/// Rows [n, in] times weight [out, in], plus bias and `added` [n, out]: [n, out].
at::Tensor product(const at::Tensor& rows,
                   const at::Tensor& weight,
                   const at::Tensor& bias,
                   const at::Tensor& added) {
  constexpr int64_t kRows = 8;  // which the kernels take at once
  const int64_t n = rows.size(0), more = (kRows - n % kRows) % kRows;
  const auto padded = [more](const at::Tensor& t) {
    return !t.defined() || more == 0 ? t : at::constant_pad_nd(t, {0, 0, 0, more});
  };
  const ConvShape shape{.height = (n + more) / kRows,
                        .width = kRows,
                        .in = weight.size(1),
                        .out = weight.size(0),
                        .kernel = 1};
  return applied(shape,
                 1,
                 padded(rows).contiguous(),
                 weight.contiguous(),
                 false,
                 bias,
                 more == 0 && added.defined() ? added.contiguous() : padded(added))
      .permute({0, 2, 3, 1})
      .reshape({n + more, shape.out})
      .narrow(0, 0, n);
}

/// The pixels of a channels-last map as rows.
at::Tensor rows_of(const at::Tensor& map) {
  return map.defined() ? map.permute({0, 2, 3, 1}).reshape({-1, map.size(1)}) : map;
}

/// A map with zeros on the right, up to a width that the kernels take.
at::Tensor widened(const at::Tensor& map) {
  const int64_t width = map.size(3), wide = width <= 4 ? 4 : (width + 7) / 8 * 8;
  return width == wide ? map : channels_last(at::constant_pad_nd(map, {0, wide - width}));
}

/// conv() by the kernels, for any size.
at::Tensor applied_to_any(const at::Tensor& x,
                          const at::Tensor& weight,
                          const at::Tensor& bias,
                          const at::Tensor& added) {
  if (weight.size(2) == 1) return pixel_conv(x, weight.flatten(1), bias, added);
  const int64_t width = x.size(3);
  const at::Tensor wide = widened(channels_last(x)), kernel = channels_last(weight);
  const at::Tensor more = added.defined() ? widened(channels_last(added)) : added;
  const at::Tensor y = applied(shape_of(wide, kernel), x.size(0), wide, kernel, false, bias, more);
  return wide.size(3) == width ? y : channels_last(y.narrow(3, 0, width));
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
  const int64_t outputs = shape.out / 32 * columns >= int64_t{4} * at::get_num_threads() ? 32 : 16;
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
    return applied(shape_of(x, weight),
                   x.size(0),
                   x,
                   weight,
                   false,
                   bias,
                   added.has_value() ? *added : at::Tensor());
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
      dx = applied(opposite, dy.size(0), dy, weight, true, {}, {});
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
  const int64_t values = x.size(0) * weight.size(0) * x.size(2) * x.size(3);
  const at::Tensor y =
      with_room(x, values, [&] { return at::conv2d(x, weight, bias, 1, weight.size(2) / 2); });
  // In place only on what the convolution has just made: its backward does not need it.
  return added.defined() ? y.add_(added) : y;
}

at::Tensor conv(const at::Tensor& x,
                const at::Tensor& weight,
                const at::Tensor& bias,
                const at::Tensor& added) {
  const int64_t size = weight.size(2);
  if (always(x, weight) && (size == 1 || size == 3)) return applied_to_any(x, weight, bias, added);
  if (!has_kernel(x, weight)) return composed_conv(x, weight, bias, added);
  DIFFUSE_CHECK(x.size(1) == weight.size(1) && weight.size(3) == size);
  const at::Tensor map = channels_last(x), kernel = channels_last(weight),
                   more = channels_last(added);
  if (!at::GradMode::is_enabled())
    return applied(shape_of(map, kernel), map.size(0), map, kernel, false, bias, more);
  // An undefined tensor is no input of a function.
  return ConvFunction::apply(
      map, kernel, bias, more.defined() ? std::optional(more) : std::nullopt);
}

at::Tensor pixel_conv(const at::Tensor& x,
                      const at::Tensor& weight,
                      const at::Tensor& bias,
                      const at::Tensor& added) {
  return product(rows_of(channels_last(x)), weight, bias, rows_of(channels_last(added)))
      .unflatten(0, {x.size(0), x.size(2), x.size(3)})
      .permute({0, 3, 1, 2});
}

at::Tensor composed_halved_conv(const at::Tensor& x,
                                const at::Tensor& weight,
                                const at::Tensor& bias,
                                int64_t padding) {
  const at::Tensor from = padding == 0 ? at::constant_pad_nd(x, {0, 1, 0, 1}) : x;
  const int64_t values = x.size(0) * weight.size(0) * x.size(2) * x.size(3) / 4;
  return with_room(from, values, [&] { return at::conv2d(from, weight, bias, 2, padding); });
}

at::Tensor halved_conv(const at::Tensor& x,
                       const at::Tensor& weight,
                       const at::Tensor& bias,
                       int64_t padding) {
  if (!always(x, weight)) return composed_halved_conv(x, weight, bias, padding);
  const int64_t size = weight.size(2), height = x.size(2) / 2, width = x.size(3) / 2;
  DIFFUSE_CHECK(size == 3 && padding <= 1);
  const at::Tensor map = at::constant_pad_nd(channels_last(x), {padding, 1, padding, 1});
  std::vector<at::Tensor> taps;
  for (int64_t v = 0; v < size; ++v)
    for (int64_t u = 0; u < size; ++u)
      taps.push_back(map.slice(2, v, v + 2 * height - 1, 2).slice(3, u, u + 2 * width - 1, 2));
  return pixel_conv(at::cat(taps, 1), weight.permute({0, 2, 3, 1}).flatten(1), bias);
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  return always(x, weight) && x.dim() == 2 ? product(x, weight, bias, {})
                                           : at::linear(x, weight, bias);
}

}  // namespace diffuse
