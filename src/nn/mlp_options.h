// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/fields.h"

namespace diffuse {

/// The time-conditioned network for points: config section `model`.
struct MlpOptions {
  int64_t hidden = 128;
  int64_t layers = 4;
  int64_t fourier_octaves = 4;
  double dropout = 0.0;
  bool class_conditional = false;
  bool zero_init = true;
  void fields(Fields& f);

  /// Reasons why the network cannot be built for `image_channels` x height x width; empty when it
  /// can.
  std::vector<std::string> problems(int64_t image_channels, int64_t height, int64_t width) const;
};

}  // namespace diffuse
