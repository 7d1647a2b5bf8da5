#include "checkpoint/import/hf_config.h"
#include "model/model_config.pb.h"
#include "tests/fuzz/fuzz_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string path = sepia::fuzzing::InputFile("config.json", data, size);
  return sepia::fuzzing::Feed([&] {
    sepia::config::ModelConfig config;
    sepia::checkpoint::ReadHfConfig(path, &config);
  });
}
