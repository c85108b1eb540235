// SPDX-License-Identifier: MIT
#include "ops/noise.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "ops/cuda.h"

namespace diffuse {
namespace {

// Blocks for a thread to be worth waking: some 50 microseconds of work.
constexpr int64_t kGrain = 2048;

// Calls body(row, first, last) over ranges of the blocks of each of `rows` rows. The split cannot
// matter: every block is a pure function of its place.
template <class Body>
void for_blocks(int64_t rows, int64_t blocks, const Body& body) {
  at::parallel_for(0, rows * blocks, kGrain, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t row = begin / blocks;
      const int64_t first = begin % blocks;
      const int64_t last = std::min(blocks, first + end - begin);
      body(row, first, last);
      begin += last - first;
    }
  });
}

void fill_normal_cpu(
    const at::Tensor& out, uint64_t seed, Purpose purpose, uint64_t step, int64_t first_sample) {
  const int64_t rows = out.size(0);
  const int64_t size = out.numel() / rows;
  float* const data = out.mutable_data_ptr<float>();
  for_blocks(rows, (size + 3) / 4, [&](int64_t row, int64_t first, int64_t last) {
    const Stream stream{seed, purpose, step, static_cast<uint64_t>(first_sample + row)};
    for (int64_t block = first; block < last; ++block) {
      const std::array<float, 4> normals = random_normal4(stream, static_cast<uint32_t>(block));
      const int64_t at = 4 * block;
      std::copy_n(normals.data(), std::min<int64_t>(4, size - at), data + row * size + at);
    }
  });
}

void dropout_mask_cpu(const at::Tensor& out,
                      uint32_t threshold,
                      float keep_value,
                      const StepKey& key,
                      int64_t first_block) {
  const int64_t rows = out.size(0);
  const int64_t size = out.numel() / rows;
  float* const data = out.mutable_data_ptr<float>();
  for_blocks(rows, dropout_blocks(size), [&](int64_t row, int64_t first, int64_t last) {
    const Stream stream{
        key.seed, Purpose::dropout, key.step, static_cast<uint64_t>(key.first_sample + row)};
    for (int64_t block = first; block < last; ++block) {
      const Philox4 bits = random_block(stream, static_cast<uint32_t>(first_block + block));
      float values[8];
      for (int i = 0; i < 8; ++i) {
        const uint32_t half = (bits.v[i / 2] >> (16 * (i % 2))) & 0xFFFFu;
        values[i] = half < threshold ? 0.0f : keep_value;
      }
      const int64_t at = 8 * block;
      std::copy_n(values, std::min<int64_t>(8, size - at), data + row * size + at);
    }
  });
}

}  // namespace

void fill_normal(
    const at::Tensor& out, uint64_t seed, Purpose purpose, uint64_t step, int64_t first_sample) {
  DIFFUSE_CHECK(out.scalar_type() == at::kFloat && out.is_contiguous());
  if (out.numel() == 0) return;
  // Blocks of four values are numbered with 32 bits.
  DIFFUSE_CHECK(out.numel() / out.size(0) <= int64_t{1} << 34);
  if (out.is_cpu())
    fill_normal_cpu(out, seed, purpose, step, first_sample);
  else
    cuda_ops(out).fill_normal(out, seed, purpose, step, first_sample);
}

double dropout_probability(double p) {
  return std::min(std::round(p * 65536.0), 65535.0) / 65536.0;
}

at::Tensor dropout_mask(const at::Tensor& like, double p, const StepKey& key, int64_t first_block) {
  const double q = dropout_probability(p);
  DIFFUSE_CHECK(q >= 0.0 && q < 1.0);
  const auto threshold = static_cast<uint32_t>(q * 65536.0);
  const auto keep_value = static_cast<float>(1.0 / (1.0 - q));
  const at::Tensor mask = at::empty(like.sizes(), like.options().dtype(at::kFloat));
  if (mask.numel() > 0) {
    DIFFUSE_CHECK(first_block + dropout_blocks(mask.numel() / mask.size(0)) <= int64_t{1} << 32);
    if (mask.is_cpu())
      dropout_mask_cpu(mask, threshold, keep_value, key, first_block);
    else
      cuda_ops(mask).dropout_mask(mask,
                                  threshold,
                                  keep_value,
                                  key.seed,
                                  {key.step, key.step_there},
                                  key.first_sample,
                                  first_block);
  }
  return mask.to(like.scalar_type());
}

}  // namespace diffuse
