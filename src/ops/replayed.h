// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <vector>

#include "ops/cuda.h"

namespace diffuse {

/// A function of tensors on a GPU, captured as one CUDA graph when it has been called a few times
/// with tensors of the same shapes and types, and replayed from then on. It may read other tensors,
/// too, where those stay in place.
class Replayed {
 public:
  using Function = std::function<at::Tensor(const std::vector<at::Tensor>& arguments)>;
  /// Captures what a function queues.
  using Capture =
      std::function<std::unique_ptr<CapturedWork>(const std::function<void()>& function)>;

  /// Without `capture` every call is a plain one.
  Replayed(Function function, Capture capture);

  /// The result is good until the next call. Arguments may be undefined.
  at::Tensor operator()(const std::vector<at::Tensor>& arguments);

 private:
  /// Calls that are not captured: cuDNN tries its algorithms in them.
  static constexpr int kPlainCalls = 2;

  bool like_before(const std::vector<at::Tensor>& arguments) const;

  Function function_;
  Capture capture_;
  std::vector<at::Tensor> arguments_;  // copies, which the graph reads
  at::Tensor result_;                  // what it writes
  int calls_ = 0;                      // with such arguments
  std::unique_ptr<CapturedWork> graph_;
};

}  // namespace diffuse
