// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

namespace diffuse {

/// Parameters of a learned weight of the noise levels (nn/model.h).
inline constexpr int64_t kLevelFeatures = 128;

/// What a network asks for, counted from its shapes.
struct NetworkCost {
  int64_t parameters = 0;
  /// Multiply-accumulates of convolutions and matrix products for one picture, forward: what the
  /// definition asks for, whatever a kernel saves.
  int64_t macs = 0;
  // Values of feature maps for one picture:
  int64_t kept = 0;    // that a forward pass keeps for its backward pass
  int64_t skips = 0;   // of them those that a forward pass alone keeps, too
  int64_t widest = 0;  // of the largest map
};

}  // namespace diffuse
