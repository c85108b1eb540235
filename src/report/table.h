// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace diffuse {

/// Cells of text under heads, every row as long as `head`.
struct Table {
  std::string title;
  std::vector<std::string> head;
  std::vector<std::vector<std::string>> rows;
  size_t left = 1;  // the first columns, set to the left: names; the others are numbers
  std::vector<std::string> notes;  // below it
};

/// Aligned for a terminal: title, heads, rows, notes. Control characters in cells are shown as
/// \xNN.
std::string table_text(const Table& table);

/// One field of a CSV line, quoted where it has to be (RFC 4180).
std::string csv_field(std::string_view text);

}  // namespace diffuse
