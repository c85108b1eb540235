// SPDX-License-Identifier: MIT
#include "report/append_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace diffuse {
namespace {

constexpr size_t kMostKept = 8'000'000;

}  // namespace

AppendFile::AppendFile(const std::filesystem::path& path)
    : path_(path.string()),
      fd_(::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666)) {
  if (fd_ < 0) throw Error(Exit::run_folder, "cannot write " + path_ + ": " + std::strerror(errno));
}

AppendFile::~AppendFile() {
  write_kept();
  ::close(fd_);
}

void AppendFile::append(std::string_view record) {
  if (kept_.size() + record.size() <= kMostKept || kept_.empty())
    kept_ += record;
  else
    lost_ = true;
  write_kept();
}

std::string AppendFile::take_kept() {
  lost_ = false;
  return std::exchange(kept_, {});
}

void AppendFile::write_kept() {
  if (kept_.empty()) return;
  struct stat before {};
  bool failed = ::fstat(fd_, &before) != 0;
  // Nobody will find what is written to a file that has lost its name.
  struct stat named {};
  const bool found = ::stat(path_.c_str(), &named) == 0;
  const bool removed = !found && errno == ENOENT;
  const bool replaced =
      found && !failed && (named.st_dev != before.st_dev || named.st_ino != before.st_ino);
  if (removed || replaced) {
    const int fresh = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    if (fresh >= 0) {
      ::close(std::exchange(fd_, fresh));
      log::warn(path_ + (removed
                             ? " was removed; the run goes on in a new one, without what was in it"
                             : " was replaced; the run goes on in what is there now"));
      failed = ::fstat(fd_, &before) != 0;
    }
  }
  size_t done = 0;
  while (!failed && done < kept_.size()) {
    const ssize_t n = ::write(fd_, kept_.data() + done, kept_.size() - done);
    if (n > 0)
      done += static_cast<size_t>(n);
    else if (n == 0 || errno != EINTR)
      failed = true;
  }
  if (!failed) {
    kept_.clear();
    lost_ = false;
    return;
  }
  const std::string reason = std::strerror(errno);
  // What cannot be taken back is completed by the next attempt.
  if (done > 0 && ::ftruncate(fd_, before.st_size) != 0) kept_.erase(0, done);
  warning_.warn(
      "cannot write " + path_ + ": " + reason +
      (lost_ ? "; the run goes on, but more than 8 MB could not be kept: what came since is lost"
             : "; the run goes on, and what is missing, up to 8 MB, is written when that "
               "is possible again"));
}

void AppendFile::sync() { ::fdatasync(fd_); }

}  // namespace diffuse
