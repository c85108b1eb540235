// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "report/metrics.h"

namespace diffuse {

/// TensorBoard event file (TFRecord framing with masked CRC32C, hand-coded protobuf). Never throws after
/// construction: a failing write warns once.
class TensorBoardWriter {
 public:
  explicit TensorBoardWriter(const std::filesystem::path& folder);
  ~TensorBoardWriter();
  void scalars(const MetricRow& row);
  void image(int64_t step, const std::string& tag, std::span<const uint8_t> png, int64_t height, int64_t width, int64_t channels);

 private:
  int fd_ = -1;
  bool warned_ = false;
};

}  // namespace diffuse
