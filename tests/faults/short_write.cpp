// SPDX-License-Identifier: MIT
// LD_PRELOAD: the SHORT_WRITE_AT-th write to a file (from 1) takes SHORT_WRITE_BYTES bytes of what
// it is given, and with SHORT_WRITE_THEN=full the disk is full from then on. strace can make a call
// fail, but not do a part of its work.
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace {

long setting(const char* name) {
  const char* text = getenv(name);
  return text == nullptr ? 0 : atol(text);
}

}  // namespace

extern "C" ssize_t write(int fd, const void* data, size_t size) {
  using Write = ssize_t (*)(int, const void*, size_t);
  static const auto next = reinterpret_cast<Write>(dlsym(RTLD_NEXT, "write"));
  static long count = 0;
  if (fd <= STDERR_FILENO) return next(fd, data, size);
  ++count;
  const long at = setting("SHORT_WRITE_AT");
  const char* then = getenv("SHORT_WRITE_THEN");
  if (count > at && then != nullptr && std::strcmp(then, "full") == 0) {
    errno = ENOSPC;
    return -1;
  }
  if (count == at) size = std::min(size, static_cast<size_t>(setting("SHORT_WRITE_BYTES")));
  return next(fd, data, size);
}
