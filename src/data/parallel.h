// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

namespace diffuse {

/// Threads that `workers` of the data options stands for: none is one per core, at most 8.
int64_t worker_count(const std::optional<int64_t>& workers);

/// Calls work(0) ... work(count - 1), started in this order, on `workers` threads (0: in the
/// caller's). After an exception nothing new is started; that of the lowest index is rethrown, so
/// that what the caller sees does not depend on the threads. `progress`, in the caller's thread,
/// gets done and total now and then and at the end.
void parallel_for(int64_t count,
                  int64_t workers,
                  const std::function<void(int64_t)>& work,
                  const std::function<void(int64_t, int64_t)>& progress = nullptr);

}  // namespace diffuse
