// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

// "did you mean": the name that a person most likely wanted.

namespace diffuse {

struct Suggestion {
  std::string name;  // what may have been typed: a key, an option, or another tool's name for it
  std::string replacement;  // what to propose; empty: the name itself
};

/// Number of insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b`
/// (optimal string alignment), not counted beyond `limit` (limit + 1 is returned then).
size_t edit_distance(std::string_view a, std::string_view b, size_t limit);

/// The candidate whose name equals `wrong` but for case and '-' against '_'; empty when there is
/// none.
std::string same_name(std::string_view wrong, const std::vector<Suggestion>& candidates);

/// The nearest candidate within a distance that grows with the length of `wrong`, else the only one
/// that starts with it; empty when there is none.
std::string closest_name(std::string_view wrong, const std::vector<Suggestion>& candidates);

}  // namespace diffuse
