// SPDX-License-Identifier: MIT
#include "base/files.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <optional>
#include <thread>

#include "base/text.h"

namespace diffuse {
namespace {

std::string reason() { return std::strerror(errno); }

/// The file's bytes, or as many of the first as `most`.
template <class Container>
Container read_whole(const std::filesystem::path& path,
                     Exit code,
                     uint64_t max_bytes,
                     uint64_t most = UINT64_MAX) {
  // Not blocking: opening a FIFO would wait for a writer for ever.
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.fd < 0) throw Error(code, "cannot read " + path.string() + ": " + reason());
  struct stat info {};
  if (::fstat(file.fd, &info) != 0)
    throw Error(code, "cannot read " + path.string() + ": " + reason());
  if (!S_ISREG(info.st_mode))
    throw Error(code, "cannot read " + path.string() + ": not a regular file");
  if (static_cast<uint64_t>(info.st_size) > max_bytes)
    throw Error(code,
                path.string() + " has " + std::to_string(info.st_size) + " bytes; the limit is " +
                    std::to_string(max_bytes));
  Container out;
  out.resize(static_cast<size_t>(std::min<uint64_t>(static_cast<uint64_t>(info.st_size), most)));
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t n = ::read(file.fd, out.data() + done, out.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw Error(code, "cannot read " + path.string() + ": " + reason());
    if (n == 0) break;  // became shorter meanwhile
    done += static_cast<size_t>(n);
  }
  out.resize(done);
  return out;
}

void write_all(
    int fd, const char* data, size_t size, const std::filesystem::path& path, Exit code) {
  while (size > 0) {
    const ssize_t n = ::write(fd, data, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) throw Error(code, "cannot write " + path.string() + ": " + reason());
    data += n;
    size -= static_cast<size_t>(n);
  }
}

/// fsync, then close. An fsync error is final: the kernel may have dropped the pages, so a second
/// fsync could lie.
void sync_and_close(FileDescriptor& file, const std::filesystem::path& path, Exit code) {
  if (::fsync(file.fd) != 0) throw Error(code, "cannot write " + path.string() + ": " + reason());
  const int fd = file.fd;
  file.fd = -1;
  if (::close(fd) != 0) throw Error(code, "cannot write " + path.string() + ": " + reason());
}

/// A name of this process beside `path`. A name may have 255 bytes; the longest ones are cut so
/// that this one has no more.
std::filesystem::path temporary_beside(const std::filesystem::path& path) {
  constexpr size_t kMostOfName = 230;
  return path.parent_path() /
         (path.filename().string().substr(0, kMostOfName) + ".tmp-" + std::to_string(::getpid()));
}

void write_file_atomic(const std::filesystem::path& path,
                       const char* data,
                       size_t size,
                       Exit code,
                       const struct stat* former = nullptr) {
  const std::filesystem::path temporary = temporary_beside(path);
  try {
    FileDescriptor file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
    if (file.fd < 0) throw Error(code, "cannot write " + path.string() + ": " + reason());
    if (former != nullptr && ::fchmod(file.fd, former->st_mode & 07777) != 0)
      throw Error(code, "cannot write " + path.string() + ": " + reason());
    write_all(file.fd, data, size, path, code);
    sync_and_close(file, path, code);
    if (::rename(temporary.c_str(), path.c_str()) != 0)
      throw Error(code, "cannot write " + path.string() + ": " + reason());
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  const auto parent = path.parent_path();
  fsync_folder(parent.empty() ? "." : parent);
}

/// The open file that a name is of: /dev/stdout, /dev/fd/N, and links to them.
std::optional<int> descriptor_of(const std::filesystem::path& path) {
  const std::string own = "/proc/" + std::to_string(::getpid()) + "/fd/";
  const std::string name = path.lexically_normal().string();
  for (const std::string& folder : {std::string("/proc/self/fd/"), std::string("/dev/fd/"), own}) {
    int number = -1;
    if (name.starts_with(folder) &&
        std::from_chars(name.data() + folder.size(), name.data() + name.size(), number).ec ==
            std::errc())
      return number;
  }
  return std::nullopt;
}

void write_named_file(const std::filesystem::path& path, const char* data, size_t size) {
  std::error_code error;
  std::filesystem::path target = std::filesystem::absolute(path, error);
  constexpr int kMostLinks = 40;
  for (int links = 0; links <= kMostLinks; ++links) {
    // Opened by its name it would have a place of its own, and what was printed would be lost.
    if (const auto fd = descriptor_of(target)) return write_all(*fd, data, size, path, Exit::write);
    if (!std::filesystem::is_symlink(target, error)) break;
    target = target.parent_path() / std::filesystem::read_symlink(target, error);
  }
  struct stat info {};
  const bool exists = ::stat(target.c_str(), &info) == 0;
  if (!exists && errno != ENOENT)
    throw Error(Exit::write, "cannot write " + path.string() + ": " + reason());
  if (exists && !S_ISDIR(info.st_mode) && !S_ISREG(info.st_mode)) {
    const FileDescriptor file(::open(target.c_str(), O_WRONLY | O_CLOEXEC));
    if (file.fd < 0) throw Error(Exit::write, "cannot write " + path.string() + ": " + reason());
    return write_all(file.fd, data, size, path, Exit::write);
  }
  write_file_atomic(target, data, size, Exit::write, exists ? &info : nullptr);
}

std::string on_this_host() {
  char host[128] = {};
  ::gethostname(host, sizeof(host) - 1);
  return std::string(" on ") + host;
}

/// What the holder of a lock has written into it; empty when it writes nothing. It takes the lock
/// first and writes then, so what is there may for a moment be of a holder that was killed.
std::string holder_of(int fd) {
  std::string who;
  for (int tries = 0; tries < 50; ++tries) {
    char text[256] = {};
    const ssize_t n = ::pread(fd, text, sizeof(text) - 1, 0);
    who.assign(text, n > 0 ? static_cast<size_t>(n) : 0);
    while (!who.empty() && who.back() == '\n') who.pop_back();
    pid_t pid = 0;
    const bool here =
        who.starts_with("pid ") && who.find(on_this_host()) != std::string::npos &&
        std::from_chars(who.data() + 4, who.data() + who.size(), pid).ec == std::errc();
    const bool stale = here && ::kill(pid, 0) != 0 && errno == ESRCH;
    if (!who.empty() && !stale) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return who;
}

}  // namespace

FileDescriptor::~FileDescriptor() {
  if (fd >= 0) ::close(fd);
}

std::string read_file(const std::filesystem::path& path, Exit code, uint64_t max_bytes) {
  return read_whole<std::string>(path, code, max_bytes);
}

std::vector<uint8_t> read_bytes(const std::filesystem::path& path, uint64_t max_bytes) {
  return read_whole<std::vector<uint8_t>>(path, Exit::data, max_bytes);
}

std::vector<uint8_t> read_start(const std::filesystem::path& path, size_t bytes, Exit code) {
  return read_whole<std::vector<uint8_t>>(path, code, UINT64_MAX, bytes);
}

void write_file_atomic(const std::filesystem::path& path, std::string_view content, Exit code) {
  write_file_atomic(path, content.data(), content.size(), code);
}

void write_file_atomic(const std::filesystem::path& path,
                       std::span<const uint8_t> content,
                       Exit code) {
  write_file_atomic(path, reinterpret_cast<const char*>(content.data()), content.size(), code);
}

void write_named_file(const std::filesystem::path& path, std::string_view content) {
  write_named_file(path, content.data(), content.size());
}

void write_named_file(const std::filesystem::path& path, std::span<const uint8_t> content) {
  write_named_file(path, reinterpret_cast<const char*>(content.data()), content.size());
}

std::string part_from_links(const std::filesystem::path& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode) || info.st_nlink < 2) return {};
  const std::filesystem::path copy = temporary_beside(path);
  std::error_code error;
  std::filesystem::copy_file(path, copy, error);
  if (!error) std::filesystem::rename(copy, path, error);
  if (!error) return {};
  std::error_code ignored;
  std::filesystem::remove(copy, ignored);
  return "cannot copy " + path.string() +
         ", which has other names (hard links), so that they keep what it holds: " +
         error.message();
}

