// SPDX-License-Identifier: MIT
#include "core.h"

#include <ATen/Parallel.h>

#include "core/commands.h"

namespace diffuse {

void set_threads(int threads) {
  if (threads > 0) at::set_num_threads(threads);
}

}  // namespace diffuse

extern "C" const diffuse::Core* diffuse_core() {
  static const diffuse::Core core{
      .train = diffuse::run_train,
      .sample = diffuse::run_sample,
      .evaluate = diffuse::run_evaluate,
      .bench = diffuse::run_bench,
  };
  return &core;
}
