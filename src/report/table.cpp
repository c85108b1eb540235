// SPDX-License-Identifier: MIT
#include "report/table.h"

#include <algorithm>

#include "base/error.h"
#include "base/text.h"

namespace diffuse {
namespace {

/// Words in lines of at most 98 characters, each two spaces in.
std::string wrapped(const std::string& words) {
  constexpr size_t kWidth = 98;
  std::string out, line = " ";
  for (size_t begin = 0; begin < words.size();) {
    const size_t end = std::min(words.find(' ', begin), words.size());
    const std::string word = words.substr(begin, end - begin);
    if (line.size() > 1 && characters(line) + 1 + characters(word) > kWidth) {
      out += line + "\n";
      line = " ";
    }
    line += " " + word;
    begin = end + 1;
  }
  return out + line + "\n";
}

}  // namespace

std::string table_text(const Table& table) {
  std::vector<std::vector<std::string>> lines{table.head};
  lines.insert(lines.end(), table.rows.begin(), table.rows.end());
  std::vector<size_t> widths(table.head.size(), 0);
  for (auto& line : lines) {
    DIFFUSE_CHECK(line.size() == widths.size());
    for (size_t c = 0; c < line.size(); ++c) {
      line[c] = printable(line[c], true);
      widths[c] = std::max(widths[c], characters(line[c]));
    }
  }
  std::string out = table.title + "\n";
  for (const auto& line : lines) {
    std::string row;
    for (size_t c = 0; c < line.size(); ++c) {
      row += "  ";
      if (c < table.left)
        row += line[c] + std::string(widths[c] - characters(line[c]), ' ');
      else
        row += padded(line[c], widths[c]);
    }
    row.erase(row.find_last_not_of(' ') + 1);
    out += row + "\n";
  }
  for (const std::string& note : table.notes) out += wrapped(printable(note, true));
  return out;
}

std::string csv_field(std::string_view text) {
  if (text.find_first_of(",\"\r\n") == std::string_view::npos) return std::string(text);
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + "\"";
}

}  // namespace diffuse
