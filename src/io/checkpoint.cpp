// SPDX-License-Identifier: MIT
#include "io/checkpoint.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "base/log.h"
#include "base/text.h"

namespace diffuse {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr const char* kManifest = "MANIFEST.json";
constexpr uint64_t kMaxManifest = 1 << 20;
constexpr int64_t kFormat = 1;

/// Digest of a byte sequence that arrives in pieces.
class Hash {
 public:
  Hash() : state_(XXH3_createState(), &XXH3_freeState) {
    if (!state_) throw std::bad_alloc();
    XXH3_128bits_reset(state_.get());
  }
  void add(std::span<const std::byte> bytes) {
    XXH3_128bits_update(state_.get(), bytes.data(), bytes.size());
    size_ += bytes.size();
  }
  uint64_t size() const { return size_; }
  std::string hex() const {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state_.get()));
    std::string out;
    for (const unsigned char byte : canonical.digest) {
      out += "0123456789abcdef"[byte >> 4];
      out += "0123456789abcdef"[byte & 15];
    }
    return out;
  }

 private:
  std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state_;
  uint64_t size_ = 0;
};

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string checkpoint_name(int64_t step) { return "step-" + zero_padded(step, 9); }

/// The step of a checkpoint's name; none for any other name.
std::optional<int64_t> step_of(const std::string& name) {
  if (name.rfind("step-", 0) != 0) return std::nullopt;
  int64_t step = -1;
  const char* end = name.data() + name.size();
  const auto [rest, error] = std::from_chars(name.data() + 5, end, step);
  if (error != std::errc() || rest != end || step < 0 || checkpoint_name(step) != name)
    return std::nullopt;
  return step;
}

struct Manifest {
  int64_t step = 0;
  std::vector<ManifestEntry> files;
  std::string hash;  // of the text without the hash
};

/// The one text of a manifest. A reader writes what it understood again and compares: any changed
/// byte of the file shows, whether or not the JSON means the same.
std::string manifest_text(const Manifest& m) {
  ordered_json files = ordered_json::array();
  for (const ManifestEntry& e : m.files)
    files.push_back({{"name", e.name}, {"size", e.size}, {"xxh3_128", e.xxh3_128}});
  ordered_json out{{"format", kFormat}, {"step", m.step}, {"files", std::move(files)}};
  if (!m.hash.empty()) out["xxh3_128"] = m.hash;
  return out.dump(1) + "\n";
}

std::string manifest_hash(Manifest m) {
  m.hash.clear();
  Hash hash;
  hash.add(bytes_of(manifest_text(m)));
  return hash.hex();
}

/// A manifest's names are looked up in the checkpoint's folder: they must not lead out of it.
bool is_plain_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

[[noreturn]] void damaged(const fs::path& file, const std::string& reason) {
  throw DamagedCheckpoint(file.string() + " " + reason);
}

Manifest read_manifest(const fs::path& checkpoint) {
  const fs::path path = checkpoint / kManifest;
  std::error_code error;
  if (!fs::exists(path, error) && !error) damaged(path, "is missing");
  const std::string text = read_file(path, Exit::checkpoint, kMaxManifest);
  Manifest m;
  try {
    const auto in = parse_json<ordered_json>(text);
    if (const auto& format = in.at("format"); format.is_number_integer() && format > kFormat)
      throw Error(Exit::checkpoint,
                  path.string() + " has format " + format.dump() +
                      ", written by a newer version; " + "this program reads format " +
                      std::to_string(kFormat));
    m.step = integer(in.at("step"));
    m.hash = in.at("xxh3_128").get<std::string>();
    for (const auto& e : in.at("files"))
      m.files.push_back({e.at("name").get<std::string>(),
                         static_cast<uint64_t>(integer(e.at("size"))),
                         e.at("xxh3_128").get<std::string>()});
  } catch (const Error&) {
    throw;
  } catch (const std::exception&) {
    damaged(path, "is not a manifest");
  }
  std::string again;
  try {
    again = manifest_text(m);
  } catch (const nlohmann::json::exception&) {
    damaged(path, "is not a manifest");
  }
  if (again != text || manifest_hash(m) != m.hash) damaged(path, "does not match its own hash");
  for (const ManifestEntry& e : m.files)
    if (!is_plain_name(e.name)) damaged(path, "names a file outside the checkpoint");
  // Steps are compared by their folders' names.
  if (const auto step = step_of(checkpoint.filename().string()); step && *step != m.step)
    damaged(checkpoint,
            "holds step " + std::to_string(m.step) + ": rename it to " + checkpoint_name(m.step));
  return m;
}

