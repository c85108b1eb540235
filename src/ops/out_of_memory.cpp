// SPDX-License-Identifier: MIT
#include "ops/out_of_memory.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdlib>
#include <new>

#include "base/error.h"
#include "base/memory.h"

namespace diffuse {

std::optional<std::string> out_of_memory(const std::exception& e) {
  const auto available = [] { return format_bytes(memory_available()) + " available in all"; };
  if (dynamic_cast<const std::bad_alloc*>(&e) != nullptr) return "of " + available();
  if (dynamic_cast<const Error*>(&e) != nullptr) return std::nullopt;
  const auto* const error = dynamic_cast<const c10::Error*>(&e);
  const std::string text = error != nullptr ? error->what_without_backtrace() : e.what();
  // On a GPU the message has all: "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a
  // total capacity of ... of which ... is free. ..."
  if (dynamic_cast<const c10::OutOfMemoryError*>(&e) != nullptr)
    return text.substr(0, std::min(text.find(" is free") + 8, text.find('\n')));
  // "DefaultCPUAllocator: can't allocate memory: you tried to allocate N bytes. ..."
  if (text.find("allocate memory") != std::string::npos) {
    static constexpr char kBefore[] = "tried to allocate ";
    const size_t at = text.find(kBefore);
    const std::string wanted =
        at == std::string::npos
            ? ""
            : format_bytes(std::atoll(text.c_str() + at + sizeof(kBefore) - 1)) + " wanted, of ";
    return wanted + available();
  }
  // oneDNN, which allocates by itself, and for its programs without saying why that failed.
  if (text.find("out_of_memory") != std::string::npos ||
      text.find("out of memory") != std::string::npos ||
      (text.find("could not create a primitive") != std::string::npos &&
       text.find("could not create a primitive descriptor") == std::string::npos))
    return "of " + available();
  return std::nullopt;
}

}  // namespace diffuse
