// SPDX-License-Identifier: MIT
#include "ops/loss.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/huber_loss.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/square.h>
#include <ATen/ops/sub.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "base/error.h"
#include "ops/cuda.h"

namespace diffuse {
namespace {

kernels::ErrorBatch batch_of(const at::Tensor& f, const ErrorTerms& terms) {
  for (const at::Tensor& t : {terms.x0, terms.eps})
    DIFFUSE_CHECK(t.is_contiguous() && t.sizes() == f.sizes() && t.scalar_type() == at::kFloat);
  for (const at::Tensor& t : {terms.target_x0, terms.target_eps, terms.weight})
    DIFFUSE_CHECK(t.is_contiguous() && t.numel() == f.size(0) && t.scalar_type() == at::kFloat);
  DIFFUSE_CHECK(f.is_contiguous() &&
                (f.scalar_type() == at::kFloat || f.scalar_type() == at::kBFloat16));
  return {.n = f.size(0),
          .values = f.numel() / f.size(0),
          .f = f.const_data_ptr(),
          .bf16 = f.scalar_type() == at::kBFloat16,
          .x0 = terms.x0.const_data_ptr<float>(),
          .eps = terms.eps.const_data_ptr<float>(),
          .target_x0 = terms.target_x0.const_data_ptr<float>(),
          .target_eps = terms.target_eps.const_data_ptr<float>(),
          .weight = terms.weight.const_data_ptr<float>(),
          .huber = static_cast<float>(terms.huber)};
}

class ErrorFunction : public torch::autograd::Function<ErrorFunction> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* ctx,
                                                const at::Tensor& f,
                                                const at::Tensor& x0,
                                                const at::Tensor& eps,
                                                const at::Tensor& target_x0,
                                                const at::Tensor& target_eps,
                                                const at::Tensor& weight,
                                                double huber) {
    const ErrorTerms terms{x0, eps, target_x0, target_eps, weight, huber};
    const at::Tensor raw = at::empty({f.size(0)}, x0.options()), weighted = at::empty_like(raw);
    cuda_ops(f).error_loss(f.device(),
                           batch_of(f, terms),
                           raw.mutable_data_ptr<float>(),
                           weighted.mutable_data_ptr<float>());
    ctx->save_for_backward({f, x0, eps, target_x0, target_eps, weight});
    ctx->saved_data["huber"] = huber;
    ctx->mark_non_differentiable({raw});
    return {raw, weighted};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    DIFFUSE_CHECK(!at::GradMode::is_enabled());  // it has no derivative of its own
    const auto saved = ctx->get_saved_variables();
    const at::Tensor& f = saved[0];
    const ErrorTerms terms{
        saved[1], saved[2], saved[3], saved[4], saved[5], ctx->saved_data["huber"].toDouble()};
    const at::Tensor d_weighted = grads[1].to(at::kFloat).contiguous(), df = at::empty_like(f);
    cuda_ops(f).error_loss_backward(
        f.device(), batch_of(f, terms), d_weighted.const_data_ptr<float>(), df.mutable_data_ptr());
    return {df, {}, {}, {}, {}, {}, {}};
  }
};

}  // namespace

at::Tensor column(const at::Tensor& values, const at::Tensor& like) {
  return values.to(like.scalar_type()).view({-1, 1, 1, 1});
}

at::Tensor mix(const at::Tensor& a, const at::Tensor& x, const at::Tensor& b, const at::Tensor& y) {
  return at::addcmul(at::mul(x, column(a, x)), y, column(b, y));
}

ErrorLoss error_loss(const at::Tensor& f, const ErrorTerms& terms) {
  const auto out = ErrorFunction::apply(f.contiguous(),
                                        terms.x0,
                                        terms.eps,
                                        terms.target_x0,
                                        terms.target_eps,
                                        terms.weight,
                                        terms.huber);
  return {out[0], out[1]};
}

ErrorLoss composed_error_loss(const at::Tensor& f, const ErrorTerms& terms) {
  // A bfloat16 network's output is compared in float32.
  const at::Tensor error = at::sub(f.to(terms.x0.scalar_type()),
                                   mix(terms.target_x0, terms.x0, terms.target_eps, terms.eps));
  const at::Tensor raw = at::mean(at::square(error), {1, 2, 3});
  const at::Tensor loss =
      terms.huber > 0
          ? at::mean(at::huber_loss(error, at::zeros_like(error), at::Reduction::None, terms.huber)
                         .mul(2),
                     {1, 2, 3})
          : raw;
  return {raw.detach(), at::mul(loss, terms.weight.to(raw.scalar_type()))};
}

}  // namespace diffuse