void verify_file(const fs::path& path, const ManifestEntry& wanted) {
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.fd < 0) {
    const std::string why = std::string("cannot be read: ") + std::strerror(errno);
    if (errno == ENOENT || errno == ELOOP || errno == EIO) damaged(path, why);
    throw Error(Exit::checkpoint, path.string() + " " + why);
  }
  struct stat info {};
  if (::fstat(file.fd, &info) != 0 || !S_ISREG(info.st_mode))
    damaged(path, "is not a regular file");
  if (static_cast<uint64_t>(info.st_size) != wanted.size)
    damaged(
        path,
        "has " + std::to_string(info.st_size) + " bytes instead of " + std::to_string(wanted.size));
  // Written pages may still be in memory: ask for them from the disk, where they must be.
  ::posix_fadvise(file.fd, 0, 0, POSIX_FADV_DONTNEED);
  Hash hash;
  std::vector<std::byte> buffer(1 << 20);
  while (true) {
    const ssize_t n = ::read(file.fd, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) damaged(path, std::string("cannot be read: ") + std::strerror(errno));
    if (n == 0) break;
    hash.add(std::span(buffer.data(), static_cast<size_t>(n)));
  }
  if (hash.size() != wanted.size || hash.hex() != wanted.xxh3_128)
    damaged(path, "does not match its hash in " + std::string(kManifest));
}

[[noreturn]] void fail_write(const std::string& what) {
  throw Error(Exit::write, what + ": " + std::strerror(errno));
}

/// Pieces of each file, and the manifest that describes them.
struct Content {
  std::vector<std::vector<std::span<const std::byte>>> parts;
  std::vector<SafetensorsParts> tensors;  // owns the heads that `parts` refers to
  Manifest manifest;
};

Content content_of(int64_t step, const std::vector<CheckpointFile>& files) {
  Content out;
  out.manifest.step = step;
  out.tensors.reserve(files.size());
  std::set<std::string> names{kManifest};
  for (const CheckpointFile& file : files) {
    DIFFUSE_CHECK(is_plain_name(file.name) && names.insert(file.name).second);
    if (fs::path(file.name).extension() == ".safetensors") {
      DIFFUSE_CHECK(file.text.empty());
      out.tensors.push_back(safetensors_parts(file.tensors, {{"format", "pt"}}));
      out.parts.push_back(out.tensors.back().all());
    } else {
      DIFFUSE_CHECK(file.tensors.empty());
      out.parts.push_back({bytes_of(file.text)});
    }
    Hash hash;
    for (const auto& part : out.parts.back()) hash.add(part);
    out.manifest.files.push_back({file.name, hash.size(), hash.hex()});
  }
  out.manifest.hash = manifest_hash(out.manifest);
  return out;
}

/// Removes a checkpoint so that a kill meanwhile leaves no half of one under its name.
void remove_checkpoint(const fs::path& checkpoint) {
  const fs::path aside = checkpoint.parent_path() / (".del-" + checkpoint.filename().string() +
                                                     "-" + std::to_string(::getpid()));
  std::error_code error;
  fs::remove_all(aside, error);
  fs::rename(checkpoint, aside, error);
  if (!error) fs::remove_all(aside, error);
  if (error) log::warn("cannot remove " + checkpoint.string() + ": " + error.message());
}

/// Puts `fresh` in the place of `final_path`, which exists. Returns whether it did.
bool replace_checkpoint(const fs::path& fresh, const fs::path& final_path, bool old_is_good) {
  if (::renameat2(AT_FDCWD, fresh.c_str(), AT_FDCWD, final_path.c_str(), RENAME_EXCHANGE) == 0)
    return true;
  if (errno != EINVAL && errno != ENOSYS) fail_write("cannot rename to " + final_path.string());
  // This file system cannot exchange (NFS). Only what is of no use any more may be absent for a
  // moment.
  if (old_is_good) return false;
  remove_checkpoint(final_path);
  if (::rename(fresh.c_str(), final_path.c_str()) != 0)
    fail_write("cannot rename to " + final_path.string());
  return true;
}

