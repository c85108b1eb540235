// SPDX-License-Identifier: MIT
#include "data/parallel.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace diffuse {
namespace {

constexpr auto kProgressInterval = std::chrono::milliseconds(100);

}  // namespace

int64_t worker_count(const std::optional<int64_t>& workers) {
  if (workers) return std::max<int64_t>(*workers, 0);
  return std::clamp<int64_t>(std::thread::hardware_concurrency(), 1, 8);
}

void parallel_for(int64_t count,
                  int64_t workers,
                  const std::function<void(int64_t)>& work,
                  const std::function<void(int64_t, int64_t)>& progress) {
  if (workers <= 0 || count <= 1) {
    auto shown = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < count; ++i) {
      work(i);
      const auto now = std::chrono::steady_clock::now();
      if (progress && now - shown >= kProgressInterval) {
        progress(i + 1, count);
        shown = now;
      }
    }
    if (progress) progress(count, count);
    return;
  }
  std::mutex mutex;
  std::condition_variable changed;
  // Work may be microseconds long, so a lock for each piece would be what is waited for.
  std::atomic<int64_t> next = 0, done = 0;
  std::atomic<bool> stopped = false;
  int64_t running = std::min(workers, count);  // guarded by the mutex, as are these
  int64_t failed = count;                      // lowest index
  std::exception_ptr error;
  {
    std::vector<std::jthread> threads;
    const auto run = [&] {
      while (!stopped) {
        const int64_t i = next++;
        if (i >= count) break;
        try {
          work(i);
        } catch (...) {
          const std::lock_guard lock(mutex);
          stopped = true;
          if (i < failed) {
            failed = i;
            error = std::current_exception();
          }
        }
        ++done;
      }
      const std::lock_guard lock(mutex);
      if (--running == 0) changed.notify_all();
    };
    for (int64_t t = std::min(workers, count); t > 0; --t) threads.emplace_back(run);
    std::unique_lock lock(mutex);
    while (!changed.wait_for(lock, kProgressInterval, [&] { return running == 0; })) {
      if (!progress) continue;
      const int64_t now = done;
      lock.unlock();
      std::exception_ptr thrown;
      try {
        progress(now, count);
      } catch (...) {
        thrown = std::current_exception();
      }
      lock.lock();
      if (thrown) {  // comes before any failed work
        stopped = true;
        failed = -1;
        error = thrown;
      }
    }
  }
  if (error) std::rethrow_exception(error);
  if (progress) progress(count, count);
}

}  // namespace diffuse
