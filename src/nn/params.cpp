// SPDX-License-Identifier: MIT
#include "nn/params.h"

#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <utility>

#include "base/error.h"
#include "base/random.h"

namespace diffuse {
namespace {

constexpr int64_t kAlignment = 16;

void fill_initial(const ParamInfo& info, const Stream& stream, float* out) {
  for (int64_t i = 0; i < info.size; i += 4) {
    const auto block = static_cast<uint32_t>(i / 4);
    const int64_t n = std::min<int64_t>(4, info.size - i);
    if (info.init.kind == Init::Kind::normal) {
      const std::array<float, 4> normal = random_normal4(stream, block);
      for (int64_t j = 0; j < n; ++j)
        out[i + j] = static_cast<float>(info.init.value) * normal[static_cast<size_t>(j)];
    } else {
      const Philox4 bits = random_block(stream, block);
      for (int64_t j = 0; j < n; ++j)
        out[i + j] = static_cast<float>(info.init.value * ((bits.v[j] + 0.5) * 0x1p-31 - 1.0));
    }
  }
}

}  // namespace

int64_t ParamLayout::add(std::string name, std::vector<int64_t> shape, Init init, bool half) {
  DIFFUSE_CHECK(flat_size_ == 0);
  ParamInfo info;
  info.name = std::move(name);
  info.decay = shape.size() >= 2;
  info.size = 1;
  for (const int64_t n : shape) info.size *= n;
  // Blocks of four values are numbered with 32 bits.
  DIFFUSE_CHECK(info.size > 0 && info.size <= int64_t{1} << 34);
  info.shape = std::move(shape);
  info.init = init;
  info.half = half;
  infos_.push_back(std::move(info));
  return static_cast<int64_t>(infos_.size()) - 1;
}

void ParamLayout::finalize() {
  DIFFUSE_CHECK(flat_size_ == 0 && !infos_.empty());
  int64_t end = 0;
  for (const bool decay : {true, false}) {
    for (ParamInfo& info : infos_) {
      if (info.decay != decay) continue;
      info.offset = end;
      end += (info.size + kAlignment - 1) / kAlignment * kAlignment;
    }
    if (decay) decay_end_ = end;
  }
  flat_size_ = end;
}

int64_t ParamLayout::count() const {
  int64_t sum = 0;
  for (const ParamInfo& info : infos_) sum += info.size;
  return sum;
}

Weights ParamLayout::views(const at::Tensor& flat) const { return views_of(flat, channels_last_); }

at::Tensor ParamLayout::to_row_major(const at::Tensor& flat) const {
  if (!channels_last_) return flat;
  at::Tensor out = at::zeros_like(flat);
  const Weights from = views_of(flat, true), to = views_of(out, false);
  for (size_t i = 0; i < from.size(); ++i) to[i].copy_(from[i]);
  return out;
}

at::Tensor ParamLayout::from_row_major(const at::Tensor& flat) const {
  if (!channels_last_) return flat;
  at::Tensor out = at::zeros_like(flat);
  const Weights from = views_of(flat, false), to = views_of(out, true);
  for (size_t i = 0; i < from.size(); ++i) to[i].copy_(from[i]);
  return out;
}

Weights ParamLayout::views_of(const at::Tensor& flat, bool channels_last) const {
  DIFFUSE_CHECK(flat.dim() == 1 && flat.size(0) == flat_size_ && flat.is_contiguous());
  Weights out;
  out.reserve(infos_.size());
  for (const ParamInfo& info : infos_) {
    const at::Tensor part = flat.narrow(0, info.offset, info.size);
    const std::vector<int64_t>& s = info.shape;
    if (channels_last && s.size() == 4)
      out.push_back(part.view({s[0], s[2], s[3], s[1]}).permute({0, 3, 1, 2}));
    else
      out.push_back(part.view(s));
  }
  return out;
}

at::Tensor ParamLayout::initial(uint64_t seed) const {
  at::Tensor flat = at::zeros({flat_size_}, at::kFloat);
  float* const data = flat.mutable_data_ptr<float>();
  for (size_t i = 0; i < infos_.size(); ++i) {
    const ParamInfo& info = infos_[i];
    if (info.init.kind == Init::Kind::constant)
      std::fill_n(data + info.offset, info.size, static_cast<float>(info.init.value));
    else
      fill_initial(info, Stream{seed, Purpose::init, 0, i}, data + info.offset);
  }
  return from_row_major(flat);
}

/// Hands out Params::rounded_ and takes the gradients of all of them at once.
class RoundedFunction : public torch::autograd::Function<RoundedFunction> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* ctx,
                                                const at::Tensor& /*anchor*/,
                                                const Params* params,
                                                bool first) {
    ctx->saved_data["params"] = reinterpret_cast<int64_t>(params);
    ctx->saved_data["first"] = first;
    ctx->set_materialize_grads(false);
    Weights out;
    for (const at::Tensor& t : params->rounded_) out.push_back(t.detach());
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const auto* const params = reinterpret_cast<const Params*>(ctx->saved_data["params"].toInt());
    const bool first = ctx->saved_data["first"].toBool();
    struct Pair {
      std::vector<at::Tensor> to, from;
    };
    Pair full, half;  // apart, since a list of one type is a few launches on a GPU
    for (size_t i = 0; i < grads.size(); ++i) {
      const at::Tensor& to = params->grads_[i];
      if (!grads[i].defined()) {
        if (first) to.zero_();
        continue;
      }
      Pair& pair = grads[i].scalar_type() == at::kFloat ? full : half;
      pair.to.push_back(to);
      pair.from.push_back(grads[i]);
    }
    for (Pair* pair : {&full, &half}) {
      if (pair->to.empty()) continue;
      if (first)
        at::_foreach_copy_(pair->to, pair->from);
      else
        at::_foreach_add_(pair->to, pair->from);
    }
    return {{}, {}, {}};
  }
};

Params::Params(const ParamLayout& layout, at::Tensor flat)
    : flat_(std::move(flat)), grad_(at::zeros_like(flat_)), grads_(layout.views(grad_)) {
  // Detached, so that autocast, which does not keep the casts of differentiable views, keeps these.
  for (const at::Tensor& view : layout.views(flat_)) weights_.push_back(view.detach());
  for (size_t i = 0; i < weights_.size(); ++i) {
    weights_[i].set_requires_grad(true);
    weights_[i].mutable_grad() = grads_[i].detach();
  }
}

void Params::keep_half(const ParamLayout& layout) {
  half_ = flat_.to(at::kBFloat16);
  const Weights full = layout.views(flat_), half = layout.views(half_);
  rounded_.clear();
  for (size_t i = 0; i < full.size(); ++i)
    rounded_.push_back(layout.infos()[i].half ? half[i] : full[i]);
  anchor_ = at::zeros({1}, flat_.options()).set_requires_grad(true);
}

Weights Params::rounded(bool first) const {
  DIFFUSE_CHECK(half_.defined());
  return RoundedFunction::apply(anchor_, this, first);
}

}  // namespace diffuse
