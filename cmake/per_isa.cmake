# sepia_per_isa(TARGET SOURCES a.cc ...): compiles the sources once per instruction set, each time
# with SEPIA_ISA naming the namespace they fill, and adds the objects to TARGET.
# See kernels/cpu/README.md.
function(sepia_per_isa target)
  cmake_parse_arguments(arg "" "" "SOURCES" ${ARGN})
  set(avx2_flags -march=x86-64-v3)
  set(avx512_flags -march=x86-64-v4 -mprefer-vector-width=512)
  get_target_property(libraries ${target} LINK_LIBRARIES)
  foreach(isa avx2 avx512)
    add_library(${target}_${isa} OBJECT ${arg_SOURCES})
    target_link_libraries(${target}_${isa} PRIVATE ${libraries})
    target_compile_definitions(${target}_${isa} PRIVATE SEPIA_ISA=${isa})
    set_target_properties(${target}_${isa} PROPERTIES SEPIA_MARCH "${${isa}_flags}")
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:${target}_${isa}>)
  endforeach()
endfunction()
