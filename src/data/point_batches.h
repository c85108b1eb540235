// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>

#include "data/batches.h"
#include "data/points.h"

namespace diffuse {

/// Fresh points in every batch: there is no data set to learn by heart. Point i of batch `step` is
/// a pure function of (seed, step, i). `values` is [batch, 2].
class PointBatches : public BatchSource {
 public:
  PointBatches(std::unique_ptr<const PointDistribution> distribution,
               int64_t batch,
               uint64_t seed,
               int64_t first_step);

  Batch next() override;
  double waited() const override { return 0; }

 private:
  std::unique_ptr<const PointDistribution> distribution_;
  int64_t batch_;
  uint64_t seed_;
  int64_t step_;  // of the next batch
};

}  // namespace diffuse
