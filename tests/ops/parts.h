// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/threads.h"

namespace diffuse {

/// f(first, count) is the result [count, ...] of that part of a batch of n. Every part has the bits
/// that it has in the whole batch on one thread, whatever the number of threads.
template <class F>
void expect_same_in_parts(int64_t n, const F& f) {
  const Threads restored;
  at::set_num_threads(1);
  const at::Tensor whole = f(int64_t{0}, n);
  for (const int threads : {1, 2, 5}) {
    at::set_num_threads(threads);
    for (int64_t count = n; count > 0; --count)
      for (const int64_t first : {int64_t{0}, n - count})
        EXPECT_TRUE(at::equal(f(first, count), whole.narrow(0, first, count)))
            << count << " of " << n << " from " << first << ", threads " << threads;
  }
}

}  // namespace diffuse
