// SPDX-License-Identifier: MIT
#include "diffusion/number_file.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <sstream>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"

namespace diffuse {

std::vector<std::vector<double>> read_number_file(const std::string& file, size_t columns) {
  constexpr const char* kSeparators = " \t\r,";
  std::istringstream in(read_file(file, Exit::config, 64 << 20));
  std::vector<std::vector<double>> out;
  std::string line;
  for (int64_t number = 1; std::getline(in, line); ++number) {
    if (number == 1 && line.starts_with("\xEF\xBB\xBF")) line.erase(0, 3);  // a byte order mark
    const auto refuse = [&](const std::string& reason) {
      throw Error(Exit::config, file + ":" + std::to_string(number) + ": " + reason);
    };
    if (line.find('\0') != std::string::npos)
      refuse(
          "not text, but a file of another kind (pickle, .npy?), which is not read; write the "
          "numbers as text, e.g. with numpy.savetxt");
    line = line.substr(0, line.find('#'));
    std::vector<double> row;
    for (size_t at = line.find_first_not_of(kSeparators); at != std::string::npos;) {
      const size_t end = std::min(line.find_first_of(kSeparators, at), line.size());
      double value = 0;
      const auto [stop, error] = std::from_chars(line.data() + at, line.data() + end, value);
      if (error != std::errc() || stop != line.data() + end || !std::isfinite(value))
        refuse("not a number: '" +
               printable(line.substr(at, std::min<size_t>(end - at, 40)), true) + "'");
      row.push_back(value);
      at = line.find_first_not_of(kSeparators, end);
    }
    if (row.empty()) continue;
    if (row.size() != columns)
      refuse(std::to_string(columns) + (columns == 1 ? " number" : " numbers") +
             " a line expected, got " + std::to_string(row.size()));
    out.push_back(std::move(row));
  }
  return out;
}

}  // namespace diffuse
