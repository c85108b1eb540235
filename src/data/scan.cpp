// SPDX-License-Identifier: MIT
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string_view>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "base/text.h"
#include "data/dataset.h"
#include "data/jpeg.h"
#include "data/parallel.h"

namespace diffuse {
namespace {

namespace fs = std::filesystem;

struct FoundFile {
  std::string path;    // relative
  uint64_t bytes = 0;  // once it was opened or asked for
};

/// A descriptor that closes itself; -1: none.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

/// One of the endings that pictures have, in any case.
bool named_like_picture(std::string_view path) {
  static constexpr std::array kEndings = {"apng", "avif", "bmp",  "dib",  "exr", "gif",  "hdr",
                                          "heic", "heif", "jfif", "jp2",  "jpe", "jpeg", "jpg",
                                          "jxl",  "pbm",  "pgm",  "png",  "pnm", "ppm",  "psd",
                                          "qoi",  "tga",  "tif",  "tiff", "webp"};
  const size_t dot = path.rfind('.');
  if (dot == std::string_view::npos || path.find('/', dot) != std::string_view::npos) return false;
  std::string ending(path.substr(dot + 1));
  for (char& c : ending)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return std::find(kEndings.begin(), kEndings.end(), ending) != kEndings.end();
}

std::string join(const std::string& folder, std::string_view name) {
  std::string out;
  out.reserve(folder.size() + 1 + name.size());  // a million of them are kept: none too long
  if (!folder.empty()) out.append(folder) += '/';
  return out.append(name);
}

/// Collects the regular files below a folder. Real folders are read before symbolic links to
/// folders, so that a link never takes the place of what it points to.
class Walk {
 public:
  explicit Walk(const fs::path& root) : root_(root) {
    visit("");
    while (!links_.empty()) {
      const std::string path = *links_.begin();
      links_.erase(links_.begin());
      visit(path);
    }
  }

  std::vector<FoundFile> files;
  std::vector<SkippedFile> skipped;
  std::vector<std::string> root_folders;

 private:
  void visit(const std::string& start) {
    std::vector<std::string> waiting{start};
    while (!waiting.empty()) {
      const std::string folder = std::move(waiting.back());
      waiting.pop_back();
      struct stat info {};
      if (::stat((root_ / folder).c_str(), &info) != 0) {
        skip(folder, std::strerror(errno));
        continue;
      }
      if (!seen_.emplace(info.st_dev, info.st_ino).second) {
        skip(folder, "a link to a folder that is already read");
        continue;
      }
      read_folder(folder, waiting);
    }
  }

  void read_folder(const std::string& folder, std::vector<std::string>& waiting) {
    const std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir((root_ / folder).c_str()), closedir);
    // A class folder that is left out unseen would train another model than the one asked for.
    const auto refuse = [&](int why) {
      throw Error(Exit::data,
                  "cannot read folder " + printable((root_ / folder).string(), true) + ": " +
                      std::strerror(why) + "; mend its rights, or move it away");
    };
    if (!dir) refuse(errno);
    for (;;) {
      errno = 0;
      const dirent* const entry = ::readdir(dir.get());
      if (entry == nullptr) break;
      const std::string_view name = entry->d_name;
      if (name == "." || name == "..") continue;
      add(folder, name, entry->d_type, ::dirfd(dir.get()), waiting);
    }
    if (errno != 0) refuse(errno);
  }

  void add(const std::string& folder,
           std::string_view name,
           unsigned char type,
           int folder_fd,
           std::vector<std::string>& waiting) {
    std::string path = join(folder, name);
    if (name.starts_with('.')) return skip(path, "hidden");
    // What the folder itself says of a plain file is enough: no call for each of a million.
    if (type == DT_REG) {
      files.push_back({std::move(path)});
      return;
    }
    struct stat info {};
    if (::fstatat(folder_fd, name.data(), &info, 0) != 0) {
      const int why = errno;
      skip(path,
           std::string(std::strerror(why)) + (why == ENOENT ? " (a dangling link)" : ""),
           named_like_picture(path));
    } else if (S_ISDIR(info.st_mode)) {
      if (is_link(folder_fd, name.data())) {
        links_.insert(path);
      } else {
        waiting.push_back(path);
        if (folder.empty()) root_folders.push_back(path);
      }
    } else if (S_ISREG(info.st_mode)) {
      files.push_back({std::move(path)});
    } else {
      skip(path,
           S_ISFIFO(info.st_mode)   ? "a pipe, not a file"
           : S_ISSOCK(info.st_mode) ? "a socket, not a file"
                                    : "a device, not a file");
    }
  }

