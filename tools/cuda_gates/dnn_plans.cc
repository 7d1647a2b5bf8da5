// cuda_dnn_plans DEVICE.json HEAD_DIM:SEQ...: the plans of the real cuDNN for DnnAttention's graphs on
// a GPU that is described, not there. Started by tools/cuda_gates/dnn_plans.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <sstream>

#include "kernels/cuda/dnn.h"

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  std::stringstream device;
  device << std::ifstream(argv[1]).rdbuf();
  int failures = 0;
  for (int i = 2; i < argc; ++i) {
    char* rest = nullptr;
    const long head_dim = std::strtol(argv[i], &rest, 10);
    const long seq_length = std::strtol(rest + 1, nullptr, 10);
    for (const bool deterministic : {true, false}) {
      for (const sepia::DType dtype : {sepia::DType::kBFloat16, sepia::DType::kFloat16}) {
        std::printf("D=%ld T=%ld: ", head_dim, seq_length);
        try {
          const sepia::kernels::cuda::DnnAttention attention(
              {dtype, 2, seq_length, 12, head_dim, seq_length},
              {.deterministic = deterministic,
               .max_workspace_bytes = int64_t{4} << 30,
               .device_json = device.str()});
          std::printf("%s, %.1f MiB of scratch for B=2 H=12\n", attention.KernelName().c_str(),
                      static_cast<double>(attention.ScratchBytes()) / (1 << 20));
        } catch (const std::exception& error) {
          std::printf("FAILED %s\n", error.what());
          ++failures;
        }
      }
    }
  }
  return failures == 0 ? 0 : 1;
}
