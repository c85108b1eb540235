// SPDX-License-Identifier: MIT
#pragma once

#include <optional>
#include <string_view>

namespace diffuse {

/// A device as users name it: auto, cpu, cuda (the first GPU) or cuda:N.
struct DeviceName {
  enum class Kind { automatic, cpu, cuda } kind = Kind::automatic;
  int index = 0;  // of the GPU, 0 to 255
};

/// None when the text is no device.
std::optional<DeviceName> parse_device(std::string_view text);

/// TFLOP/s of a GPU's tensor cores in bfloat16 without sparsity, by the name that its driver gives;
/// none when it is not known.
std::optional<double> dense_bf16_tflops(std::string_view gpu);

}  // namespace diffuse
