// What a run would stand on, as rates: of one rank, and of the links between ranks. For
// predictions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/dtype.h"

namespace sepia::trainer {

struct LinkRates {
  double bytes_per_s = 0;  // each way
  double latency_s = 0;    // of one round of messages
};

struct Hardware {
  std::string name;
  bool measured = false;  // here and now; otherwise from data sheets and assumed efficiencies

  // What a training step reaches, a second, on one rank while all ranks of its node work.
  double linear_flops = 0, head_flops = 0, attention_flops = 0;  // executed operations
  double elementwise_bytes = 0, optimizer_bytes = 0;
  double peak_flops = 0;  // of one rank: what MFU is a share of

  int64_t memory_bytes = 0;    // of one rank
  int64_t reserved_bytes = 0;  // of those: program, libraries, their buffers
  int ranks_per_node = 0;      // as such machines are sold; 0: any

  LinkRates in_node = {};       // of a rank
  LinkRates across_nodes = {};  // of a node: its ranks share it
  // Share of the time of communication that can pass beside computing.
  double overlap_in_node = 0, overlap_across_nodes = 0;

  std::vector<std::string> sources = {};  // a line for each group of numbers
};

// "a100" and "h100" (80 GB SXM modules in eights): data sheets and assumed efficiencies, which
// `sources` states. Sepia has never been timed on them. Nothing for other names.
std::optional<Hardware> HardwareFromDataSheet(const std::string& name, DType compute_dtype);

}  // namespace sepia::trainer
