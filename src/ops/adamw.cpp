// SPDX-License-Identifier: MIT
#include "ops/adamw.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/error.h"
#include "ops/cuda.h"
#include "ops/kernels/cpu.h"

namespace diffuse {
namespace {

/// The pieces of [0, n) that threads take; their number depends on n alone, so sums over them do.
constexpr int64_t kPiece = 1 << 16;

template <class Body>
void for_pieces(int64_t n, const Body& body) {
  at::parallel_for(0, (n + kPiece - 1) / kPiece, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(i, i * kPiece, std::min(kPiece, n - i * kPiece));
  });
}

}  // namespace

double norm_of(const at::Tensor& flat) {
  DIFFUSE_CHECK(flat.is_cpu() && flat.is_contiguous() && flat.dim() == 1);
  const float* const data = flat.const_data_ptr<float>();
  std::vector<double> squares(static_cast<size_t>((flat.numel() + kPiece - 1) / kPiece));
  for_pieces(flat.numel(), [&](int64_t i, int64_t first, int64_t n) {
    squares[static_cast<size_t>(i)] = kernels::cpu_kernels().sum_of_squares(data + first, n);
  });
  return std::sqrt(std::accumulate(squares.begin(), squares.end(), 0.0));
}

void adamw_ema(const AdamwStep& step,
               const at::Tensor& grad,
               const at::Tensor& weight,
               const at::Tensor& exp_avg,
               const at::Tensor& exp_avg_sq,
               const at::Tensor& ema,
               const at::Tensor& half) {
  for (const at::Tensor& t : {grad, weight, exp_avg, exp_avg_sq, ema})
    DIFFUSE_CHECK(t.is_cpu() && t.is_contiguous() && t.numel() == grad.numel());
  DIFFUSE_CHECK(!half.defined() ||
                (half.is_cpu() && half.is_contiguous() && half.numel() == grad.numel() &&
                 half.scalar_type() == at::kBFloat16));
  const double correction2 = 1 - std::pow(step.beta2, step.updates);
  const kernels::AdamwFactors factors{
      .beta1 = static_cast<float>(step.beta1),
      .rest1 = static_cast<float>(1 - step.beta1),
      .beta2 = static_cast<float>(step.beta2),
      .rest2 = static_cast<float>(1 - step.beta2),
      .eps = static_cast<float>(step.eps),
      .size = static_cast<float>(step.lr / (1 - std::pow(step.beta1, step.updates))),
      .root = static_cast<float>(1 / std::sqrt(correction2)),
      .shrink = static_cast<float>(1 - step.lr * step.weight_decay),
      .grad_scale = static_cast<float>(step.grad_scale),
      .ema_share = static_cast<float>(1 - step.ema_decay)};
  const float* const g = grad.const_data_ptr<float>();
  float* const w = weight.mutable_data_ptr<float>();
  float* const m = exp_avg.mutable_data_ptr<float>();
  float* const v = exp_avg_sq.mutable_data_ptr<float>();
  float* const a = ema.mutable_data_ptr<float>();
  auto* const h = half.defined() ? static_cast<kernels::Bf16*>(half.mutable_data_ptr()) : nullptr;
  for_pieces(grad.numel(), [&](int64_t, int64_t i, int64_t n) {
    kernels::cpu_kernels().adamw(
        factors, n, g + i, w + i, m + i, v + i, a + i, h == nullptr ? nullptr : h + i);
  });
}

void update_on_gpu(const GpuUpdate& u) {
  const int64_t n = u.grad.numel();
  for (const at::Tensor& t : {u.grad, u.weight, u.exp_avg, u.exp_avg_sq, u.ema})
    DIFFUSE_CHECK(t.is_cuda() && t.is_contiguous() && t.numel() == n);
  DIFFUSE_CHECK(n % 4 == 0 && u.decay_end % 4 == 0 && u.decay_end <= n);
  DIFFUSE_CHECK(!u.half.defined() || (u.half.is_contiguous() && u.half.numel() == n));
  const at::Tensor loss = u.loss.to(at::kFloat), loss_raw = u.loss_raw.to(at::kFloat);
  const CudaOps& ops = cuda_ops(u.grad);
  const at::Tensor scratch =
      at::empty({ops.update_scratch_bytes(n)}, u.grad.options().dtype(at::kByte));
  ops.update(u.grad.device(),
             {.n = n,
              .decay_end = u.decay_end,
              .beta1 = u.beta1,
              .beta2 = u.beta2,
              .eps = u.eps,
              .weight_decay = u.weight_decay,
              .clip = u.clip,
              .spike_z = u.spike_z,
              .grad = u.grad.const_data_ptr<float>(),
              .weight = u.weight.mutable_data_ptr<float>(),
              .exp_avg = u.exp_avg.mutable_data_ptr<float>(),
              .exp_avg_sq = u.exp_avg_sq.mutable_data_ptr<float>(),
              .ema = u.ema.mutable_data_ptr<float>(),
              .half = u.half.defined() ? u.half.mutable_data_ptr() : nullptr,
              .rates = u.rates.const_data_ptr<double>(),
              .loss = loss.const_data_ptr<float>(),
              .loss_raw = loss_raw.const_data_ptr<float>(),
              .updates = u.updates.mutable_data_ptr<float>(),
              .tally = u.tally.mutable_data_ptr<double>(),
              .spikes = u.spikes.mutable_data_ptr<double>()},
             scratch.mutable_data_ptr());
}

}  // namespace diffuse
