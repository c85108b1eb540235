// SPDX-License-Identifier: MIT
#include "base/text.h"

#include <ctime>

namespace diffuse {

std::string zero_padded(int64_t value, size_t digits) {
  const std::string text = std::to_string(value);
  return std::string(text.size() < digits ? digits - text.size() : 0, '0') + text;
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

}  // namespace diffuse