  static bool is_link(int folder_fd, const char* name) {
    struct stat info {};
    return ::fstatat(folder_fd, name, &info, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(info.st_mode);
  }

  void skip(const std::string& path, const std::string& reason, bool picture = false) {
    skipped.push_back({path, reason, picture});
  }

  fs::path root_;
  std::set<std::pair<dev_t, ino_t>> seen_;
  std::set<std::string> links_;
};

/// Appends to `out` what follows in the file, until it holds `bytes` or the file ends.
void read_up_to(int fd, uint64_t bytes, std::vector<uint8_t>& out) {
  size_t done = out.size();
  if (bytes <= done) return;
  out.resize(bytes);
  ssize_t n = 0;
  do {
    n = ::read(fd, out.data() + done, bytes - done);
    if (n > 0) done += static_cast<size_t>(n);
  } while ((n > 0 && done < bytes) || (n < 0 && errno == EINTR));
  if (n < 0) throw ImageError(std::string("cannot be read: ") + std::strerror(errno));
  out.resize(done);
}

/// Sets the file's size. Why it cannot be a training picture, as far as its header tells; none if
/// it can.
std::optional<SkippedFile> check_header(int root, FoundFile& file, const DataOptions& options) {
  SkippedFile result{file.path, "", named_like_picture(file.path)};
  try {
    const Descriptor fd(::openat(root, file.path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    struct stat info {};
    if (fd.get() < 0 || ::fstat(fd.get(), &info) != 0)
      throw ImageError(std::string("cannot be read: ") + std::strerror(errno));
    file.bytes = static_cast<uint64_t>(info.st_size);
    std::vector<uint8_t> bytes;
    const auto more = [&](uint64_t most) {
      read_up_to(fd.get(), std::min(file.bytes, most), bytes);
    };
    more(4096);
    result.picture |= !picture_type(bytes).empty();
    if (file.bytes > static_cast<uint64_t>(options.max_file_bytes) && result.picture)
      throw ImageError("too large: " + std::to_string(file.bytes) +
                       " bytes, data.max_file_bytes is " + std::to_string(options.max_file_bytes));
    const DecodeOptions limits = decode_options(options);
    // A JPEG may have any amount of metadata in front of its size.
    for (const uint64_t next : {uint64_t{65536}, file.bytes, uint64_t{0}}) {
      try {
        check_image_header(read_image_header(bytes), limits);
        return std::nullopt;
      } catch (const ImageError& e) {
        if (std::string_view(e.what()) != kJpegHeaderCut || next == 0 || bytes.size() >= file.bytes)
          throw;
      }
      more(next);
    }
  } catch (const ImageError& e) {
    result.reason = e.what();
  }
  return result;
}

/// The first folder of a path; empty for a file of the root.
std::string_view class_folder(std::string_view path) {
  const size_t slash = path.find('/');
  return slash == std::string_view::npos ? std::string_view() : path.substr(0, slash);
}

void set_labels(DataScan& scan, const std::string& folder) {
  std::map<std::string, int64_t, std::less<>> classes;
  const DataEntry* in_root = nullptr;
  for (const DataEntry& e : scan.entries) {
    const std::string_view name = class_folder(e.path);
    if (name.empty())
      in_root = &e;
    else
      classes.emplace(name, 0);
  }
  if (classes.empty()) return;
  if (in_root != nullptr) {
    log::info(folder + ": no classes, because pictures lie beside the folders too (" +
              in_root->path + " beside " + classes.begin()->first +
              "/); with classes, each picture lies in a folder");
    return;
  }
  for (auto& [name, label] : classes) {
    label = static_cast<int64_t>(scan.label_names.size());
    scan.label_names.push_back(name);
  }
  for (DataEntry& e : scan.entries) e.label = classes.find(class_folder(e.path))->second;
}

void check_root(const std::string& path) {
  if (path.empty())
    throw Error(Exit::data,
                "data.path is not set: name a folder of pictures (--set data.path=DIR)");
  struct stat info {};
  const int why = ::stat(path.c_str(), &info) == 0 ? 0 : errno;
  if (why != 0)
    throw Error(Exit::data,
                "cannot read data.path " + path + ": " + std::strerror(why) +
                    (why == ENOENT ? "; name a folder of pictures (--set data.path=DIR)" : ""));
  if (S_ISDIR(info.st_mode)) return;
  const std::string container =
      S_ISREG(info.st_mode) ? container_type(read_start(path, 512, Exit::data)) : "";
  throw Error(Exit::data,
              "data.path " + path +
                  (container.empty() ? " is not a folder; name a folder of pictures"
                                     : " is " + container +
                                           ", which is never unpacked; unpack it and name the "
                                           "folder of its pictures"));
}

/// Fixed, as the keys are part of the reproducibility promise.
constexpr uint64_t kHoldoutSeed = 0x6469666675736531;

/// A hash over files, in order.
class Fingerprint {
 public:
  Fingerprint() { XXH3_64bits_reset(state_.get()); }
  void add(const FoundFile& file) {
    const std::string line = file.path + '\0' + std::to_string(file.bytes) + '\0';
    XXH3_64bits_update(state_.get(), line.data(), line.size());
  }
  uint64_t value() const { return XXH3_64bits_digest(state_.get()); }

 private:
  struct Free {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };
  std::unique_ptr<XXH3_state_t, Free> state_{XXH3_createState()};
};

bool is_held_out(uint64_t key, const DataOptions& options) {
  return static_cast<double>(key) * 0x1p-64 < options.holdout;
}

/// Moves what is held out to the end, by key.
void hold_out(DataScan& scan, const DataOptions& options) {
  if (options.holdout == 0) return;
  const auto first =
      std::stable_partition(scan.entries.begin(), scan.entries.end(), [&](const DataEntry& e) {
        return !is_held_out(e.key, options);
      });
  std::sort(first, scan.entries.end(), [](const DataEntry& a, const DataEntry& b) {
    return std::tie(a.key, a.path) < std::tie(b.key, b.path);
  });
  scan.held_out = scan.entries.end() - first;
  const auto count = static_cast<int64_t>(scan.entries.size());
  if (scan.held_out > 0 && scan.held_out < count) return;
  throw Error(Exit::data,
              "data.holdout " + shortest(options.holdout) + " of the " + std::to_string(count) +
                  " pictures in " + options.path +
                  (scan.held_out == 0 ? " is none at all; use a larger share or more pictures"
                                      : " leaves none for training; use a smaller share or more "
                                        "pictures"));
}

}  // namespace

uint64_t hash_of(std::span<const uint8_t> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

DecodeOptions decode_options(const DataOptions& options) {
  DecodeOptions out;
  out.channels = options.channels;
  out.exif_orientation = options.exif_orientation;
  out.alpha = options.alpha;
  out.max_pixels = options.max_pixels;
  out.max_file_bytes = options.max_file_bytes;
  return out;
}

DataScan scan_folder(const DataOptions& options, bool read_headers) {
  check_root(options.path);
  Walk walk(options.path);
  std::sort(walk.files.begin(), walk.files.end(), [](const FoundFile& a, const FoundFile& b) {
    return a.path < b.path;
  });
  const auto count = static_cast<int64_t>(walk.files.size());
  const Descriptor root(::open(options.path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  std::mutex mutex;
  std::map<int64_t, SkippedFile> unusable;  // by index; guarded by the mutex.
  parallel_for(count, worker_count(options.workers), [&](int64_t i) {
    FoundFile& file = walk.files[static_cast<size_t>(i)];
    std::optional<SkippedFile> found;
    struct stat info {};
    if (read_headers)
      found = check_header(root.get(), file, options);
    else if (!named_like_picture(file.path))
      found = {file.path, "not named like a picture"};
    else if (::fstatat(root.get(), file.path.c_str(), &info, 0) == 0)
      file.bytes = static_cast<uint64_t>(info.st_size);
    if (!found) return;
    const std::lock_guard lock(mutex);
    unusable.emplace(i, std::move(*found));
  });
  DataScan scan;
  scan.skipped = std::move(walk.skipped);
  scan.entries.reserve(walk.files.size());
  Fingerprint all, held_out;
  for (int64_t i = 0; i < count; ++i) {
    FoundFile& file = walk.files[static_cast<size_t>(i)];
    if (const auto bad = unusable.find(i); bad != unusable.end()) {
      scan.skipped.push_back(std::move(bad->second));
      continue;
    }
    const uint64_t key = XXH3_64bits_withSeed(file.path.data(), file.path.size(), kHoldoutSeed);
    all.add(file);
    if (is_held_out(key, options)) held_out.add(file);
    scan.entries.push_back({.path = std::move(file.path), .key = key});
  }
  walk.files = {};
  std::set<std::string_view> with_pictures;
  for (const DataEntry& e : scan.entries) with_pictures.insert(class_folder(e.path));
  for (const std::string& name : walk.root_folders)
    if (!with_pictures.contains(name))
      scan.skipped.push_back({name + "/", "a folder without pictures"});
  scan.fingerprint = all.value();
  scan.held_out_fingerprint = held_out.value();
  std::sort(scan.skipped.begin(),
            scan.skipped.end(),
            [](const SkippedFile& a, const SkippedFile& b) { return a.path < b.path; });
  if (scan.entries.empty()) {
    std::string message = "data.path " + options.path + " holds no picture";
    if (!scan.skipped.empty())
      message += " that can be used; " + list_skipped(scan.skipped);
    else
      message += "; name a folder of PNG, JPEG or BMP files (--set data.path=DIR)";
    throw Error(Exit::data, message);
  }
  if (options.labels == Labels::subfolder) set_labels(scan, options.path);
  hold_out(scan, options);
  return scan;
}

std::string list_skipped(const std::vector<SkippedFile>& skipped, size_t most) {
  std::string out = "skipped " + std::to_string(skipped.size()) +
                    (skipped.size() == 1     ? " file:"
                     : skipped.size() > most ? " files, the first:"
                                             : " files:");
  for (size_t i = 0; i < std::min(skipped.size(), most); ++i)
    out += "\n  " + printable(skipped[i].path + ": " + skipped[i].reason, true);
  return out;
}

}  // namespace diffuse
