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

# sepia_tile_code(TARGET SOURCES a.cc ...): compiles the sources with SEPIA_TILES = hardware and adds
# the objects to TARGET; with SEPIA_TILES = emulated as objects of TARGET_emulated, for tests.
function(sepia_tile_code target)
  cmake_parse_arguments(arg "" "" "SOURCES" ${ARGN})
  set(avx512_flags -march=x86-64-v4 -mprefer-vector-width=512)
  get_target_property(libraries ${target} LINK_LIBRARIES)
  foreach(tiles hardware emulated)
    add_library(${target}_${tiles} OBJECT ${arg_SOURCES})
    target_link_libraries(${target}_${tiles} PRIVATE ${libraries})
    target_compile_definitions(${target}_${tiles} PRIVATE SEPIA_TILES=${tiles})
  endforeach()
  set_target_properties(${target}_hardware PROPERTIES SEPIA_MARCH "${avx512_flags};-mavx512bf16")
  set_target_properties(${target}_emulated PROPERTIES SEPIA_MARCH "${avx512_flags}")
  target_compile_definitions(${target}_emulated PRIVATE SEPIA_EMULATED_TILES)
  target_sources(${target} PRIVATE $<TARGET_OBJECTS:${target}_hardware>)
endfunction()
