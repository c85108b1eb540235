// SPDX-License-Identifier: MIT
#include "base/text.h"

#include <algorithm>
#include <charconv>
#include <ctime>

namespace diffuse {

std::string zero_padded(int64_t value, size_t digits) {
  const std::string text = std::to_string(value);
  return std::string(text.size() < digits ? digits - text.size() : 0, '0') + text;
}

std::string shortest(double value) {
  char text[32];
  return {text, std::to_chars(text, text + sizeof(text), value).ptr};
}

std::string significant(double value, int digits) {
  char text[32];
  return {text,
          std::to_chars(text, text + sizeof(text), value, std::chars_format::general, digits).ptr};
}

std::string hex(uint64_t value) {
  char text[16];
  const std::string digits(text, std::to_chars(text, text + sizeof(text), value, 16).ptr);
  return std::string(sizeof(text) - digits.size(), '0') + digits;
}

std::string fixed(double value, int decimals) {
  char text[384];  // the largest double has 309 digits before the point
  const auto end =
      std::to_chars(text, text + sizeof(text), value, std::chars_format::fixed, decimals).ptr;
  return {text, end};
}

std::string counted(int64_t n, const std::string& one, const std::string& many) {
  return std::to_string(n) + " " + (n == 1 ? one : many.empty() ? one + "s" : many);
}

size_t characters(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

std::string padded(const std::string& text, size_t width) {
  const size_t used = characters(text);
  return std::string(used < width ? width - used : 0, ' ') + text;
}

bool is_folder_name(std::string_view name) {
  return !name.empty() && name.front() != '.' && std::all_of(name.begin(), name.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return c != '/' && byte >= 0x20 && byte != 0x7f;
  });
}

std::string printable(std::string_view text, bool one_line) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool layout = !one_line && (c == '\n' || c == '\t');
    if ((byte < 0x20 && !layout) || byte == 0x7f)
      out += {'\\', 'x', digits[byte >> 4], digits[byte & 15]};
    else
      out += c;
  }
  return out;
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
