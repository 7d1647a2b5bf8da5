// A GPT-NeoX run's YAML configs as a config of ours: every key is mapped, ignored with a reason, or
// refused.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/json.h"

namespace sepia::tools {

struct NeoxConversion {
  std::string textproto;
  std::vector<std::string> ignored;  // "num_workers: the loader needs none"
};

struct NeoxConversionOptions {
  // GPUs of the original run; NeoX's global batch is a multiple of it. 0: the YAML must say
  // train_batch_size.
  int64_t num_gpus = 0;
  // Tokens of the tokenizer, before padding. The default is GPT-NeoX-20B's and Pythia's.
  int64_t tokenizer_size = 50277;
};

// `keys` as ReadNeoxConfigs returns them; `path` is for messages. Throws UserError(kUsage) naming
// all keys that Sepia does not know or cannot do.
NeoxConversion ConvertNeoxConfig(const checkpoint::JsonObject& keys, const std::string& path,
                                 const NeoxConversionOptions& options);

}  // namespace sepia::tools
