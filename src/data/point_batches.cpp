// SPDX-License-Identifier: MIT
#include "data/point_batches.h"

#include <utility>

#include "base/error.h"

namespace diffuse {

PointBatches::PointBatches(std::unique_ptr<const PointDistribution> distribution,
                           int64_t batch,
                           uint64_t seed,
                           int64_t first_step)
    : distribution_(std::move(distribution)), batch_(batch), seed_(seed), step_(first_step) {
  DIFFUSE_CHECK(distribution_ != nullptr && batch >= 1 && first_step >= 0);
}

Batch PointBatches::next() {
  Batch out;
  out.step = step_;
  out.values.reserve(static_cast<size_t>(2 * batch_));
  for (int64_t i = 0; i < batch_; ++i) {
    const Point p = distribution_->sample(
        {seed_, Purpose::point, static_cast<uint64_t>(step_), static_cast<uint64_t>(i)});
    out.values.push_back(static_cast<float>(p.x));
    out.values.push_back(static_cast<float>(p.y));
  }
  ++step_;
  return out;
}

}  // namespace diffuse
