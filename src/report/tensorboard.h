// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "report/append_file.h"
#include "report/metrics.h"

namespace diffuse {

/// TensorBoard event file (TFRecord framing with masked CRC32C, hand-coded protobuf). Never throws
/// after construction: a failing write warns once.
class TensorBoardWriter {
 public:
  /// A new file in `folder` (created if missing). With `last_step` TensorBoard forgets what earlier
  /// files there say about later steps. Throws Error{run_folder}.
  explicit TensorBoardWriter(const std::filesystem::path& folder,
                             std::optional<int64_t> last_step = std::nullopt);
  void scalars(const MetricRow& row);
  /// `png`: an encoded picture of height x width with 1 to 4 channels.
  void image(int64_t step,
             const std::string& tag,
             std::span<const uint8_t> png,
             int64_t height,
             int64_t width,
             int64_t channels);

 private:
  void event(int64_t step, const std::string& payload);
  AppendFile file_;
};

}  // namespace diffuse
