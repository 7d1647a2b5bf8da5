# sepia_library(NAME SOURCES a.cc ... DEPENDS other ...): the static library of one folder.
function(sepia_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPENDS" ${ARGN})
  if(NOT arg_SOURCES)
    set(arg_SOURCES ${CMAKE_SOURCE_DIR}/cmake/empty.cc)
  endif()
  add_library(sepia_${name} STATIC ${arg_SOURCES})
  target_link_libraries(sepia_${name} PUBLIC sepia_flags ${arg_DEPENDS})
endfunction()

# sepia_test(NAME [ON_CUDA] SOURCES a_test.cc ... DEPENDS library ...): one gtest program a folder.
# ON_CUDA: what its sources test runs on the device (tests/on_cuda).
function(sepia_test name)
  cmake_parse_arguments(arg "ON_CUDA" "" "SOURCES;DEPENDS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  if(arg_ON_CUDA)
    target_include_directories(${name} BEFORE PRIVATE ${CMAKE_SOURCE_DIR}/tests/on_cuda)
  endif()
  target_link_libraries(${name} PRIVATE ${arg_DEPENDS} sepia_test_support GTest::gmock
                        GTest::gtest)
  add_test(NAME ${name} COMMAND ${name})
  # tools/sepia/openmp_settings.h says why.
  set_tests_properties(${name} PROPERTIES ENVIRONMENT GOMP_SPINCOUNT=1000)
endfunction()
