// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/fields.h"
#include "nn/network_cost.h"

namespace diffuse {

/// The time-conditioned network for points: config section `mlp`.
struct MlpOptions {
  int64_t hidden = 128;
  int64_t layers = 4;
  int64_t fourier_octaves = 4;
  double dropout = 0.0;
  bool zero_init = true;
  void fields(Fields& f);

  /// Reasons why the network cannot be built; empty when it can.
  std::vector<std::string> problems() const;

  NetworkCost cost(int64_t in_channels, int64_t out_channels, int64_t num_classes = 0) const;
};

}  // namespace diffuse
