# cmake -DINPUT=file -DOUTPUT=file.cc -DNAME=kName -P embed_file.cmake
# Turns a file into a C++ array of bytes, so that the one binary carries it.
file(READ ${INPUT} bytes HEX)
string(REGEX REPLACE "(................................)" "\\1\n" bytes "${bytes}")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
file(WRITE ${OUTPUT} "#include <cstddef>\n\n"
     "namespace sepia::embedded {\n\n"
     "extern const unsigned char ${NAME}[];\nextern const std::size_t ${NAME}Size;\n"
     "const unsigned char ${NAME}[] = {\n${bytes}};\n"
     "const std::size_t ${NAME}Size = sizeof(${NAME});\n\n"
     "}  // namespace sepia::embedded\n")
