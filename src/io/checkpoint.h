// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "io/safetensors.h"

// A checkpoint is a folder step-NNNNNNNNN whose final name appears only by rename:
//   model.safetensors ema.safetensors optim.safetensors state.json config.yaml MANIFEST.json
// Write order: .tmp-step-N-<pid>, files, fsync each, MANIFEST, fsync, fsync folder, re-read and
// verify, rename, fsync parent, `latest`, and only then old ones are removed. A kill at any instant
// leaves the previous checkpoint intact. One process at a time may write to a folder
// (io/run_folder.h locks it).

namespace diffuse {

struct CheckpointFile {
  std::string name;                 // a plain file name
  std::vector<TensorView> tensors;  // when the name ends in .safetensors; or
  std::string text;                 // the whole content of any other file
};

struct ManifestEntry {
  std::string name;
  uint64_t size = 0;
  std::string xxh3_128;  // hex
};

/// Writes checkpoint `step` (>= 0) under `folder` (created if missing). Returns its path. Throws
/// Error{write}; what was there before is untouched then. When this step is there already, with the
/// same content and undamaged, it is kept; otherwise it is exchanged for the new one in one step.
std::filesystem::path write_checkpoint(const std::filesystem::path& folder,
                                       int64_t step,
                                       const std::vector<CheckpointFile>& files,
                                       bool verify_after_write);

/// What was read is not what was written; any other Error says only that it could not be read.
struct DamagedCheckpoint : Error {
  explicit DamagedCheckpoint(const std::string& what)
      : Error(Exit::checkpoint, "damaged checkpoint: " + what), problem(what) {}
  std::string problem;  // the file and its fault
};

/// Re-hashes every file against the manifest. Throws DamagedCheckpoint, or Error{checkpoint}.
std::vector<ManifestEntry> verify_checkpoint(const std::filesystem::path& checkpoint);
/// The manifest's own hash: names the checkpoint's content ("diffuse inspect", PNG text). Equal for
/// equal steps and files. Throws Error{checkpoint}; the files themselves are not read.
std::string checkpoint_hash(const std::filesystem::path& checkpoint);

/// Complete checkpoints under `folder`, oldest first (by step). Unfinished ones are not listed.
/// Empty when there is no such folder.
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& folder);

/// What PATH names, not verified: a checkpoint is itself; of a `checkpoints` folder or a run folder
/// all in it, oldest first. Throws Error{checkpoint} when there is none.
std::vector<std::filesystem::path> checkpoints_at(const std::filesystem::path& path);
/// Likewise, the newest verified checkpoint. Damaged ones are passed over with a warning. Throws
/// Error{checkpoint} when there is none.
std::filesystem::path find_checkpoint(const std::filesystem::path& path);
/// The newest verified checkpoint under a `checkpoints` folder, likewise. None when there are none
/// at all; throws Error{checkpoint} when all are damaged, so that no run starts over without being
/// told to.
std::optional<std::filesystem::path> newest_checkpoint(const std::filesystem::path& folder);

/// Renames checkpoints of a later step than `step` to aside-step-N, with a warning: a run that goes
/// on from `step` writes those steps again, and neither a damaged nor an abandoned one may count as
/// newest. Nothing is removed. Throws Error{run_folder}.
void set_aside_newer(const std::filesystem::path& folder, int64_t step);

/// Removes all but the newest `keep_last` (at least one) and those at multiples of
/// `keep_every_steps` (0: none), and leftovers of killed writers. Warns and never throws: the run
/// can go on.
void prune_checkpoints(const std::filesystem::path& folder,
                       int64_t keep_last,
                       int64_t keep_every_steps);
void remove_leftovers(const std::filesystem::path& folder);

}  // namespace diffuse
