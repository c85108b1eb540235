// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace diffuse {

/// Rows of `columns` numbers from a text file: one row a line, separated by spaces, tabs or commas;
/// '#' starts a comment. Throws Error{config} that names the line.
std::vector<std::vector<double>> read_number_file(const std::string& file, size_t columns);

}  // namespace diffuse
