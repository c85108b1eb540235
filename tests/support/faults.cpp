// SPDX-License-Identifier: MIT
// Loaded into the program by LD_PRELOAD: a disk that is full, a clock that was set back, a process
// with less memory than the next one and one that waits to be killed, without root. The environment
// says what fails:
// - FAULTS_PATH: writing (write, fwrite) to files with this in their path
// - FAULTS_ERROR: with this errno [ENOSPC]
// - FAULTS_COUNT: that many times, then no more [for ever]
// - FAULTS_LOOK: stat of what is there with this in its path, with FAULTS_ERROR, FAULTS_COUNT times
// - FAULTS_FREE: free bytes of every file system
// - FAULTS_CLOCK: seconds added to the wall clock
// - FAULTS_MEMORY: bytes of address space, for programs with FAULTS_MEMORY_OF in their command line
// - FAULTS_WAIT: writing to a file with this in its path that is not empty waits for a signal, in
//   the first program with FAULTS_WAIT_OF in its command line; that makes the file FAULTS_ONCE
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

template <class Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(::dlsym(RTLD_NEXT, name));
}

bool is_at(int fd, const char* path) {
  char link[64], target[4096];
  std::snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
  const ssize_t n = ::readlink(link, target, sizeof(target) - 1);
  if (n < 0) return false;
  target[n] = '\0';
  return std::strstr(target, path) != nullptr;
}

/// Whether this call is to fail; sets errno.
bool fails_now() {
  static std::atomic<int> left{
      std::getenv("FAULTS_COUNT") != nullptr ? std::atoi(std::getenv("FAULTS_COUNT")) : 1 << 30};
  if (left.fetch_sub(1) <= 0) return false;
  errno = std::getenv("FAULTS_ERROR") != nullptr ? std::atoi(std::getenv("FAULTS_ERROR")) : ENOSPC;
  return true;
}

bool fails(int fd) {
  static const char* const path = std::getenv("FAULTS_PATH");
  return path != nullptr && is_at(fd, path) && fails_now();
}

/// Whether the program's command line has what the environment's variable `name` says.
bool called(const char* name) {
  const char* const what = std::getenv(name);
  if (what == nullptr) return false;
  const int file = ::open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  char line[65536];  // words that end with zeros
  const ssize_t n = ::read(file, line, sizeof(line));
  ::close(file);
  return n > 0 && ::memmem(line, static_cast<size_t>(n), what, std::strlen(what)) != nullptr;
}

bool waits = false;

__attribute__((constructor)) void begin() {
  rlimit limit{};
  if (called("FAULTS_MEMORY_OF") && ::getrlimit(RLIMIT_AS, &limit) == 0) {
    limit.rlim_cur = std::strtoull(std::getenv("FAULTS_MEMORY"), nullptr, 10);
    ::setrlimit(RLIMIT_AS, &limit);
  }
  if (called("FAULTS_WAIT_OF")) {
    const int made = ::open(std::getenv("FAULTS_ONCE"), O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    waits = made >= 0;
    if (waits) ::close(made);
  }
}

void wait_for_signal(int fd) {
  struct stat info {};
  if (waits && is_at(fd, std::getenv("FAULTS_WAIT")) && ::fstat(fd, &info) == 0 && info.st_size > 0)
    ::pause();
}

time_t clock_offset() {
  static const char* const offset = std::getenv("FAULTS_CLOCK");
  return offset == nullptr ? 0 : static_cast<time_t>(std::atoll(offset));
}

template <class Info>
int with_free_space(const char* name, const char* path, Info* info) {
  const int result = next<int (*)(const char*, Info*)>(name)(path, info);
  if (const char* bytes = std::getenv("FAULTS_FREE"); result == 0 && bytes != nullptr) {
    info->f_frsize = 1;
    info->f_bavail = std::strtoull(bytes, nullptr, 10);
  }
  return result;
}

}  // namespace

extern "C" {

ssize_t write(int fd, const void* data, size_t size) {
  static const auto real = next<ssize_t (*)(int, const void*, size_t)>("write");
  wait_for_signal(fd);
  return fails(fd) ? -1 : real(fd, data, size);
}

size_t fwrite(const void* data, size_t size, size_t count, FILE* file) {
  static const auto real = next<size_t (*)(const void*, size_t, size_t, FILE*)>("fwrite");
  return fails(::fileno(file)) ? 0 : real(data, size, count, file);
}

int stat(const char* path, struct stat* info) noexcept {
  static const auto real = next<int (*)(const char*, struct stat*)>("stat");
  static const char* const part = std::getenv("FAULTS_LOOK");
  const int result = real(path, info);
  const bool chosen = part != nullptr && std::strstr(path, part) != nullptr;
  return result == 0 && chosen && fails_now() ? -1 : result;
}

int statvfs(const char* path, struct statvfs* info) noexcept {
  return with_free_space("statvfs", path, info);
}
int statvfs64(const char* path, struct statvfs64* info) noexcept {
  return with_free_space("statvfs64", path, info);
}

int clock_gettime(clockid_t clock, timespec* out) noexcept {
  static const auto real = next<int (*)(clockid_t, timespec*)>("clock_gettime");
  const int result = real(clock, out);
  if (result == 0 && clock == CLOCK_REALTIME) out->tv_sec += clock_offset();
  return result;
}

time_t time(time_t* out) noexcept {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  if (out != nullptr) *out = now.tv_sec;
  return now.tv_sec;
}

int gettimeofday(timeval* out, void*) noexcept {
  timespec now{};
  const int result = ::clock_gettime(CLOCK_REALTIME, &now);
  out->tv_sec = now.tv_sec;
  out->tv_usec = now.tv_nsec / 1000;
  return result;
}

}  // extern "C"
