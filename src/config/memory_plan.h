// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "config/config.h"

namespace diffuse {

/// What a command will need, in bytes, by what it is for.
struct MemoryNeed {
  std::vector<std::pair<std::string, int64_t>> parts;
  int64_t total() const;
};

/// What the plan is made for; the rest is in the config.
struct PlanQuery {
  int64_t pictures = 0;  // of the data set; 0: unknown, or points
  int64_t classes = 0;
  int64_t micro_batch = 1;  // pictures that train sends through the network at once
  bool bf16 = false;        // that the device can compute in it, if the config wants it
  int64_t threads = 0;      // of the CPU that trains; 0: its time is no limit
};

/// An estimate of the peak, counted from the shapes of the network's maps: on the CPU the measured
/// peak is within a factor of 1.25 (tests/e2e/memory_test.cpp). On a GPU all but `program` and
/// `pictures` lies there, and libraries' workspaces come on top.
struct MemoryPlan {
  int64_t parameters = 0;
  MemoryNeed train, sample, evaluate;
};

/// `config` is of a network without problems().
MemoryPlan plan_memory(const Config& config, const PlanQuery& query);

/// Pictures of a shape that go through a network at once where `batch` does not say.
int64_t images_at_once(const std::vector<int64_t>& image_shape,
                       std::optional<int64_t> batch,
                       int64_t count);

/// Sizes of a micro-batch, falling: the batch in 1, 2, 3, ... parts of almost equal size, fewer and
/// fewer of them, down to single pictures.
std::vector<int64_t> micro_batches(int64_t batch);

/// The largest of micro_batches(config.train.batch) with which training needs at most `bytes`, and
/// that `query.threads` are done with in seconds: a stop is heeded between micro-batches.
/// The smallest when there is none. `query.micro_batch` does not matter.
int64_t largest_micro_batch(const Config& config, PlanQuery query, int64_t bytes);

}  // namespace diffuse