void write_new_file(const std::filesystem::path& path,
                    std::span<const std::span<const std::byte>> parts) {
  FileDescriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (file.fd < 0) throw Error(Exit::write, "cannot write " + path.string() + ": " + reason());
  for (const auto& part : parts)
    write_all(file.fd, reinterpret_cast<const char*>(part.data()), part.size(), path, Exit::write);
  sync_and_close(file, path, Exit::write);
}

void fsync_folder(const std::filesystem::path& folder) {
  FileDescriptor handle(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (handle.fd < 0)
    throw Error(Exit::write, "cannot open folder " + folder.string() + ": " + reason());
  // Some file systems cannot sync a folder (EINVAL): nothing more can be asked of them.
  if (::fsync(handle.fd) != 0 && errno != EINVAL)
    throw Error(Exit::write, "cannot sync folder " + folder.string() + ": " + reason());
}

void create_folders(const std::filesystem::path& folder, Exit code) {
  namespace fs = std::filesystem;
  std::vector<fs::path> missing;  // the deepest first
  std::error_code error;
  fs::path at = fs::absolute(folder, error).lexically_normal();
  if (!at.has_filename()) at = at.parent_path();  // "runs/"
  for (; !error && !fs::exists(at, error) && at.has_relative_path(); at = at.parent_path())
    missing.push_back(at);
  const bool known = !error;
  const auto sync_entry = [&](const fs::path& one) {
    const fs::path parent = one.parent_path();
    // A folder may be writable and not readable: then nothing can be asked of it. The entry of a
    // mount point is in no folder.
    struct stat here {
    }, above{};
    if (::access(parent.c_str(), R_OK) != 0 || ::stat(one.c_str(), &here) != 0 ||
        ::stat(parent.c_str(), &above) != 0 || here.st_dev != above.st_dev)
      return;
    try {
      fsync_folder(parent);
    } catch (const Error& e) {
      throw Error(code, e.what());
    }
  };
  // Each before the next is made in it, and the one that was there too: whoever made that may have
  // been killed before it was synced.
  if (known && at.has_relative_path()) sync_entry(at);
  for (auto one = missing.rbegin(); one != missing.rend() && !error; ++one) {
    fs::create_directory(*one, error);
    if (!error) sync_entry(*one);
  }
  if (!error) fs::create_directories(folder, error);
  if (error) throw Error(code, "cannot create " + folder.string() + ": " + error.message());
}

std::optional<uint64_t> free_space(const std::filesystem::path& path) {
  namespace fs = std::filesystem;
  std::error_code error;
  fs::path at = fs::absolute(path, error);
  while (!error && !fs::exists(at, error) && at.has_relative_path()) at = at.parent_path();
  const fs::space_info space = fs::space(at, error);
  // File systems that count nothing (some of FUSE) say that they hold no byte at all.
  if (error || space.capacity == 0) return std::nullopt;
  return space.available;
}

FileLock::FileLock(const std::filesystem::path& path)
    : fd_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
  if (fd_ < 0) throw Error(Exit::run_folder, "cannot open " + path.string() + ": " + reason());
  if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    const bool held = errno == EWOULDBLOCK;
    const std::string why = reason();
    const std::string who = held ? holder_of(fd_) : "";
    ::close(fd_);
    fd_ = -1;
    if (!held) throw Error(Exit::run_folder, "cannot lock " + path.string() + ": " + why);
    throw Error(Exit::run_folder,
                path.parent_path().string() + " is in use by another process (" +
                    (who.empty() ? "unknown" : who) + "); wait for it or choose another --run-dir");
  }
  const std::string text =
      "pid " + std::to_string(::getpid()) + on_this_host() + " since " + utc_now() + "\n";
  if (::ftruncate(fd_, 0) != 0 || ::pwrite(fd_, text.data(), text.size(), 0) < 0) {
    // The text only serves the other side's message; the lock itself holds.
  }
}

bool is_locked(const std::filesystem::path& path) {
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  return file.fd >= 0 && ::flock(file.fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}

bool FileLock::is_at(const std::filesystem::path& path) const {
  struct stat held {
  }, found{};
  const bool exists = ::stat(path.c_str(), &found) == 0;
  if (!exists && errno != ENOENT && errno != ENOTDIR)
    throw Error(Exit::write, "cannot look for " + path.string() + ": " + reason());
  return exists && ::fstat(fd_, &held) == 0 && held.st_dev == found.st_dev &&
         held.st_ino == found.st_ino;
}

FileLock::~FileLock() {
  if (fd_ < 0) return;
  if (::ftruncate(fd_, 0) != 0) {
    // Then the next one in a race may be told this name.
  }
  ::close(fd_);
}

}  // namespace diffuse