void point_latest(const fs::path& folder, const std::string& name) {
  // A hint for people and scripts: readers here list and verify.
  const fs::path temporary = folder / (".tmp-latest-" + std::to_string(::getpid()));
  std::error_code error;
  fs::remove(temporary, error);
  fs::create_directory_symlink(name, temporary, error);
  if (!error) fs::rename(temporary, folder / "latest", error);
  if (error) log::debug("cannot set " + (folder / "latest").string() + ": " + error.message());
}

bool is_good(const fs::path& checkpoint) {
  try {
    verify_checkpoint(checkpoint);
    return true;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

fs::path write_checkpoint(const fs::path& folder,
                          int64_t step,
                          const std::vector<CheckpointFile>& files,
                          bool verify_after_write) {
  DIFFUSE_CHECK(step >= 0);
  const std::string name = checkpoint_name(step);
  const fs::path final_path = folder / name;
  const fs::path temporary = folder / (".tmp-" + name + "-" + std::to_string(::getpid()));
  std::error_code ignored;
  bool placed = false;
  try {
    const Content content = content_of(step, files);
    create_folders(folder, Exit::write);
    const bool exists = fs::symlink_status(final_path, ignored).type() != fs::file_type::not_found;
    const bool old_is_good = exists && is_good(final_path);
    if (old_is_good && checkpoint_hash(final_path) == content.manifest.hash) {
      fsync_folder(folder);  // an earlier attempt may have failed after its rename
      point_latest(folder, name);
      return final_path;
    }

    fs::remove_all(temporary, ignored);  // of an earlier process with our id
    if (::mkdir(temporary.c_str(), 0777) != 0) fail_write("cannot create " + temporary.string());
    for (size_t i = 0; i < files.size(); ++i)
      write_new_file(temporary / files[i].name, content.parts[i]);
    const std::string manifest = manifest_text(content.manifest);
    const std::span<const std::byte> manifest_part[] = {bytes_of(manifest)};
    write_new_file(temporary / kManifest, manifest_part);
    fsync_folder(temporary);
    if (verify_after_write) verify_checkpoint(temporary);

    if (exists) {
      placed = replace_checkpoint(temporary, final_path, old_is_good);
      if (!placed)
        log::warn(final_path.string() +
                  " exists, differs and cannot be exchanged here: it is kept");
    } else {
      if (::rename(temporary.c_str(), final_path.c_str()) != 0)
        fail_write("cannot rename to " + final_path.string());
      placed = true;
    }
    fsync_folder(folder);
    fs::remove_all(temporary, ignored);  // what the new one was exchanged for
    point_latest(folder, name);
    return final_path;
  } catch (const Error& e) {
    if (!placed)
      fs::remove_all(temporary, ignored);  // else it may hold the one that was there before
    throw Error(Exit::write,
                "checkpoint " + name + " was not written: " + e.what() +
                    "; free some space or mend the disk. Earlier checkpoints are untouched");
  }
}

std::vector<ManifestEntry> verify_checkpoint(const fs::path& checkpoint) {
  Manifest manifest = read_manifest(checkpoint);
  for (const ManifestEntry& e : manifest.files) verify_file(checkpoint / e.name, e);
  return std::move(manifest.files);
}

std::string checkpoint_hash(const fs::path& checkpoint) { return read_manifest(checkpoint).hash; }

std::vector<fs::path> list_checkpoints(const fs::path& folder) {
  std::vector<std::pair<int64_t, fs::path>> found;
  std::error_code error;
  fs::directory_iterator it(folder, error);
  if (error == std::errc::no_such_file_or_directory) return {};
  for (; !error && it != fs::directory_iterator(); it.increment(error)) {
    std::error_code ignored;
    const auto step = step_of(it->path().filename().string());
    if (step && it->is_directory(ignored)) found.emplace_back(*step, it->path());
  }
  if (error)
    throw Error(Exit::checkpoint, "cannot list " + folder.string() + ": " + error.message());
  std::sort(found.begin(), found.end());
  std::vector<fs::path> out;
  for (auto& [step, path] : found) out.push_back(std::move(path));
  return out;
}

std::optional<fs::path> newest_checkpoint(const fs::path& folder) {
  const std::vector<fs::path> all = list_checkpoints(folder);
  for (auto it = all.rbegin(); it != all.rend(); ++it) {
    try {
      verify_checkpoint(*it);
      return *it;
    } catch (const Error& e) {
      log::warn(std::string(e.what()) + "; passed over");
    }
  }
  if (all.empty()) return std::nullopt;
  throw Error(Exit::checkpoint,
              "every checkpoint in " + folder.string() + " is damaged (" +
                  std::to_string(all.size()) + "): restore one from a copy, or start a new run");
}

namespace {

/// A checkpoint, or the folder of a run's checkpoints.
struct Place {
  fs::path path;
  bool is_checkpoint = false;
};

/// Throws Error{checkpoint} when `path` is no folder.
Place place_of(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status))
    throw Error(Exit::checkpoint,
                (status.type() == fs::file_type::not_found
                     ? path.string() + " does not exist"
                     : "cannot read " + path.string() + ": " + error.message()) +
                    "; give a checkpoint or a run folder");
  if (!fs::is_directory(status)) {
    if (fs::is_regular_file(status)) {
      const std::vector<uint8_t> start = read_start(path, 16, Exit::checkpoint);
      refuse_pickle(path, std::as_bytes(std::span(start)));
    }
    throw Error(Exit::checkpoint,
                path.string() + " is a file; give the checkpoint's folder or a run folder");
  }
  if (fs::exists(path / kManifest, error) || step_of(path.filename().string())) return {path, true};
  const bool is_run = fs::is_directory(path / "checkpoints", error);
  return {is_run ? path / "checkpoints" : path, false};
}

[[noreturn]] void none_in(const fs::path& folder) {
  throw Error(Exit::checkpoint,
              "no checkpoint in " + folder.string() +
                  "; give a checkpoint, a run folder, or its `checkpoints` folder");
}

}  // namespace

