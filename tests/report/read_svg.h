// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <charconv>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

// SVG text as tests look at it.

namespace diffuse {

/// Checks that tags are balanced and that text has no stray markup; returns the texts of <text>
/// elements.
inline std::vector<std::string> texts_of(const std::string& svg) {
  std::vector<std::string> open, texts;
  for (size_t i = 0; i < svg.size();) {
    if (svg[i] != '<') {
      const size_t end = std::min(svg.find('<', i), svg.size());
      if (!open.empty() && open.back() == "text") texts.push_back(svg.substr(i, end - i));
      i = end;
      continue;
    }
    const size_t end = svg.find('>', i);
    if (end == std::string::npos) throw std::runtime_error("unfinished tag");
    const std::string tag = svg.substr(i + 1, end - i - 1);
    if (tag.find('<') != std::string::npos) throw std::runtime_error("tag in a tag: " + tag);
    if (tag[0] == '/') {
      if (open.empty() || open.back() != tag.substr(1))
        throw std::runtime_error("unbalanced " + tag);
      open.pop_back();
    } else if (tag.back() != '/') {
      open.push_back(tag.substr(0, tag.find(' ')));
    }
    i = end + 1;
  }
  if (!open.empty()) throw std::runtime_error("not closed: " + open.back());
  return texts;
}

inline size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

inline bool has(const std::vector<std::string>& texts, const std::string& text) {
  return std::find(texts.begin(), texts.end(), text) != texts.end();
}

/// The number that begins at `place`, which is moved behind it.
inline double number_at(const std::string& text, size_t& place) {
  double value = std::numeric_limits<double>::quiet_NaN();
  const auto rest = std::from_chars(text.data() + place, text.data() + text.size(), value).ptr;
  place = static_cast<size_t>(rest - text.data());
  return value;
}

}  // namespace diffuse
