# Everything is compiled for x86-64-v3 (AVX2, FMA, F16C); faster paths live in files compiled with
# their own flags and are chosen at run time. -ffp-contract=off: a compiler that fuses
# multiply-adds changes NeoX's blending order and makes results depend on the ISA; kernels write
# explicit FMAs. SEPIA_MARCH is set by cmake/per_isa.cmake only.
add_library(sepia_flags INTERFACE)
target_include_directories(sepia_flags INTERFACE ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR}/generated)
target_compile_options(sepia_flags INTERFACE
  "$<IF:$<BOOL:$<TARGET_PROPERTY:SEPIA_MARCH>>,$<TARGET_PROPERTY:SEPIA_MARCH>,-march=x86-64-v3>"
  -ffp-contract=off -fno-math-errno -fno-trapping-math
  -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Wimplicit-fallthrough
  $<$<BOOL:${SEPIA_WERROR}>:-Werror>)

if(SEPIA_SANITIZE)
  string(REPLACE "," ";" sanitizers "${SEPIA_SANITIZE}")
  foreach(sanitizer IN LISTS sanitizers)
    target_compile_options(sepia_flags INTERFACE -fsanitize=${sanitizer})
    target_link_options(sepia_flags INTERFACE -fsanitize=${sanitizer})
  endforeach()
  # g++ 12 sees uninitialised members in std::variant and std::regex once sanitizers keep it from
  # inlining; the release build keeps this warning.
  target_compile_options(sepia_flags INTERFACE -fno-sanitize-recover=all -fno-omit-frame-pointer
                         $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
endif()

# Coverage feedback in every library; only the targets themselves link libFuzzer's main.
if(SEPIA_FUZZ)
  target_compile_options(sepia_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
