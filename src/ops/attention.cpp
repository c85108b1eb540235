// SPDX-License-Identifier: MIT
#include "ops/attention.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <torch/csrc/autograd/custom_function.h>

#include <memory>

#include "base/error.h"
#include "ops/kernels/cpu.h"

namespace diffuse {
namespace {

using kernels::AttentionKernels;
using kernels::AttentionShape;
using kernels::Bf16;

template <class T>
const AttentionKernels<T>& kernels_of();
template <>
const AttentionKernels<float>& kernels_of<float>() {
  return kernels::cpu_kernels().attention;
}
template <>
const AttentionKernels<Bf16>& kernels_of<Bf16>() {
  return kernels::cpu_kernels().attention_bf16;
}

/// Runs body(offset of the head's first value, number of the head's row of lse, shape, scratch) for
/// every picture and head.
template <class Body>
void for_heads(const at::Tensor& q, int64_t head, const Body& body) {
  const int64_t tokens = q.size(1), channels = q.size(2), heads = channels / head;
  const AttentionShape shape{.tokens = tokens, .head = head, .stride = channels};
  at::parallel_for(0, q.size(0) * heads, 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> scratch(
        new float[static_cast<size_t>(kernels::attention_scratch(shape))]);
    for (int64_t task = begin; task < end; ++task)
      body(task / heads * tokens * channels + task % heads * head,
           task * tokens,
           shape,
           scratch.get());
  });
}

template <class T>
const T* data_of(const at::Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

template <class T>
void forward_body(const at::Tensor& q,
                  const at::Tensor& k,
                  const at::Tensor& v,
                  int64_t head,
                  const at::Tensor& out,
                  const at::Tensor& lse) {
  const T *const pq = data_of<T>(q), *const pk = data_of<T>(k), *const pv = data_of<T>(v);
  T* const to = static_cast<T*>(out.mutable_data_ptr());
  float* const levels = lse.mutable_data_ptr<float>();
  for_heads(q, head, [&](int64_t at, int64_t row, const AttentionShape& shape, float* scratch) {
    kernels_of<T>().forward(shape, pq + at, pk + at, pv + at, to + at, levels + row, scratch);
  });
}

template <class T>
void backward_body(const torch::autograd::variable_list& saved,
                   int64_t head,
                   const at::Tensor& d_out,
                   const torch::autograd::variable_list& to) {
  const T *const q = data_of<T>(saved[0]), *const k = data_of<T>(saved[1]),
                 *const v = data_of<T>(saved[2]), *const out = data_of<T>(saved[3]),
                 *const gradient = data_of<T>(d_out);
  const float* const lse = saved[4].const_data_ptr<float>();
  T *const dq = static_cast<T*>(to[0].mutable_data_ptr()),
           *const dk = static_cast<T*>(to[1].mutable_data_ptr()),
           *const dv = static_cast<T*>(to[2].mutable_data_ptr());
  for_heads(
      saved[0], head, [&](int64_t at, int64_t row, const AttentionShape& shape, float* scratch) {
        kernels_of<T>().backward(shape,
                                 q + at,
                                 k + at,
                                 v + at,
                                 out + at,
                                 gradient + at,
                                 lse + row,
                                 dq + at,
                                 dk + at,
                                 dv + at,
                                 scratch);
      });
}

struct Attended {
  at::Tensor out;
  at::Tensor lse;  // [n, heads, tokens] float32
};

Attended forward_of(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t head) {
  const Attended got{
      at::empty_like(q),
      at::empty({q.size(0), q.size(2) / head, q.size(1)}, q.options().dtype(at::kFloat))};
  if (q.scalar_type() == at::kFloat)
    forward_body<float>(q, k, v, head, got.out, got.lse);
  else
    forward_body<Bf16>(q, k, v, head, got.out, got.lse);
  return got;
}

class AttentionFunction : public torch::autograd::Function<AttentionFunction> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* ctx,
                            const at::Tensor& q,
                            const at::Tensor& k,
                            const at::Tensor& v,
                            int64_t head) {
    const Attended got = forward_of(q, k, v, head);
    ctx->save_for_backward({q, k, v, got.out, got.lse});
    ctx->saved_data["head"] = head;
    return got.out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const int64_t head = ctx->saved_data["head"].toInt();
    torch::autograd::variable_list out{
        at::empty_like(saved[0]), at::empty_like(saved[1]), at::empty_like(saved[2])};
    const at::Tensor d_out = grads[0].contiguous();
    if (saved[0].scalar_type() == at::kFloat)
      backward_body<float>(saved, head, d_out, out);
    else
      backward_body<Bf16>(saved, head, d_out, out);
    out.emplace_back();
    return out;
  }
};

}  // namespace

at::Tensor composed_attention(const at::Tensor& q,
                              const at::Tensor& k,
                              const at::Tensor& v,
                              int64_t head) {
  const int64_t n = q.size(0), tokens = q.size(1), channels = q.size(2);
  const auto heads = [&](const at::Tensor& t) {
    return t.view({n, tokens, channels / head, head}).transpose(1, 2);
  };
  return at::scaled_dot_product_attention(heads(q), heads(k), heads(v))
      .transpose(1, 2)
      .reshape({n, tokens, channels});
}

at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t head) {
  constexpr int64_t kLargestHead = 64;  // beyond it, matrix products are faster
  const bool known = q.scalar_type() == at::kFloat || q.scalar_type() == at::kBFloat16;
  if (!q.is_cpu() || !known || head > kLargestHead || q.numel() == 0)
    return composed_attention(q, k, v, head);
  DIFFUSE_CHECK(q.dim() == 3 && q.size(2) % head == 0 && k.sizes() == q.sizes() &&
                v.sizes() == q.sizes());
  const at::Tensor cq = q.contiguous(), ck = k.contiguous(), cv = v.contiguous();
  if (!at::GradMode::is_enabled()) return forward_of(cq, ck, cv, head).out;
  return AttentionFunction::apply(cq, ck, cv, head);
}

}  // namespace diffuse
