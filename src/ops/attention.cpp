// SPDX-License-Identifier: MIT
#include "ops/attention.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <torch/csrc/autograd/custom_function.h>

#include <memory>
#include <vector>

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

/// Runs body(picture, first channel of the head, number of the head's row of lse, shape, scratch)
/// for every picture and head of `out` [n, tokens, channels].
template <class Body>
void for_heads(const at::Tensor& out, int64_t head, const Body& body) {
  const int64_t tokens = out.size(1), channels = out.size(2), heads = channels / head;
  const AttentionShape shape{
      .tokens = tokens, .head = head, .stride = 3 * channels, .out_stride = channels};
  at::parallel_for(0, out.size(0) * heads, 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> scratch(
        new float[static_cast<size_t>(kernels::attention_scratch(shape))]);
    for (int64_t task = begin; task < end; ++task)
      body(task / heads, task % heads * head, task * tokens, shape, scratch.get());
  });
}

template <class T>
void forward_body(const at::Tensor& qkv,
                  int64_t head,
                  const at::Tensor& out,
                  const at::Tensor& lse) {
  const int64_t channels = out.size(2), picture = out.size(1) * channels;
  const T* const from = static_cast<const T*>(qkv.const_data_ptr());
  T* const to = static_cast<T*>(out.mutable_data_ptr());
  float* const levels = lse.mutable_data_ptr<float>();
  for_heads(out, head, [&](int64_t i, int64_t c, int64_t row, const auto& shape, float* scratch) {
    const T* const q = from + 3 * i * picture + c;
    kernels_of<T>().forward(
        shape, q, q + channels, q + 2 * channels, to + i * picture + c, levels + row, scratch);
  });
}

template <class T>
void backward_body(const at::Tensor& qkv,
                   int64_t head,
                   const at::Tensor& out,
                   const at::Tensor& lse,
                   const at::Tensor& d_out,
                   const at::Tensor& d_qkv) {
  const int64_t channels = out.size(2), picture = out.size(1) * channels;
  const T* const from = static_cast<const T*>(qkv.const_data_ptr());
  const T* const result = static_cast<const T*>(out.const_data_ptr());
  const T* const gradient = static_cast<const T*>(d_out.const_data_ptr());
  const float* const levels = lse.const_data_ptr<float>();
  T* const to = static_cast<T*>(d_qkv.mutable_data_ptr());
  for_heads(out, head, [&](int64_t i, int64_t c, int64_t row, const auto& shape, float* scratch) {
    const T* const q = from + 3 * i * picture + c;
    T* const dq = to + 3 * i * picture + c;
    kernels_of<T>().backward(shape,
                             q,
                             q + channels,
                             q + 2 * channels,
                             result + i * picture + c,
                             gradient + i * picture + c,
                             levels + row,
                             dq,
                             dq + channels,
                             dq + 2 * channels,
                             scratch);
  });
}

struct Attended {
  at::Tensor out;
  at::Tensor lse;  // [n, heads, tokens] float32
};

Attended forward_of(const at::Tensor& qkv, int64_t head) {
  const int64_t n = qkv.size(0), tokens = qkv.size(1), channels = qkv.size(2) / 3;
  const Attended got{at::empty({n, tokens, channels}, qkv.options()),
                     at::empty({n, channels / head, tokens}, qkv.options().dtype(at::kFloat))};
  if (qkv.scalar_type() == at::kFloat)
    forward_body<float>(qkv, head, got.out, got.lse);
  else
    forward_body<Bf16>(qkv, head, got.out, got.lse);
  return got;
}

class AttentionFunction : public torch::autograd::Function<AttentionFunction> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* ctx,
                            const at::Tensor& qkv,
                            int64_t head) {
    const Attended got = forward_of(qkv, head);
    ctx->save_for_backward({qkv, got.out, got.lse});
    ctx->saved_data["head"] = head;
    return got.out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    DIFFUSE_CHECK(!at::GradMode::is_enabled());  // it has no derivative of its own
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &qkv = saved[0], &out = saved[1], &lse = saved[2];
    const int64_t head = ctx->saved_data["head"].toInt();
    at::Tensor d_qkv = at::empty_like(qkv);
    const at::Tensor d_out = grads[0].contiguous();
    if (qkv.scalar_type() == at::kFloat)
      backward_body<float>(qkv, head, out, lse, d_out, d_qkv);
    else
      backward_body<Bf16>(qkv, head, out, lse, d_out, d_qkv);
    return {d_qkv, {}};
  }
};

}  // namespace

at::Tensor composed_attention(const at::Tensor& q,
                              const at::Tensor& k,
                              const at::Tensor& v,
                              int64_t head) {
  const int64_t n = q.size(0), tokens = q.size(1), channels = q.size(2);
  const auto heads = [&](const at::Tensor& t) {
    return t.unflatten(2, {channels / head, head}).transpose(1, 2);
  };
  return at::scaled_dot_product_attention(heads(q), heads(k), heads(v))
      .transpose(1, 2)
      .reshape({n, tokens, channels});
}

at::Tensor attention(const at::Tensor& qkv, int64_t head) {
  // Beyond it, matrix products are faster, but LibTorch's depend on how many pictures there are,
  // which those that are drawn in float32 shall not.
  constexpr int64_t kLargestHead = 64;
  DIFFUSE_CHECK(qkv.dim() == 3 && qkv.size(2) % (3 * head) == 0);
  const bool known = qkv.scalar_type() == at::kFloat || qkv.scalar_type() == at::kBFloat16;
  const bool steady = !at::GradMode::is_enabled() && qkv.scalar_type() == at::kFloat;
  if (!qkv.is_cpu() || !known || (head > kLargestHead && !steady) || qkv.numel() == 0) {
    const std::vector<at::Tensor> parts = qkv.chunk(3, 2);
    return composed_attention(parts[0], parts[1], parts[2], head);
  }
  const at::Tensor rows = qkv.contiguous();
  return at::GradMode::is_enabled() ? AttentionFunction::apply(rows, head)
                                    : forward_of(rows, head).out;
}

}  // namespace diffuse
