// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>

namespace diffuse {

/// Bytes that this process may still take before memory runs out: the least of what the machine has
/// available, what its control group (version 2 or 1) allows, and what its limit of address space
/// (ulimit -v) leaves. 2^62 where none of them is known.
int64_t memory_available();

/// "512 B", "3.4 MB", "12 GB", in powers of 1000; two digits at least.
std::string format_bytes(int64_t bytes);

}  // namespace diffuse
