// SPDX-License-Identifier: MIT
#include "core.h"

#include <dlfcn.h>
#include <malloc.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>

#include "base/memory.h"

namespace diffuse {

namespace {

/// libgomp's threads spin for milliseconds at each of the many barriers of a step. When another
/// process wants the cores, a spinning thread keeps the one it waits for from running. A bound of
/// 20,000 turns (a fraction of a millisecond) keeps all of the speed on quiet cores (a bound of 100
/// costs a quarter of it on small networks) and is 1.7 times as fast as libgomp's own 300,000 when
/// two other processes take the same two cores. Read by libgomp when it is loaded, so set before.
void bound_spinning_of_threads() {
  if (std::getenv("OMP_WAIT_POLICY") == nullptr) {
    ::setenv("GOMP_SPINCOUNT", "20000", /*overwrite=*/0);
  }
}

/// A step asks for the memory that the last one gave back. Kept by the process, it is neither taken
/// from the kernel nor cleared again: a fifth of the page faults.
void keep_freed_memory() {
  if (mapping_is_limited()) {
    // Others than malloc need some, too, and what lies between small blocks is of no use for maps.
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
    return;
  }
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
  mallopt(M_TOP_PAD, 64 << 20);
}

/// What would end the process without a word of ours: LibTorch finds itself by a path of its own,
/// and a loader that runs out of memory exits. Throws Error.
void check_before_loading() {
  std::error_code error;
  if (const auto here = std::filesystem::current_path(error); error)
    throw Error(Exit::run_folder,
                "the working folder is gone: " + error.message() + "; change to another one (cd)");
  constexpr size_t kLibTorch = size_t{600} << 20;  // of address space, on the CPU
  void* const probe =
      ::mmap(nullptr, kLibTorch, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (probe == MAP_FAILED)
    throw Error(Exit::device,
                "not enough memory to load LibTorch, which takes " + std::to_string(kLibTorch) +
                    " bytes of addresses: " + std::strerror(errno) +
                    "; raise the limit (ulimit -v)");
  ::munmap(probe, kLibTorch);
}

}  // namespace

const Core& open_core() {
  check_before_loading();
  bound_spinning_of_threads();
  keep_freed_memory();
  // Found beside the program (RUNPATH). LibTorch comes with it, from where it was at build time or
  // from the library path. Stays open: the process ends with it.
  void* library = ::dlopen("libdiffuse_core.so", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const std::string reason = ::dlerror();
    if (reason.find("failed to map") != std::string::npos ||
        reason.find("annot allocate memory") != std::string::npos)
      throw Error(Exit::device,
                  "not enough memory to load LibTorch (" + reason +
                      "); raise the limit (ulimit -v), or end other programs");
    const bool torch =
        reason.find("libtorch") != std::string::npos || reason.find("libc10") != std::string::npos;
    throw Error(Exit::device,
                torch
                    ? "LibTorch 2.11 was not found (" + reason +
                          "); run scripts/setup, or put its lib folder on LD_LIBRARY_PATH"
                    : "cannot load libdiffuse_core.so (" + reason +
                          "); it belongs beside the program or in ../lib: build or install again");
  }
  using Entry = const Core* (*)();
  const auto entry = reinterpret_cast<Entry>(::dlsym(library, "diffuse_core"));
  if (entry == nullptr)
    throw Error(Exit::device,
                "libdiffuse_core.so is of another build; build or install diffuse again");
  return *entry();
}

}  // namespace diffuse
