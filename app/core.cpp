// SPDX-License-Identifier: MIT
#include "core.h"

#include <dlfcn.h>

#include <string>

namespace diffuse {

const Core& open_core() {
  // Found beside the program (RUNPATH). LibTorch comes with it, from where it was at build time or
  // from the library path. Stays open: the process ends with it.
  void* library = ::dlopen("libdiffuse_core.so", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const std::string reason = ::dlerror();
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
