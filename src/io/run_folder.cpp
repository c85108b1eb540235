// SPDX-License-Identifier: MIT
#include "io/run_folder.h"

#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/text.h"
#include "io/checkpoint.h"

namespace diffuse {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr const char* kLock = "run.lock";
constexpr uint64_t kMaxCommands = 16 << 20;
constexpr uint64_t kMaxStatus = 1 << 20;

[[noreturn]] void fail(const std::string& what) {
  throw Error(Exit::run_folder, what + "; choose another place with --run-dir or run.root");
}

/// Texts from outside (paths, host names) may hold any bytes; JSON may not.
std::string dump(const ordered_json& value, int indent = -1) {
  return value.dump(indent, ' ', false, ordered_json::error_handler_t::replace);
}

void make_folders(const fs::path& path) {
  try {
    create_folders(path, Exit::run_folder);
  } catch (const Error& e) {
    fail(e.what());
  }
}

/// Else a power loss may take a new folder, with all that is synced in it.
void sync_folder(const fs::path& path) {
  try {
    fsync_folder(path);
  } catch (const Error& e) {
    fail(e.what());
  }
}

/// Whether there is anything but the lock file of a run that wrote nothing else.
bool has_content(const fs::path& folder) {
  std::error_code error;
  for (fs::directory_iterator it(folder, error); !error && it != fs::directory_iterator();
       it.increment(error))
    if (it->path().filename() != kLock) return true;
  if (error) fail("cannot list " + folder.string() + ": " + error.message());
  return false;
}

std::unique_ptr<FileLock> lock_folder(const fs::path& folder) {
  if (::access(folder.c_str(), W_OK) != 0)
    fail("cannot write to " + folder.string() + ": " + std::strerror(errno));
  return std::make_unique<FileLock>(folder / kLock);
}

/// The number of run folder `entry` of this name, 0 if it is none.
uint64_t number_of(const std::string& entry, const std::string& name) {
  if (entry.size() <= name.size() + 1 || entry.compare(0, name.size(), name) != 0 ||
      entry[name.size()] != '-')
    return 0;
  uint64_t number = 0;
  const char* end = entry.data() + entry.size();
  const auto [rest, error] = std::from_chars(entry.data() + name.size() + 1, end, number);
  return error == std::errc() && rest == end && number < 1'000'000'000 ? number : 0;
}

/// Temporary files of replacements that a kill interrupted: NAME.tmp-PID.
void remove_temporaries(const fs::path& folder) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator it(folder, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    const size_t at = name.rfind(".tmp-");
    if (at != std::string::npos && at + 5 < name.size() &&
        name.find_first_not_of("0123456789", at + 5) == std::string::npos)
      found.push_back(it->path());
  }
  for (const fs::path& path : found) fs::remove(path, error);
}

std::string cpu_name() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("model name", 0) != 0) continue;
    const size_t colon = line.find(": ");
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

/// The locale that the environment asks for (POSIX order of precedence).
std::string locale_name() {
  for (const char* variable : {"LC_ALL", "LC_CTYPE", "LANG"})
    if (const char* value = std::getenv(variable); value != nullptr && *value != '\0') return value;
  return "C";
}

ordered_json environment(const std::vector<std::pair<std::string, std::string>>& more) {
  ordered_json out;
  for (const auto& [key, value] : more) out[key] = value;
  char host[256] = {};
  ::gethostname(host, sizeof(host) - 1);
  utsname system{};
  ::uname(&system);
  std::error_code ignored;
  out["host"] = host;
  out["pid"] = ::getpid();
  out["started"] = utc_now();
  out["system"] = std::string(system.sysname) + " " + system.release + " " + system.machine;
  out["cpu"] = cpu_name();
  out["cpu_threads"] = std::thread::hardware_concurrency();
  out["memory_bytes"] = static_cast<int64_t>(::sysconf(_SC_PHYS_PAGES)) * ::sysconf(_SC_PAGESIZE);
  out["locale"] = locale_name();
  out["working_folder"] = fs::current_path(ignored).string();
  return out;
}

}  // namespace

