// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/Parallel.h>

namespace diffuse {

/// Sets LibTorch's number of threads back.
class Threads {
 public:
  Threads() = default;
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;
  ~Threads() { at::set_num_threads(before_); }

 private:
  int before_ = at::get_num_threads();
};

}  // namespace diffuse
