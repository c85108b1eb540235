// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <string_view>

namespace diffuse {

/// Text for XML and HTML, also in attributes: markup escaped, what XML 1.0 cannot hold (control
/// characters, invalid UTF-8) replaced.
std::string escape_markup(std::string_view text);

/// Bytes as base64 with padding (RFC 4648, sec. 4).
std::string base64(std::string_view bytes);

}  // namespace diffuse