RunFolder::RunFolder(fs::path path, std::unique_ptr<FileLock> lock)
    : path_(std::move(path)), lock_(std::move(lock)) {
  for (const fs::path& folder : {checkpoints(), samples(), plots(), tensorboard()})
    make_folders(folder);
  remove_leftovers(checkpoints());
  for (const fs::path& folder : {path_, samples(), plots(), validation()})
    remove_temporaries(folder);
}

RunFolder RunFolder::create(const fs::path& root, const std::string& name) {
  DIFFUSE_CHECK(is_folder_name(name));  // the config refuses others
  make_folders(root);
  uint64_t number = 0;
  std::error_code error;
  for (fs::directory_iterator it(root, error); !error && it != fs::directory_iterator();
       it.increment(error))
    number = std::max(number, number_of(it->path().filename().string(), name));
  if (error) fail("cannot list " + root.string() + ": " + error.message());
  while (true) {
    const fs::path path = root / (name + "-" + zero_padded(static_cast<int64_t>(++number), 3));
    // mkdir is atomic: of several starts one gets the number, the others go on to the next.
    if (::mkdir(path.c_str(), 0777) == 0) {
      sync_folder(root);
      return RunFolder(path, lock_folder(path));
    }
    if (errno != EEXIST) fail("cannot create " + path.string() + ": " + std::strerror(errno));
  }
}

