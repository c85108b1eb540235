// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "command.h"

namespace diffuse {

/// `diffuse verify --resume`.
struct ResumeProof {
  std::string config;            // file
  std::vector<std::string> set;  // --set texts
  int64_t steps = 20;
  int64_t interruptions = 5;
  int64_t seed = 0;  // of when and how the run is interrupted
  std::string out;   // a new folder for both runs; empty: a temporary one
};

/// Trains the first steps of a config twice in child processes, once interrupted at random by
/// signals and by kill -9, prints what differs, and returns 0 when nothing does. Throws
/// Error{checkpoint} when something does, and a child's own exit code when it fails.
int prove_resume(const ResumeProof& proof, bool json, const Context& context);

}  // namespace diffuse
