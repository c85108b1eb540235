# SPDX-License-Identifier: MIT
# LibTorch from, in this order: -DLIBTORCH / the environment's LIBTORCH (a folder with include/ and lib/: the
# zip's `libtorch` or a wheel's `site-packages/torch`), the checkout's .deps/venv, python3's torch (found
# without importing it). Targets LibTorch::cpu (libtorch_cpu, libc10) and, where its libraries are, LibTorch::cuda (with
# LibTorch_CUDA_VERSION_MAJOR); LibTorch_LIBRARY_DIRS is the run-time search path. TorchConfig.cmake is not used: it
# needs a working CUDA toolkit for a CUDA wheel.
include(FindPackageHandleStandardArgs)

set(LIBTORCH "" CACHE PATH "LibTorch 2.11: a folder with include/ and lib/; empty: found by itself")
# The environment's is remembered, for when ninja runs cmake without it; -D wins over it.
if(NOT "$ENV{LIBTORCH}" STREQUAL "" AND LIBTORCH STREQUAL "${LibTorch_FROM_ENVIRONMENT}")
  set(LIBTORCH "$ENV{LIBTORCH}" CACHE PATH "" FORCE)
  set(LibTorch_FROM_ENVIRONMENT "$ENV{LIBTORCH}" CACHE INTERNAL "")
endif()
if(NOT LIBTORCH)
  file(GLOB candidates ${PROJECT_SOURCE_DIR}/.deps/venv/lib/python3*/site-packages/torch)
  if(candidates)
    list(GET candidates 0 LIBTORCH)
  else()
    execute_process(
      COMMAND python3 -c "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
      OUTPUT_VARIABLE LIBTORCH OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
endif()
if(NOT LIBTORCH STREQUAL "${LibTorch_SEARCHED}")
  unset(LibTorch_CPU_LIBRARY CACHE)
  unset(LibTorch_C10_LIBRARY CACHE)
  unset(LibTorch_CUDA_LIBRARY CACHE)
  unset(LibTorch_C10_CUDA_LIBRARY CACHE)
  set(LibTorch_SEARCHED "${LIBTORCH}" CACHE INTERNAL "")
endif()

if(LIBTORCH AND EXISTS ${LIBTORCH}/include/torch/headeronly/version.h)
  file(STRINGS ${LIBTORCH}/include/torch/headeronly/version.h version_lines REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
  string(REGEX REPLACE ".*MAJOR ([0-9]+).*MINOR ([0-9]+).*PATCH ([0-9]+).*" "\\1.\\2.\\3" LibTorch_VERSION "${version_lines}")
endif()
find_library(LibTorch_CPU_LIBRARY torch_cpu PATHS ${LIBTORCH}/lib NO_DEFAULT_PATH)
find_library(LibTorch_C10_LIBRARY c10 PATHS ${LIBTORCH}/lib NO_DEFAULT_PATH)
find_library(LibTorch_CUDA_LIBRARY torch_cuda PATHS ${LIBTORCH}/lib NO_DEFAULT_PATH)
find_library(LibTorch_C10_CUDA_LIBRARY c10_cuda PATHS ${LIBTORCH}/lib NO_DEFAULT_PATH)
find_package_handle_standard_args(LibTorch
  REQUIRED_VARS LibTorch_CPU_LIBRARY LibTorch_C10_LIBRARY
  VERSION_VAR LibTorch_VERSION
  HANDLE_VERSION_RANGE
  REASON_FAILURE_MESSAGE "set LIBTORCH to a LibTorch 2.11 folder, or run scripts/setup")

if(LibTorch_FOUND AND NOT TARGET LibTorch::cpu)
  # libcudart and libcupti, which a CUDA wheel's libtorch_cpu needs, lie in sibling packages; its own RPATH
  # finds them at run time, the linker is told here.
  file(GLOB nvidia_dirs ${LIBTORCH}/../nvidia/*/lib)
  set(link_dirs "")
  foreach(dir ${nvidia_dirs})
    list(APPEND link_dirs "-Wl,-rpath-link,${dir}")
  endforeach()
  get_filename_component(LibTorch_LIBRARY_DIRS ${LibTorch_CPU_LIBRARY} DIRECTORY)
  add_library(LibTorch::c10 SHARED IMPORTED)
  set_target_properties(LibTorch::c10 PROPERTIES IMPORTED_LOCATION ${LibTorch_C10_LIBRARY})
  add_library(LibTorch::cpu SHARED IMPORTED)
  set_target_properties(LibTorch::cpu PROPERTIES
    IMPORTED_LOCATION ${LibTorch_CPU_LIBRARY}
    INTERFACE_INCLUDE_DIRECTORIES "${LIBTORCH}/include;${LIBTORCH}/include/torch/csrc/api/include"
    INTERFACE_SYSTEM_INCLUDE_DIRECTORIES "${LIBTORCH}/include;${LIBTORCH}/include/torch/csrc/api/include"
    INTERFACE_LINK_LIBRARIES LibTorch::c10
    INTERFACE_LINK_OPTIONS "-Wl,-rpath-link,${LIBTORCH}/lib;${link_dirs}")
  # The CUDA runtime that LibTorch itself loads: a second one in the process would not see its streams.
  file(GLOB cudart ${LIBTORCH}/lib/libcudart*.so.* ${LIBTORCH}/../nvidia/*/lib/libcudart.so.*)
  if(LibTorch_CUDA_LIBRARY AND LibTorch_C10_CUDA_LIBRARY AND cudart)
    list(GET cudart 0 cudart)
    string(REGEX REPLACE ".*[.]so[.]([0-9]+).*" "\\1" LibTorch_CUDA_VERSION_MAJOR "${cudart}")
    get_filename_component(cudart_dir ${cudart} DIRECTORY)
    list(APPEND LibTorch_LIBRARY_DIRS ${cudart_dir})
    add_library(LibTorch::cudart SHARED IMPORTED)
    set_target_properties(LibTorch::cudart PROPERTIES IMPORTED_LOCATION ${cudart})
    add_library(LibTorch::c10_cuda SHARED IMPORTED)
    set_target_properties(LibTorch::c10_cuda PROPERTIES IMPORTED_LOCATION ${LibTorch_C10_CUDA_LIBRARY})
    add_library(LibTorch::cuda SHARED IMPORTED)
    set_target_properties(LibTorch::cuda PROPERTIES
      IMPORTED_LOCATION ${LibTorch_CUDA_LIBRARY}
      INTERFACE_LINK_LIBRARIES "LibTorch::c10_cuda;LibTorch::cudart;LibTorch::cpu")
  endif()
endif()
