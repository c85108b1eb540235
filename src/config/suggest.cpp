// SPDX-License-Identifier: MIT
#include "config/suggest.h"

#include <algorithm>
#include <numeric>

namespace diffuse {
namespace {

// ASCII only and without the locale: 'I' must not become a dotless i in Turkish.
std::string folded(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    if (c == '-') c = '_';
  }
  return out;
}

const std::string& proposal(const Suggestion& s) {
  return s.replacement.empty() ? s.name : s.replacement;
}

size_t common_prefix(std::string_view a, std::string_view b) {
  const auto ends = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  return static_cast<size_t>(ends.first - a.begin());
}

size_t allowed_distance(size_t length) {
  return length < 2 ? 0 : length < 6 ? 1 : length < 9 ? 2 : 3;
}

}  // namespace

size_t edit_distance(std::string_view a, std::string_view b, size_t limit) {
  const size_t gap = a.size() > b.size() ? a.size() - b.size() : b.size() - a.size();
  if (gap > limit) return limit + 1;
  std::vector<size_t> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  std::iota(last.begin(), last.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] =
          std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = std::min(row[j], before[j - 2] + 1);
    }
    before.swap(last);
    last.swap(row);
  }
  return std::min(last[b.size()], limit + 1);
}

std::string same_name(std::string_view wrong, const std::vector<Suggestion>& candidates) {
  const std::string key = folded(wrong);
  for (const Suggestion& s : candidates)
    if (folded(s.name) == key) return proposal(s);
  return {};
}

std::string closest_name(std::string_view wrong, const std::vector<Suggestion>& candidates) {
  if (wrong.size() > 64) return {};
  const std::string key = folded(wrong);
  const size_t limit = allowed_distance(key.size());
  const Suggestion* best = nullptr;
  size_t best_distance = limit + 1;
  size_t best_prefix = 0;
  for (const Suggestion& s : candidates) {
    const std::string name = folded(s.name);
    const size_t distance = edit_distance(key, name, limit);
    const size_t prefix = common_prefix(key, name);
    if (distance > limit || distance >= name.size()) continue;
    if (distance < best_distance || (distance == best_distance && prefix > best_prefix)) {
      best = &s;
      best_distance = distance;
      best_prefix = prefix;
    }
  }
  if (best != nullptr) return proposal(*best);
  std::string only;
  for (const Suggestion& s : candidates) {
    if (key.empty() || !folded(s.name).starts_with(key)) continue;
    if (!only.empty() && only != proposal(s)) return {};
    only = proposal(s);
  }
  return only;
}

}  // namespace diffuse
