// SPDX-License-Identifier: MIT
#include "ops/channels_last.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/add.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/conv_transpose2d.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/flip.h>
#include <ATen/ops/upsample_nearest2d.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "ops/conv.h"
#include "ops/room.h"

namespace diffuse {
namespace {

/// Runs body(first, last) over ranges of the pixels of all pictures.
template <class Body>
void for_pixels(const at::Tensor& map, const Body& body) {
  const int64_t channels = map.size(1);
  constexpr int64_t kGrain = 1 << 14;  // values for a thread to be worth waking
  at::parallel_for(0, map.numel() / channels, std::max<int64_t>(1, kGrain / channels), body);
}

/// Bytes of a pixel of `map`.
size_t pixel_bytes(const at::Tensor& map) {
  return static_cast<size_t>(map.size(1) * map.element_size());
}

at::Tensor joined(const at::Tensor& a, const at::Tensor& b) {
  at::Tensor out = at::empty({a.size(0), a.size(1) + b.size(1), a.size(2), a.size(3)},
                             a.options().memory_format(at::MemoryFormat::ChannelsLast));
  const size_t of_a = pixel_bytes(a), of_b = pixel_bytes(b);
  const char *const from_a = static_cast<const char*>(a.const_data_ptr()),
                    *const from_b = static_cast<const char*>(b.const_data_ptr());
  char* const to = static_cast<char*>(out.mutable_data_ptr());
  for_pixels(out, [&](int64_t first, int64_t last) {
    for (auto i = static_cast<size_t>(first); i < static_cast<size_t>(last); ++i) {
      std::memcpy(to + i * (of_a + of_b), from_a + i * of_a, of_a);
      std::memcpy(to + i * (of_a + of_b) + of_a, from_b + i * of_b, of_b);
    }
  });
  return out;
}

torch::autograd::variable_list parted(const at::Tensor& map, int64_t channels) {
  const auto part = [&](int64_t count) {
    return at::empty({map.size(0), count, map.size(2), map.size(3)},
                     map.options().memory_format(at::MemoryFormat::ChannelsLast));
  };
  const at::Tensor a = part(channels), b = part(map.size(1) - channels);
  const size_t of_a = pixel_bytes(a), of_b = pixel_bytes(b);
  const char* const from = static_cast<const char*>(map.const_data_ptr());
  char *const to_a = static_cast<char*>(a.mutable_data_ptr()), *const to_b = static_cast<char*>(
                                                                   b.mutable_data_ptr());
  for_pixels(map, [&](int64_t first, int64_t last) {
    for (auto i = static_cast<size_t>(first); i < static_cast<size_t>(last); ++i) {
      std::memcpy(to_a + i * of_a, from + i * (of_a + of_b), of_a);
      std::memcpy(to_b + i * of_b, from + i * (of_a + of_b) + of_a, of_b);
    }
  });
  return {a, b};
}

class ConcatFunction : public torch::autograd::Function<ConcatFunction> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* ctx,
                            const at::Tensor& a,
                            const at::Tensor& b) {
    ctx->saved_data["channels"] = a.size(1);
    return joined(a, b);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    DIFFUSE_CHECK(!at::GradMode::is_enabled());  // it has no derivative of its own
    return parted(grads[0].contiguous(at::MemoryFormat::ChannelsLast),
                  ctx->saved_data["channels"].toInt());
  }
};

/// at::conv_transpose2d(x, kernel [out, in, 4, 4], bias, 2, 1) with the program's own products, so
/// that no picture depends on how many there are. Of the outputs 2i and 2i + 1 the first gets
/// pixels i - 1 and i by the weights 3 and 1, the second i and i + 1 by 2 and 0.
at::Tensor four_of(const at::Tensor& x, const at::Tensor& kernel, const at::Tensor& bias) {
  const int64_t height = x.size(2), width = x.size(3), out = kernel.size(0);
  at::Tensor y = at::empty({x.size(0), out, 2 * height, 2 * width},
                           x.options().memory_format(at::MemoryFormat::ChannelsLast));
  const at::Tensor padded =
      at::constant_pad_nd(x.contiguous(at::MemoryFormat::ChannelsLast), {1, 1, 1, 1});
  for (int64_t v = 0; v < 2; ++v)
    for (int64_t u = 0; u < 2; ++u) {
      std::vector<at::Tensor> pixels, weights;
      for (int64_t j = v; j < v + 2; ++j)
        for (int64_t i = u; i < u + 2; ++i) {
          pixels.push_back(padded.narrow(2, j, height).narrow(3, i, width));
          weights.push_back(kernel.select(3, 3 + u - 2 * i).select(2, 3 + v - 2 * j));
        }
      y.slice(2, v, {}, 2)
          .slice(3, u, {}, 2)
          .copy_(pixel_conv(at::cat(pixels, 1), at::cat(weights, 1), bias));
    }
  return y;
}

}  // namespace

at::Tensor composed_upsampled_conv(const at::Tensor& x,
                                   const at::Tensor& weight,
                                   const at::Tensor& bias) {
  return at::conv2d(at::upsample_nearest2d(x, {2 * x.size(2), 2 * x.size(3)}), weight, bias, 1, 1);
}

at::Tensor upsampled_conv(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  DIFFUSE_CHECK(weight.dim() == 4 && weight.size(2) == 3 && weight.size(3) == 3);
  if (!x.is_cpu()) return composed_upsampled_conv(x, weight, bias);
  // Pixel i reaches the outputs 2i + r - 1, r = 0 ... 3, by the weights number 2 - r and 3 - r as
  // far as there are such: the sum of neighbours of the flipped and padded kernel, in both
  // directions. Added up in float32 and rounded once.
  const at::ScalarType type = weight.scalar_type();
  const at::Tensor padded = at::constant_pad_nd(
      at::flip(type == at::kBFloat16 ? weight.to(at::kFloat) : weight, {2, 3}), {1, 1, 1, 1});
  const at::Tensor rows = at::add(padded.narrow(2, 0, 4), padded.narrow(2, 1, 4));
  const at::Tensor both = at::add(rows.narrow(3, 0, 4), rows.narrow(3, 1, 4));
  if (!at::GradMode::is_enabled() && x.scalar_type() == at::kFloat && type == at::kFloat)
    return four_of(x, both, bias);
  const int64_t values = 4 * x.size(0) * weight.size(0) * x.size(2) * x.size(3);
  return with_room(x, values, [&] {
    return at::conv_transpose2d(x, both.transpose(0, 1).to(type), bias, 2, 1);
  });
}

at::Tensor concat_channels(const at::Tensor& a, const at::Tensor& b) {
  if (!a.is_cpu()) return at::cat({a, b}, 1);
  DIFFUSE_CHECK(a.scalar_type() == b.scalar_type());
  const at::Tensor left = a.contiguous(at::MemoryFormat::ChannelsLast),
                   right = b.contiguous(at::MemoryFormat::ChannelsLast);
  return at::GradMode::is_enabled() ? ConcatFunction::apply(left, right) : joined(left, right);
}

}  // namespace diffuse
