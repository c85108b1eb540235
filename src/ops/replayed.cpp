// SPDX-License-Identifier: MIT
#include "ops/replayed.h"

#include <ATen/ops/empty_like.h>

#include <exception>
#include <string>
#include <utility>

#include "base/log.h"

namespace diffuse {

Replayed::Replayed(Function function, Capture capture)
    : function_(std::move(function)), capture_(std::move(capture)) {}

bool Replayed::like_before(const std::vector<at::Tensor>& arguments) const {
  if (arguments.size() != arguments_.size()) return false;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const at::Tensor &now = arguments[i], &before = arguments_[i];
    if (now.defined() != before.defined()) return false;
    if (now.defined() && (now.sizes() != before.sizes() || now.strides() != before.strides() ||
                          now.scalar_type() != before.scalar_type()))
      return false;
  }
  return true;
}

at::Tensor Replayed::operator()(const std::vector<at::Tensor>& arguments) {
  if (!capture_) return function_(arguments);
  if (!like_before(arguments)) {
    graph_.reset();
    result_.reset();
    calls_ = 0;
    arguments_.clear();
    for (const at::Tensor& t : arguments)
      arguments_.push_back(t.defined() ? at::empty_like(t) : at::Tensor());
  }
  if (!graph_ && calls_++ < kPlainCalls) return function_(arguments);
  for (size_t i = 0; i < arguments.size(); ++i)
    if (arguments[i].defined()) arguments_[i].copy_(arguments[i], /*non_blocking=*/true);
  if (!graph_) {
    try {
      graph_ = capture_([this] { result_ = function_(arguments_); });
    } catch (const std::exception& e) {
      const std::string why = e.what();
      log::warn("the network cannot be captured as a CUDA graph, so it is slower: " +
                why.substr(0, why.find('\n')));
      capture_ = nullptr;
      return function_(arguments);
    }
  }
  graph_->replay();
  return result_;
}

}  // namespace diffuse
