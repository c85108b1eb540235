// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace diffuse {

/// Closes on scope exit. Negative: none.
struct FileDescriptor {
  int fd;
  explicit FileDescriptor(int fd_) : fd(fd_) {}
  ~FileDescriptor();
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
};

/// The whole file. Throws Error{code} with the system's reason; files above `max_bytes` are
/// refused.
std::string read_file(const std::filesystem::path& path,
                      Exit code,
                      uint64_t max_bytes = UINT64_MAX);
std::vector<uint8_t> read_bytes(const std::filesystem::path& path, uint64_t max_bytes = UINT64_MAX);

/// The first bytes of a file, at most `bytes`. Throws Error{code} with the system's reason.
std::vector<uint8_t> read_start(const std::filesystem::path& path, size_t bytes, Exit code);

/// Replaces `path` whole or not at all: temporary file beside it, fsync, rename, fsync of the
/// folder. Throws Error{code}.
void write_file_atomic(const std::filesystem::path& path,
                       std::string_view content,
                       Exit code = Exit::write);
void write_file_atomic(const std::filesystem::path& path,
                       std::span<const uint8_t> content,
                       Exit code = Exit::write);

/// write_file_atomic() for a name that a user gave: a link's file is replaced, not the link, with
/// the permissions that it has, and what is no regular file (a FIFO, /dev/stdout) is written to as
/// it is. Throws Error{write}.
void write_named_file(const std::filesystem::path& path, std::string_view content);
void write_named_file(const std::filesystem::path& path, std::span<const uint8_t> content);

/// Puts a copy in the place of a file that has other names, too: what is appended or cut must not
/// change the backup that a hard link is. Returns why it could not, or nothing.
std::string part_from_links(const std::filesystem::path& path);

/// Writes and fsyncs a file that must not exist yet. Throws Error{write}.
void write_new_file(const std::filesystem::path& path,
                    std::span<const std::span<const std::byte>> parts);
void fsync_folder(const std::filesystem::path& folder);
/// Creates `folder` and the parents that are missing, and syncs the folders that hold the new ones
/// and the deepest that was there: what is synced inside would go with an entry that a power loss
/// takes. Throws Error{code}.
void create_folders(const std::filesystem::path& folder, Exit code);

/// Bytes that this user may still write where `path` is or, if it does not exist, will be; none
/// where the system cannot tell.
std::optional<uint64_t> free_space(const std::filesystem::path& path);

/// Whether a process holds the lock of FileLock on `path`.
bool is_locked(const std::filesystem::path& path);

/// Holds `path` locked (flock) until destroyed; the kernel frees it when the process dies. Throws
/// Error{run_folder} naming the holder's pid, host and start time when another process has it.
class FileLock {
 public:
  explicit FileLock(const std::filesystem::path& path);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

  /// Whether `path` is still the locked file: false when it was moved or removed meanwhile.
  bool is_at(const std::filesystem::path& path) const;

 private:
  int fd_ = -1;
};

}  // namespace diffuse
