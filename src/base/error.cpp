// SPDX-License-Identifier: MIT
#include "base/error.h"

namespace diffuse {

void check_failed(const char* condition, const char* file, int line) {
  throw std::logic_error(std::string(file) + ":" + std::to_string(line) +
                         ": invariant broken: " + condition);
}

}  // namespace diffuse
