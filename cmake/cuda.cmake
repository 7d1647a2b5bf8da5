# sepia_cuda_sources(TARGET NAME SOURCES a.cu ... DEFINITIONS X=1 ...): adds kernel sources, compiled
# with the definitions, to TARGET. They are read by nvcc or, emulated, by the host compiler, there
# with local variables poisoned in place of unwritten registers.
function(sepia_cuda_sources target name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEFINITIONS" ${ARGN})
  add_library(${name} OBJECT ${arg_SOURCES})
  target_compile_definitions(${name} PRIVATE ${arg_DEFINITIONS})
  if(SEPIA_CUDA STREQUAL "EMULATED")
    set_source_files_properties(${arg_SOURCES} PROPERTIES LANGUAGE CXX)
    target_link_libraries(${name} PRIVATE sepia_flags)
    target_compile_definitions(${name} PRIVATE SEPIA_CUDA_EMULATED)
    target_compile_options(${name} PRIVATE -x c++ -O2 -Wno-unknown-pragmas
                           -ftrivial-auto-var-init=pattern)
  else()
    target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR})
  endif()
  target_sources(${target} PRIVATE $<TARGET_OBJECTS:${name}>)
endfunction()
