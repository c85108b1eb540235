// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace diffuse {

/// `value` (>= 0) with leading zeros up to `digits`: names of files that sort by number.
std::string zero_padded(int64_t value, size_t digits);

/// The shortest text that reads back as the same double, in any locale.
std::string shortest(double value);

/// `value` with at most this many significant digits, in any locale: 0.0012, 4.04e-05, inf.
std::string significant(double value, int digits);

/// 16 hexadecimal digits.
std::string hex(uint64_t value);

/// `value` with this many decimals, in any locale.
std::string fixed(double value, int decimals);

/// "1 picture", "2 pictures"; `many` where an s is not enough.
std::string counted(int64_t n, const std::string& one, const std::string& many = "");

/// How many characters UTF-8 text has.
size_t characters(std::string_view text);

/// `text` with spaces before it up to `width` characters: a cell of a table.
std::string padded(const std::string& text, size_t width);

/// Whether `name` can name a new folder that is not hidden: no '/' and no control characters.
bool is_folder_name(std::string_view name);

/// Others' text (file names, reasons) for a message or a terminal: control characters as \xNN. On
/// one line, so are line breaks and tabs: a file name must not forge a line.
std::string printable(std::string_view text, bool one_line);

/// The time now as "2026-11-22T09:30:00Z".
std::string utc_now();

}  // namespace diffuse
