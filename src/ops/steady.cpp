// SPDX-License-Identifier: MIT
#include "ops/steady.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/sin.h>

#include <cmath>

namespace diffuse {
namespace {

template <class F>
at::Tensor each(const at::Tensor& x, at::Tensor (*by_libtorch)(const at::Tensor&), const F& f) {
  if (!x.is_cpu() || at::GradMode::is_enabled() || x.scalar_type() != at::kFloat)
    return by_libtorch(x);
  const at::Tensor values = x.contiguous();
  at::Tensor out = at::empty_like(values);
  const float* const from = values.const_data_ptr<float>();
  float* const to = out.mutable_data_ptr<float>();
  constexpr int64_t kGrain = 1 << 12;  // values for a thread to be worth waking
  at::parallel_for(0, values.numel(), kGrain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) to[i] = f(from[i]);
  });
  return out;
}

}  // namespace

at::Tensor steady_silu(const at::Tensor& x) {
  return each(x, at::silu, [](float v) { return v / (1.0f + std::exp(-v)); });
}

at::Tensor steady_exp(const at::Tensor& x) {
  return each(x, at::exp, [](float v) { return std::exp(v); });
}

at::Tensor steady_sin(const at::Tensor& x) {
  return each(x, at::sin, [](float v) { return std::sin(v); });
}

at::Tensor steady_cos(const at::Tensor& x) {
  return each(x, at::cos, [](float v) { return std::cos(v); });
}

}  // namespace diffuse
