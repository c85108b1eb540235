// SPDX-License-Identifier: MIT
#include "base/files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/text.h"

namespace diffuse {
namespace {

std::string reason() { return std::strerror(errno); }

template <class Container>
Container read_whole(const std::filesystem::path& path, Exit code, uint64_t max_bytes) {
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
  out.resize(static_cast<size_t>(info.st_size));
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

void write_file_atomic(const std::filesystem::path& path,
                       const char* data,
                       size_t size,
                       Exit code) {
  std::filesystem::path temporary = path;
  temporary += ".tmp-" + std::to_string(::getpid());
  try {
    FileDescriptor file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
    if (file.fd < 0) throw Error(code, "cannot write " + path.string() + ": " + reason());
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

void write_file_atomic(const std::filesystem::path& path, std::string_view content, Exit code) {
  write_file_atomic(path, content.data(), content.size(), code);
}

void write_file_atomic(const std::filesystem::path& path,
                       std::span<const uint8_t> content,
                       Exit code) {
  write_file_atomic(path, reinterpret_cast<const char*>(content.data()), content.size(), code);
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

FileLock::FileLock(const std::filesystem::path& path)
    : fd_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
  if (fd_ < 0) throw Error(Exit::run_folder, "cannot open " + path.string() + ": " + reason());
  if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    const bool held = errno == EWOULDBLOCK;
    const std::string why = reason();
    char holder[256] = {};
    const ssize_t n = ::pread(fd_, holder, sizeof(holder) - 1, 0);
    ::close(fd_);
    fd_ = -1;
    if (!held) throw Error(Exit::run_folder, "cannot lock " + path.string() + ": " + why);
    std::string who(holder, n > 0 ? static_cast<size_t>(n) : 0);
    while (!who.empty() && who.back() == '\n') who.pop_back();
    throw Error(Exit::run_folder,
                path.parent_path().string() + " is in use by another process (" +
                    (who.empty() ? "unknown" : who) + "); wait for it or choose another --run-dir");
  }
  char host[128] = {};
  ::gethostname(host, sizeof(host) - 1);
  const std::string text =
      "pid " + std::to_string(::getpid()) + " on " + host + " since " + utc_now() + "\n";
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
  return ::fstat(fd_, &held) == 0 && ::stat(path.c_str(), &found) == 0 &&
         held.st_dev == found.st_dev && held.st_ino == found.st_ino;
}

FileLock::~FileLock() {
  if (fd_ >= 0) ::close(fd_);
}

}  // namespace diffuse