namespace {

/// Whether `path` holds more than what `diffuse init` writes, and is no run folder.
bool is_foreign(const fs::path& path) {
  std::error_code error;
  for (const char* mark : {kLock, "config.resolved.yaml", "status.json"})
    if (fs::exists(path / mark, error)) return false;
  for (fs::directory_iterator it(path, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    // The lock, too: another start may just have made it.
    const bool ours = name == kLock || name == "checkpoints" || name == "samples" ||
                      name == "plots" || name == "tensorboard" || name == "config.yaml" ||
                      name == "diffuse.schema.json";
    if (!ours) return true;
  }
  return false;
}

}  // namespace

RunFolder RunFolder::open(const fs::path& path, bool resume) {
  make_folders(path);
  std::error_code ignored;
  const auto refuse_content = [&] {
    if (!resume && has_content(path))
      throw Error(Exit::run_folder,
                  path.string() +
                      " exists and is not empty; go on with it by --resume auto, or choose another "
                      "--run-dir");
  };
  // Somebody's own folder is refused before a lock file is put into it; a run in progress is better
  // reported as such.
  if (!fs::exists(path / kLock, ignored)) refuse_content();
  if (is_foreign(path))
    throw Error(
        Exit::run_folder,
        path.string() + " holds other files and is no run folder; choose another --run-dir");
  auto lock = lock_folder(path);
  refuse_content();
  return RunFolder(path, std::move(lock));
}

void RunFolder::write_record(const RunRecord& record) const {
  const auto put = [&](const char* name, const std::string& text) {
    write_file_atomic(path_ / name, text, Exit::run_folder);
  };
  std::string overrides;
  for (const std::string& text : record.overrides) overrides += text + "\n";
  std::error_code ignored;
  std::string commands;
  if (fs::exists(path_ / "command.txt", ignored))
    commands = read_file(path_ / "command.txt", Exit::run_folder, kMaxCommands);
  else if (fs::exists(path_ / "config.yaml", ignored) &&
           read_file(path_ / "config.yaml", Exit::run_folder) != record.config)
    throw Error(Exit::run_folder,
                (path_ / "config.yaml").string() +
                    " is another config than this run's and would be overwritten; choose another "
                    "--run-dir");
  commands += quote_command(record.command) + "\n";
  put("config.yaml", record.config);
  put("config.resolved.yaml", record.resolved_config);
  put("overrides.txt", overrides);
  put("command.txt", commands);
  put("env.json", dump(environment(record.environment), 2) + "\n");
}

void RunFolder::write_status(const RunStatus& status) {
  const auto now = std::chrono::steady_clock::now();
  if (written_ && now - written_at_ < std::chrono::seconds(1) && written_->state == status.state &&
      written_->last_checkpoint == status.last_checkpoint && written_->exit == status.exit)
    return;
  ordered_json out;
  out["state"] = status.state;
  out["step"] = status.step;
  out["of"] = status.of;
  out["eta"] = status.eta_seconds ? ordered_json(*status.eta_seconds) : ordered_json();
  out["last_checkpoint"] =
      status.last_checkpoint.empty() ? ordered_json() : ordered_json(status.last_checkpoint);
  out["exit"] = status.exit ? ordered_json(*status.exit) : ordered_json();
  out["time"] = utc_now();
  try {
    write_file_atomic(path_ / "status.json", dump(out, 1) + "\n");
  } catch (const Error& e) {
    warning_.warn(std::string(e.what()) + "; the run goes on");
  }
  written_ = status;
  written_at_ = now;
}

void RunFolder::set_aside_metrics() const {
  std::error_code error;
  if (fs::file_size(metrics(), error) == 0 || error) return;
  fs::path aside = path_ / "metrics-before.jsonl";
  for (int i = 2; fs::exists(aside); ++i)
    aside = path_ / ("metrics-before-" + std::to_string(i) + ".jsonl");
  fs::rename(metrics(), aside, error);
  if (error) fail("cannot rename " + metrics().string() + ": " + error.message());
  log::warn(path_.string() +
            " has no checkpoint: training begins at step 0, and the metrics of before are now " +
            aside.filename().string());
}

void RunFolder::check_still_there() const {
  if (!lock_->is_at(path_ / kLock))
    throw Error(Exit::run_folder,
                path_.string() +
                    " was moved or removed while it was in use; put it back and start again with "
                    "--run-dir");
}

void RunFolder::write_data_report(
    const std::vector<std::pair<std::string, std::string>>& skipped) const {
  std::string lines;
  for (const auto& [file, reason] : skipped)
    lines += dump(ordered_json{{"path", file}, {"reason", reason}}) + "\n";
  try {
    write_file_atomic(path_ / "data_report.jsonl", lines);
  } catch (const Error& e) {
    log::warn(std::string(e.what()) + "; the run goes on");
  }
}

std::optional<RunStatus> read_status(const fs::path& folder) {
  const fs::path path = folder / "status.json";
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) return std::nullopt;
  const auto in = parse_json<ordered_json>(read_file(path, Exit::run_folder, kMaxStatus));
  if (!in.is_object()) return std::nullopt;
  RunStatus out;
  const auto text = [&](const char* key) {
    const auto at = in.find(key);
    return at != in.end() && at->is_string() ? at->get<std::string>() : std::string();
  };
  const auto count = [&](const char* key) -> std::optional<int64_t> {
    const auto at = in.find(key);
    if (at == in.end() || !at->is_number_integer()) return std::nullopt;
    return at->get<int64_t>();
  };
  out.state = text("state");
  if (out.state == "running" && !is_locked(folder / kLock)) out.state = "killed";
  out.step = count("step").value_or(0);
  out.of = count("of").value_or(0);
  if (const auto eta = in.find("eta"); eta != in.end() && eta->is_number())
    out.eta_seconds = eta->get<double>();
  out.last_checkpoint = text("last_checkpoint");
  if (const auto code = count("exit")) out.exit = static_cast<int>(*code);
  return out;
}

std::string quote_command(const std::vector<std::string>& command) {
  std::string out;
  for (const std::string& word : command) {
    if (!out.empty()) out += ' ';
    const bool plain = !word.empty() && std::all_of(word.begin(), word.end(), [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
             std::strchr("_-+./:=,@%", c) != nullptr;
    });
    if (plain) {
      out += word;
      continue;
    }
    out += '\'';
    for (const char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
    out += '\'';
  }
  return out;
}

}  // namespace diffuse
