// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "base/memory.h"

namespace diffuse {

/// Enough for the programs that oneDNN compiles for one operator, 256 KiB each. All of the digits'
/// network were 79 (LibTorch 2.11, AVX-512).
constexpr int64_t kRoomForPrograms = int64_t{32} << 20;

/// Throws std::bad_alloc where memory has no room for `bytes` and such programs besides: oneDNN
/// runs those that it could not allocate, at address zero.
void need_room(int64_t bytes);

/// f(), a LibTorch operator on x with a result of `values`, which oneDNN computes on the CPU. It
/// and its gradient throw as need_room() does.
template <class F>
at::Tensor with_room(const at::Tensor& x, int64_t values, const F& f) {
  if (!x.is_cpu() || !mapping_is_limited()) return f();
  const int64_t bytes = values * x.element_size();
  need_room(bytes);
  at::Tensor y = f();
  const int64_t both = bytes + static_cast<int64_t>(x.nbytes());
  if (y.requires_grad()) y.register_hook([both](const at::Tensor&) { need_room(both); });
  return y;
}

}  // namespace diffuse
