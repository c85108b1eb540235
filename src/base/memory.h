// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>

namespace diffuse {

/// Bytes that this process may still take before memory runs out: the least of what the machine has
/// available, what its control group (version 2 or 1) allows, and what its limit of address space
/// (ulimit -v) leaves. 2^62 where none of them is known.
int64_t memory_available();

/// Whether there is a limit of what this process may map, touched or not: ulimit -v, or a system
/// that does not overcommit.
bool mapping_is_limited();
/// Whether so many more bytes could be mapped just now. True without asking where nothing limits
/// it.
bool has_room(int64_t bytes);

/// "512 B", "3.4 MB", "12 GB", in powers of 1000; two digits at least.
std::string format_bytes(int64_t bytes);

}  // namespace diffuse
