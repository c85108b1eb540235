// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string_view>

namespace diffuse {

/// A JSON document of others. The library copies and prints a value by recursion, so one that is
/// nested deeper than 64 levels counts as damaged. What is damaged is_discarded().
template <class Json = nlohmann::json>
Json parse_json(std::string_view text) {
  constexpr int kMaxDepth = 64;
  struct TooDeep {};
  const auto limit = [](int depth, typename Json::parse_event_t, Json&) {
    if (depth > kMaxDepth) throw TooDeep{};
    return true;
  };
  try {
    return Json::parse(text, limit, /*allow_exceptions=*/false);
  } catch (const TooDeep&) {
    return Json(Json::value_t::discarded);
  }
}

/// The library casts any number to an integer, which is undefined for a double that does not fit.
/// Throws std::runtime_error for what is no integer of 64 bits.
template <class Json>
int64_t integer(const Json& value) {
  if (!value.is_number_integer()) throw std::runtime_error("an integer is expected");
  if (value.is_number_unsigned() &&
      value.template get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()})
    throw std::runtime_error("an integer is too large");
  return value.template get<int64_t>();
}

}  // namespace diffuse
