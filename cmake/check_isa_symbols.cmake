# cmake -DNM=nm -DISA=avx512 -DOBJECTS=a.o;b.o -P check_isa_symbols.cmake
# Fails when an object compiled for one instruction set defines a weak symbol outside the namespace
# of that name: the linker might pick this copy for ordinary code, which then crashes elsewhere.
foreach(object IN LISTS OBJECTS)
  execute_process(COMMAND ${NM} --defined-only ${object} OUTPUT_VARIABLE symbols
                  RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "${NM} cannot read ${object}")
  endif()
  string(REGEX MATCHALL "[^\n]* [WVu] [^\n]*" weak "${symbols}")
  foreach(line IN LISTS weak)
    if(NOT line MATCHES "${ISA}|DW\\.ref\\.__gxx_personality_v0")
      message(SEND_ERROR "${object} defines a shared inline function: ${line}")
    endif()
  endforeach()
endforeach()
