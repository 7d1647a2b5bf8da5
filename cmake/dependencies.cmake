# Debian packages only; scripts/install-deps names them all.
find_package(Threads REQUIRED)
find_package(Protobuf REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(ZLIB REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(ZSTD REQUIRED IMPORTED_TARGET libzstd)
pkg_check_modules(YAML REQUIRED IMPORTED_TARGET yaml-0.1)

# libutf8proc-dev ships no CMake file and, on bookworm, a .pc file under this name.
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)

find_package(OpenMP REQUIRED)
if(SEPIA_FUZZ)
  return()  # parsers need neither a command line nor fast matrix products
endif()

find_package(CLI11 REQUIRED)
if(SEPIA_MPI)
  enable_language(C)  # FindMPI asks the C compiler
  find_package(MPI REQUIRED COMPONENTS C)
endif()

# Debian's dnnl-config.cmake insists on OpenCL headers that a CPU build does not need.
if(SEPIA_ONEDNN)
  find_path(DNNL_INCLUDE_DIR oneapi/dnnl/dnnl.hpp)
  find_library(DNNL_LIBRARY dnnl)
  if(DNNL_INCLUDE_DIR AND DNNL_LIBRARY)
    add_library(sepia_onednn INTERFACE)
    target_include_directories(sepia_onednn SYSTEM INTERFACE ${DNNL_INCLUDE_DIR})
    target_link_libraries(sepia_onednn INTERFACE ${DNNL_LIBRARY})
  else()
    message(STATUS "oneDNN not found: building with Sepia's own matrix products")
  endif()
endif()

if(SEPIA_CUDA STREQUAL "ON")
  if(NOT CMAKE_CUDA_COMPILER AND EXISTS /usr/local/cuda/bin/nvcc)
    set(CMAKE_CUDA_COMPILER /usr/local/cuda/bin/nvcc)
  endif()
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90)
  enable_language(CUDA)
  # CMake 3.25 does not know how to ask nvcc for C++20.
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
  endif()
  find_package(CUDAToolkit REQUIRED)
  include(cmake/cuda_libraries.cmake)
endif()

if(SEPIA_TESTS)
  find_package(GTest REQUIRED)
endif()
