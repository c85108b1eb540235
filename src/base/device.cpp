// SPDX-License-Identifier: MIT
#include "base/device.h"

#include <charconv>
#include <cstdint>

namespace diffuse {

std::optional<DeviceName> parse_device(std::string_view text) {
  using Kind = DeviceName::Kind;
  if (text == "auto") return DeviceName{Kind::automatic};
  if (text == "cpu") return DeviceName{Kind::cpu};
  if (text == "cuda") return DeviceName{Kind::cuda};
  if (!text.starts_with("cuda:")) return std::nullopt;
  uint8_t index = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data() + 5, end, index);
  if (error != std::errc() || rest != end) return std::nullopt;
  return DeviceName{Kind::cuda, index};
}

std::optional<double> dense_bf16_tflops(std::string_view gpu) {
  struct Peak {
    std::string_view part;  // of the name
    double tflops;          // from NVIDIA's data sheets
  };
  // The first that fits: a PCIe H100 has fewer cores than one on a board (SXM), an NVL slower ones.
  static constexpr Peak kPeaks[] = {{"H100 PCIe", 756},
                                    {"H100 NVL", 835},
                                    {"H100", 989},
                                    {"H200 NVL", 835},
                                    {"H200", 989},
                                    {"A100", 312}};
  for (const Peak& peak : kPeaks)
    if (gpu.find(peak.part) != std::string_view::npos) return peak.tflops;
  return std::nullopt;
}

}  // namespace diffuse
