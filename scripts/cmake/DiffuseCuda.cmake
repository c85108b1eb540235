# SPDX-License-Identifier: MIT
# The plug-in libdiffuse_cuda: kernels and their launch side. Nothing links it; it is opened when a GPU is
# asked for, so one build runs with and without CUDA. AUTO leaves it out, saying why, where it cannot be
# built; ON makes that an error.

# Sets `why` in the caller when CUDA cannot be compiled, else enables the language.
macro(diffuse_enable_cuda why)
  set(${why} "")
  if(NOT TARGET LibTorch::cuda)
    set(${why} "LibTorch in ${LIBTORCH} is built without CUDA")
  else()
    if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
      find_program(DIFFUSE_NVCC nvcc PATHS /usr/local/cuda/bin)
      if(DIFFUSE_NVCC)
        set(ENV{CUDACXX} ${DIFFUSE_NVCC})
      endif()
    endif()
    # sm_80, sm_90, and PTX for what comes later.
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
      set(CMAKE_CUDA_ARCHITECTURES 80-real 90)
    endif()
    include(CheckLanguage)
    check_language(CUDA)
    if(NOT CMAKE_CUDA_COMPILER)
      set(${why} "no working nvcc (looked in CUDACXX, PATH, /usr/local/cuda/bin)")
    else()
      enable_language(CUDA)
      string(REGEX REPLACE "[.].*" "" nvcc_major "${CMAKE_CUDA_COMPILER_VERSION}")
      if(NOT nvcc_major EQUAL LibTorch_CUDA_VERSION_MAJOR)
        set(${why} "nvcc is of CUDA ${nvcc_major}, LibTorch of CUDA ${LibTorch_CUDA_VERSION_MAJOR}")
      endif()
    endif()
  endif()
endmacro()

if(DIFFUSE_CUDA STREQUAL OFF)
  message(STATUS "CUDA kernels: off")
  return()
endif()
diffuse_enable_cuda(DIFFUSE_CUDA_WHY_NOT)
if(DIFFUSE_CUDA_WHY_NOT)
  if(DIFFUSE_CUDA STREQUAL ON)
    message(FATAL_ERROR "DIFFUSE_CUDA=ON, but ${DIFFUSE_CUDA_WHY_NOT}")
  endif()
  message(STATUS "CUDA kernels: not built, ${DIFFUSE_CUDA_WHY_NOT}")
  return()
endif()
message(STATUS "CUDA kernels: nvcc ${CMAKE_CUDA_COMPILER_VERSION}, architectures ${CMAKE_CUDA_ARCHITECTURES}")

# CMake before 3.25.2 does not know that this nvcc has C++20.
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
endif()

file(GLOB kernels CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/ops/kernels/*.cu)
add_library(diffuse_cuda MODULE ${PROJECT_SOURCE_DIR}/src/ops/cuda_plugin.cpp ${kernels})
set_target_properties(diffuse_cuda PROPERTIES LINKER_LANGUAGE CXX CUDA_RUNTIME_LIBRARY None)
target_include_directories(diffuse_cuda PRIVATE ${PROJECT_SOURCE_DIR}/src)
target_include_directories(diffuse_cuda SYSTEM PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
target_compile_options(diffuse_cuda PRIVATE
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra $<$<BOOL:${DIFFUSE_WERROR}>:-Werror=all-warnings>>)
# Nothing refers to libtorch_cuda by symbol: it registers itself when it is loaded.
target_link_options(diffuse_cuda PRIVATE -Wl,--no-as-needed)
target_link_libraries(diffuse_cuda PRIVATE LibTorch::cuda diffuse_flags)
add_dependencies(diffuse_core diffuse_cuda)
