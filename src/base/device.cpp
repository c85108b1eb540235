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

}  // namespace diffuse
