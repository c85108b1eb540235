// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace diffuse {

/// `value` (>= 0) with leading zeros up to `digits`: names of files that sort by number.
std::string zero_padded(int64_t value, size_t digits);

/// The time now as "2026-11-22T09:30:00Z".
std::string utc_now();

}  // namespace diffuse
