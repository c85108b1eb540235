// SPDX-License-Identifier: MIT
#include "config/scalar.h"

#include <charconv>
#include <cmath>
#include <limits>

#include "base/text.h"

namespace diffuse {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string_view without_sign(std::string_view text) {
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) text.remove_prefix(1);
  return text;
}

/// Whether the text has the form of a core-schema float or integer.
bool is_float_form(std::string_view text) {
  text = without_sign(text);
  size_t i = 0, digits = 0;
  while (i < text.size() && is_digit(text[i])) ++i, ++digits;
  if (i < text.size() && text[i] == '.') {
    ++i;
    while (i < text.size() && is_digit(text[i])) ++i, ++digits;
  }
  if (digits == 0) return false;
  if (i < text.size() && (text[i] == 'e' || text[i] == 'E')) {
    ++i;
    if (i < text.size() && (text[i] == '-' || text[i] == '+')) ++i;
    const size_t first = i;
    while (i < text.size() && is_digit(text[i])) ++i;
    if (i == first) return false;
  }
  return i == text.size();
}

Parsed parse_base(std::string_view digits, int base, int64_t& out) {
  const char* end = digits.data() + digits.size();
  const auto [stop, error] = std::from_chars(digits.data(), end, out, base);
  if (error == std::errc::result_out_of_range) return Parsed::out_of_range;
  if (error != std::errc() || stop != end || digits[0] == '-') return Parsed::not_a_number;
  return Parsed::ok;
}

}  // namespace

std::optional<bool> parse_bool(std::string_view text) {
  if (text == "true" || text == "True" || text == "TRUE") return true;
  if (text == "false" || text == "False" || text == "FALSE") return false;
  return std::nullopt;
}

Parsed parse_double(std::string_view text, double& out) {
  const std::string_view bare = without_sign(text);
  if (bare == ".inf" || bare == ".Inf" || bare == ".INF") {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    out = text[0] == '-' ? -infinity : infinity;
    return Parsed::ok;
  }
  if (text == ".nan" || text == ".NaN" || text == ".NAN") {
    out = NAN;
    return Parsed::ok;
  }
  if (!is_float_form(text)) return Parsed::not_a_number;
  if (text[0] == '+') text.remove_prefix(1);  // from_chars takes no plus
  const char* const end = text.data() + text.size();
  std::from_chars_result read = std::from_chars(text.data(), end, out);
  if (read.ec == std::errc::result_out_of_range) {
    // Too small is zero, or as near as it can be; beyond 1e-4950 it is an error still.
    long double wide = 0;
    read = std::from_chars(text.data(), end, wide);
    out = static_cast<double>(wide);
    if (read.ec != std::errc() || std::isinf(out)) return Parsed::out_of_range;
  }
  return read.ptr == end ? Parsed::ok : Parsed::not_a_number;
}

Parsed parse_int(std::string_view text, int64_t& out) {
  if (text.size() > 2 && text.starts_with("0x")) return parse_base(text.substr(2), 16, out);
  if (text.size() > 2 && text.starts_with("0o")) return parse_base(text.substr(2), 8, out);
  if (!is_float_form(text)) return Parsed::not_a_number;
  if (text[0] == '+') text.remove_prefix(1);
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, out);
  if (error == std::errc() && stop == end) return Parsed::ok;
  if (error == std::errc::result_out_of_range) return Parsed::out_of_range;
  double value = 0;
  const Parsed parsed = parse_double(text, value);
  if (parsed != Parsed::ok) return parsed;
  if (value != std::floor(value)) return Parsed::not_a_number;
  // 2^53: beyond it a double no longer tells neighbouring integers apart.
  if (std::abs(value) > 9007199254740992.0) return Parsed::out_of_range;
  out = static_cast<int64_t>(value);
  return Parsed::ok;
}

std::string format_double(double value) {
  if (std::isnan(value)) return ".nan";
  if (std::isinf(value)) return value < 0 ? "-.inf" : ".inf";
  std::string text = shortest(value);
  const size_t e = text.find('e');
  if (e != std::string::npos) {
    if (text.size() > e + 3 && text[e + 2] == '0') text.erase(e + 2, 1);  // e-04 -> e-4
    if (text.find('.') == std::string::npos) text.insert(e, ".0");
  } else if (text.find('.') == std::string::npos) {
    text += ".0";
  }
  return text;
}

std::string format_string(std::string_view text) {
  const auto letter = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
  };
  bool plain = !text.empty() && (letter(text[0]) || text[0] == '/');
  for (const char c : text)
    plain = plain && (letter(c) || is_digit(c) || c == '/' || c == '.' || c == '-');
  // Words that some YAML reader takes for a bool or null.
  for (const char* word : {"true", "false", "yes", "no", "on", "off", "y", "n", "null"}) {
    std::string lower(text);
    for (char& c : lower)
      if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    if (lower == word) plain = false;
  }
  if (plain) return std::string(text);
  static constexpr char hex[] = "0123456789ABCDEF";
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (byte < 0x20 || byte == 0x7F) {
      out += "\\x";
      out += hex[byte >> 4];
      out += hex[byte & 15];
    } else {
      out += c;
    }
  }
  return out + "\"";
}

}  // namespace diffuse
