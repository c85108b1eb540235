// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "data/dataset.h"

namespace diffuse {

struct Batch {
  int64_t step = 0;
  std::vector<uint8_t> pixels;   // [batch, channels, height, width]
  std::vector<int64_t> labels;   // [batch], -1 without labels
  std::vector<int64_t> indices;  // [batch], of the dataset
  std::vector<uint8_t> flips{};  // [batch], 1: mirrored; only for a batch without pixels
  std::vector<float> values{};   // instead of all those: data that are no pictures, as they are
};

/// An endless stream of global batches.
class BatchSource {
 public:
  BatchSource() = default;
  BatchSource(const BatchSource&) = delete;
  BatchSource& operator=(const BatchSource&) = delete;
  virtual ~BatchSource() = default;

  /// The next batch in order.
  virtual Batch next() = 0;
  /// Seconds that next() has waited so far.
  virtual double waited() const = 0;
};

/// The endless shuffled stream of global batches, addressable by step: batch `step` holds positions
/// [step * batch, (step + 1) * batch) of the concatenated epochs, each a keyed permutation of the
/// set. Order, flips and crops depend on (seed, epoch, position) alone, never on workers. A
/// streamed image that turns out bad is replaced by the next position's good neighbour of the set
/// (index + 1, ...), deterministically. Without `pixels` a batch says which pictures it has, and
/// which of them are mirrored, to someone who has Dataset::pixels().
class Batches : public BatchSource {
 public:
  Batches(const Dataset& data,
          const DataOptions& options,
          int64_t batch,
          uint64_t seed,
          int64_t first_step,
          bool pixels = true);
  ~Batches() override;

  /// Waits for the workers when needed. Rethrows what a worker threw.
  Batch next() override;
  double waited() const override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace diffuse
