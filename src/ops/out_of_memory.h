// SPDX-License-Identifier: MIT
#pragma once

#include <exception>
#include <optional>
#include <string>

namespace diffuse {

/// How much memory was wanted and how much there is, when `e` says that an allocation failed on
/// either device; none for any other exception, and for an Error, which says it with a remedy of
/// its own. On the CPU what is available is what all of the work that failed could have, as it has
/// given its memory back by now.
std::optional<std::string> out_of_memory(const std::exception& e);

}  // namespace diffuse
