// SPDX-License-Identifier: MIT
#include "report/append_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/log.h"

namespace diffuse {

AppendFile::AppendFile(const std::filesystem::path& path)
    : path_(path.string()),
      fd_(::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666)) {
  if (fd_ < 0) throw Error(Exit::run_folder, "cannot write " + path_ + ": " + std::strerror(errno));
}

AppendFile::~AppendFile() { ::close(fd_); }

void AppendFile::append(std::string_view record) {
  struct stat before {};
  bool failed = ::fstat(fd_, &before) != 0;
  std::string_view rest = record;
  while (!failed && !rest.empty()) {
    const ssize_t n = ::write(fd_, rest.data(), rest.size());
    if (n > 0)
      rest.remove_prefix(static_cast<size_t>(n));
    else if (n == 0 || errno != EINTR)
      failed = true;
  }
  if (!failed) return;
  const std::string reason = std::strerror(errno);
  const bool clean = rest.size() == record.size() || ::ftruncate(fd_, before.st_size) == 0;
  if (!warned_)
    log::warn("cannot write " + path_ + ": " + reason + (clean ? "" : " (a record is torn)") +
              "; the run goes on without it");
  warned_ = true;
}

}  // namespace diffuse
