// What a run is, printed before its first step.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/config.h"
#include "trainer/flops.h"

namespace sepia::trainer {

struct HeaderFacts {
  int ranks = 1;
  int data_ranks = 1;
  int threads = 1;
  int64_t memory_bytes = 0;       // planned, of one rank
  double peak_gflops = 0;         // 0: unknown
  AttentionWork first_step;       // of the first global batch
  std::string attention_kernels;  // model::DescribeAttention
  std::string device;             // kernels::DeviceName; empty for the host
  std::string graphs;             // GraphRange::Describe; empty: not asked for
  std::string train_data;         // data::Dataset::Describe
  std::string start;              // "random initial weights", "resuming from ... at step 1000"
};

// One fact a line: model, attention with Attn % and FLOPs %, batch, optimizer, data, machine,
// place.
std::vector<std::string> HeaderBlock(const LoadedConfig& config, const HeaderFacts& facts);

// "SEP window 64, initial 3, 9 separators; layer 0 full"
std::string DescribeAttention(const model::ModelConfig& model);

}  // namespace sepia::trainer
