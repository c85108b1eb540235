// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

// Scalars of YAML 1.2's core schema, read and written without the locale.

namespace diffuse {

enum class Parsed { ok, not_a_number, out_of_range };

/// true|True|TRUE|false|False|FALSE; nothing else (yes, no, on and off are text in YAML 1.2).
std::optional<bool> parse_bool(std::string_view text);

/// [-+]?[0-9]+, 0o17, 0x1F, and floats whose value is an integer (1e5, 1.0).
Parsed parse_int(std::string_view text, int64_t& out);

/// [-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?, integers, .inf and .nan.
Parsed parse_double(std::string_view text, double& out);

/// Shortest text that reads back as the same double, with a point or an exponent ("1.0", "1.0e-4"),
/// so that every YAML reader (PyYAML too) sees a float.
std::string format_double(double value);

/// Text as a YAML scalar: plain where no reader can take it for anything else, else double-quoted.
std::string format_string(std::string_view text);

}  // namespace diffuse
