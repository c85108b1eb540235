// SPDX-License-Identifier: MIT
#include "ops/batch.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/where.h>

#include "base/error.h"
#include "ops/cuda.h"
#include "ops/loss.h"

namespace diffuse {

at::Tensor pictures_of(const PictureBytes& bytes) {
  at::Tensor chosen = bytes.pixels;
  if (bytes.indices.defined()) {
    const at::Tensor some = at::index_select(bytes.pixels, 0, bytes.indices);
    chosen = at::where(bytes.flips.view({-1, 1, 1, 1}) != 0, some.flip({2}), some)
                 .permute({0, 3, 1, 2})
                 .contiguous();
  }
  return chosen.to(at::kFloat).div_(127.5).sub_(1);  // 0..255 -> [-1, 1]
}

NoisyBatch composed_noisy_batch(const at::Tensor& x0,
                                const at::Tensor& input_x0,
                                const at::Tensor& input_eps,
                                Purpose purpose,
                                const StepKey& key) {
  const at::Tensor eps = at::empty_like(x0);
  fill_normal(eps, key.seed, purpose, key.step, key.first_sample);
  return {.x0 = x0, .eps = eps, .input = mix(input_x0, x0, input_eps, eps)};
}

NoisyBatch noisy_batch(const PictureBytes& bytes,
                       const at::Tensor& input_x0,
                       const at::Tensor& input_eps,
                       Purpose purpose,
                       const StepKey& key,
                       bool bf16) {
  const at::Tensor& pixels = bytes.pixels;
  const bool chosen = bytes.indices.defined();
  DIFFUSE_CHECK(pixels.dim() == 4 && pixels.is_contiguous() && pixels.scalar_type() == at::kByte);
  const int64_t n = input_x0.size(0);
  const int64_t channels = pixels.size(chosen ? 3 : 1), height = pixels.size(chosen ? 1 : 2),
                width = pixels.size(chosen ? 2 : 3);
  for (const at::Tensor& t : {input_x0, input_eps})
    DIFFUSE_CHECK(t.is_contiguous() && t.numel() == n && t.scalar_type() == at::kFloat);
  if (chosen)
    DIFFUSE_CHECK(bytes.indices.is_contiguous() && bytes.indices.numel() == n &&
                  bytes.flips.is_contiguous() && bytes.flips.numel() == n);
  else
    DIFFUSE_CHECK(pixels.size(0) == n);
  // Blocks of four normals are numbered with 32 bits.
  DIFFUSE_CHECK(channels * height * width <= int64_t{1} << 34);
  const auto like = pixels.options().dtype(at::kFloat);
  NoisyBatch out;
  out.x0 = at::empty({n, channels, height, width}, like);
  out.eps = at::empty_like(out.x0);
  out.input = at::empty({n, channels, height, width},
                        like.dtype(bf16 ? at::kBFloat16 : at::kFloat),
                        at::MemoryFormat::ChannelsLast);
  cuda_ops(pixels).noisy_batch(
      pixels.device(),
      {.n = n,
       .channels = channels,
       .height = height,
       .width = width,
       .pixels = pixels.const_data_ptr<uint8_t>(),
       .indices = chosen ? bytes.indices.const_data_ptr<int64_t>() : nullptr,
       .flips = chosen ? bytes.flips.const_data_ptr<uint8_t>() : nullptr,
       .input_x0 = input_x0.const_data_ptr<float>(),
       .input_eps = input_eps.const_data_ptr<float>(),
       .seed = key.seed,
       .purpose = static_cast<uint32_t>(purpose),
       .step = {key.step, key.step_there},
       .first_sample = key.first_sample,
       .x0 = out.x0.mutable_data_ptr<float>(),
       .eps = out.eps.mutable_data_ptr<float>(),
       .input = out.input.mutable_data_ptr(),
       .bf16 = bf16,
       .channels_last = true});
  return out;
}

}  // namespace diffuse
