// SPDX-License-Identifier: MIT
#include "data/parallel.h"

#include <algorithm>
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
  int64_t next = 0, done = 0, running = std::min(workers, count);
  int64_t failed = count;  // lowest index
  std::exception_ptr error;
  {
    std::vector<std::jthread> threads;
    const auto run = [&] {
      std::unique_lock lock(mutex);
      while (next < count && !error) {
        const int64_t i = next++;
        lock.unlock();
        std::exception_ptr thrown;
        try {
          work(i);
        } catch (...) {
          thrown = std::current_exception();
        }
        lock.lock();
        ++done;
        if (thrown && i < failed) {
          failed = i;
          error = thrown;
        }
      }
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
        failed = -1;
        error = thrown;
      }
    }
  }
  if (error) std::rethrow_exception(error);
  if (progress) progress(count, count);
}

}  // namespace diffuse
