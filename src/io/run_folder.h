// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/files.h"
#include "base/log.h"

// Everything that a training run leaves behind lies in one folder:
//   config.yaml config.resolved.yaml overrides.txt command.txt env.json status.json
//   data_report.jsonl metrics.jsonl log.txt run.lock checkpoints/ samples/ plots/ tensorboard/
//   validation/

namespace diffuse {

/// What the run was made from. Written at its start.
struct RunRecord {
  std::string config;                  // verbatim
  std::string resolved_config;         // every key
  std::vector<std::string> overrides;  // --set texts
  std::vector<std::string> command;    // argv
  /// Added to env.json: versions, git commit, GPU name, ... Host, CPU, memory, system and locale
  /// are found here.
  std::vector<std::pair<std::string, std::string>> environment;
};

struct RunStatus {
  std::string state;  // running, finished, stopped, failed; killed (only when read)
  int64_t step = 0;
  int64_t of = 0;
  std::optional<double> eta_seconds;
  std::string last_checkpoint;  // relative to the run folder; empty: none yet
  std::optional<int> exit;      // once the run has ended
};

/// A run folder, locked for this process until destroyed.
class RunFolder {
 public:
  /// A new folder ROOT/NAME-001, -002, ...: one above the highest there. Starts at the same time
  /// get different ones. Throws Error{run_folder}.
  static RunFolder create(const std::filesystem::path& root, const std::string& name);

  /// Exactly this folder, created with its parents if missing. Unless `resume`, it must be empty;
  /// with it, it must be a run folder, empty, or what `diffuse init` wrote. Throws
  /// Error{run_folder}, also when another process holds it.
  static RunFolder open(const std::filesystem::path& path, bool resume);

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path checkpoints() const { return path_ / "checkpoints"; }
  std::filesystem::path samples() const { return path_ / "samples"; }
  /// Made by the first who writes there.
  std::filesystem::path validation() const { return path_ / "validation"; }
  std::filesystem::path plots() const { return path_ / "plots"; }
  std::filesystem::path tensorboard() const { return path_ / "tensorboard"; }
  std::filesystem::path metrics() const { return path_ / "metrics.jsonl"; }
  std::filesystem::path log() const { return path_ / "log.txt"; }

  /// command.txt gets one more line, so that it lists every start; the other files are replaced.
  /// Throws Error{run_folder}.
  void write_record(const RunRecord& record) const;

  /// For a run that begins at step 0 in a folder that has been used: its metrics.jsonl is renamed,
  /// with a warning. Throws Error{run_folder}.
  void set_aside_metrics() const;

  /// Throws Error{run_folder} when the folder was moved or removed meanwhile: what is written would
  /// go elsewhere.
  void check_still_there() const;

  /// Replaces status.json; at most once a second unless the state, the last checkpoint or the exit
  /// code changed. A failure (disk full) warns, now and then: it must not stop a run.
  void write_status(const RunStatus& status);

  /// Replaces data_report.jsonl: path and reason of each skipped file. A failure warns.
  void write_data_report(const std::vector<std::pair<std::string, std::string>>& skipped) const;

 private:
  RunFolder(std::filesystem::path path, std::unique_ptr<FileLock> lock);

  std::filesystem::path path_;
  std::unique_ptr<FileLock> lock_;
  std::optional<RunStatus> written_;
  std::chrono::steady_clock::time_point written_at_;
  log::RareWarning warning_;
};

/// What status.json of a run folder says; none when it is missing or damaged. A killed process
/// cannot say that it has ended, but the kernel has freed its lock: such a run is "killed".
std::optional<RunStatus> read_status(const std::filesystem::path& folder);

/// argv as one line that a POSIX shell reads back as the same words.
std::string quote_command(const std::vector<std::string>& command);

}  // namespace diffuse