std::vector<fs::path> checkpoints_at(const fs::path& path) {
  const Place place = place_of(path);
  if (place.is_checkpoint) return {path};
  std::vector<fs::path> all = list_checkpoints(place.path);
  if (all.empty()) none_in(place.path);
  return all;
}

fs::path find_checkpoint(const fs::path& path) {
  const Place place = place_of(path);
  if (place.is_checkpoint) {
    try {
      verify_checkpoint(path);
    } catch (const Error& e) {
      throw Error(Exit::checkpoint,
                  std::string(e.what()) + "; to use the newest good one, give the folder above it");
    }
    return path;
  }
  if (const auto newest = newest_checkpoint(place.path)) return *newest;
  none_in(place.path);
}

void set_aside_newer(const fs::path& folder, int64_t step) {
  for (const fs::path& path : list_checkpoints(folder)) {
    const std::string name = path.filename().string();
    if (*step_of(name) <= step) continue;
    fs::path aside = folder / ("aside-" + name);
    std::error_code error;
    for (int i = 2; fs::exists(aside, error); ++i)
      aside = folder / ("aside-" + name + "-" + std::to_string(i));
    fs::rename(path, aside, error);
    if (error)
      throw Error(Exit::run_folder, "cannot rename " + path.string() + ": " + error.message());
    log::warn(path.string() + " is later than step " + std::to_string(step) +
              ", from which the run goes on: renamed to " + aside.filename().string() +
              ", which may be removed");
  }
}

void prune_checkpoints(const fs::path& folder, int64_t keep_last, int64_t keep_every_steps) {
  std::vector<fs::path> all;
  try {
    all = list_checkpoints(folder);
  } catch (const Error& e) {
    log::warn(e.what());
    return;
  }
  const size_t keep = static_cast<size_t>(std::max<int64_t>(keep_last, 1));
  for (size_t i = 0; i + keep < all.size(); ++i) {
    const int64_t step = *step_of(all[i].filename().string());
    if (keep_every_steps > 0 && step % keep_every_steps == 0) continue;
    remove_checkpoint(all[i]);
  }
  remove_leftovers(folder);
}

void remove_leftovers(const fs::path& folder) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator it(folder, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.rfind(".tmp-", 0) == 0 || name.rfind(".del-", 0) == 0) found.push_back(it->path());
  }
  for (const fs::path& path : found) {
    fs::remove_all(path, error);
    if (error) log::warn("cannot remove " + path.string() + ": " + error.message());
  }
}

}  // namespace diffuse
