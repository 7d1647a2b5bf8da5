// One run as plain values, every default filled in: what the trainer reads. trainer/config.h makes
// it from a config file; the meaning, unit and source of each field stand above its twin in
// train_config.proto, data_config.proto and model_config.proto.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "kernels/context.h"
#include "kernels/rotary.h"
#include "model/model_config.h"

namespace sepia::trainer {

enum class Numerics : uint8_t { kNeox2, kPythiaV1, kHf };
enum class Precision : uint8_t { kFp32, kBf16, kFp16 };
enum class ScheduleKind : uint8_t { kCosine, kLinear, kConstant, kWarmupStableDecay };
enum class DataOrder : uint8_t { kNeoxMaps, kLinear };

struct DataSourceSettings {
  std::string prefix;
  double weight = 1;
};

// Either `source` with `split`, or train, valid and test.
struct DataSettings {
  std::vector<DataSourceSettings> source;
  std::string split;
  std::vector<DataSourceSettings> train;
  std::vector<DataSourceSettings> valid;
  std::vector<DataSourceSettings> test;
  std::optional<double> blend_by_num_docs_alpha;
  DataOrder order = DataOrder::kNeoxMaps;
  int64_t sequence_length = 0;  // T
  std::string tokenizer;        // empty: none
  std::string cache_dir;        // empty: beside the dataset
  int64_t seed = 0;
  bool mask_eod_loss = false;
  int32_t eod_id = 0;
  int32_t prefetch = 0;  // micro-batches
};

struct BatchSettings {
  int64_t global = 0;  // samples per optimizer step over all ranks
  int64_t micro = 0;   // samples per micro-batch of one data rank
};

struct OptimizerSettings {
  double lr = 0;
  double min_lr = 0;
  double beta1 = 0;
  double beta2 = 0;
  double eps = 0;
  double weight_decay = 0;
  double clip = 0;  // 0: no clipping
};

struct ScheduleSettings {
  ScheduleKind kind = ScheduleKind::kCosine;
  double warmup_steps = 0;  // not rounded, as NeoX
  int64_t decay_steps = 0;  // counted from step 0
  int64_t total_steps = 0;
  int64_t wsd_decay_steps = 0;
};

struct LossScaleSettings {
  int32_t initial_scale_power = 0;
  int32_t window = 0;  // steps
  int32_t hysteresis = 0;
  double min_scale = 0;
  double static_scale = 0;  // 0: dynamic
};

struct ParallelSettings {
  int32_t tensor = 1;
  bool sequence = false;
  int32_t zero_stage = 0;
  bool overlap = true;
  DType grad_reduce_dtype = DType::kFloat32;
};

struct CheckpointSettings {
  std::string dir;  // empty only without a run_dir
  int64_t every_steps = 0;
  bool log_spaced = false;
  int32_t keep_last = 0;
  int64_t keep_every = 0;
  bool async = true;
  int32_t max_failures = 0;
};

struct InitFromSettings {
  std::string path;  // empty: random initial weights
  bool weights_only = true;
  int64_t first_step = 0;
  int64_t warmup_steps = 0;
  bool fresh_schedule = false;
};

struct LoggingSettings {
  int64_t every_steps = 0;
  bool tensorboard = true;
  double peak_gflops = 0;  // 0: measure
};

struct EvalSettings {
  int64_t every_steps = 0;  // 0: never
  int64_t steps = 0;        // global batches
};

struct SamplesSettings {
  int64_t every_steps = 0;  // 0: never
  std::vector<std::string> prompt;
  int32_t max_tokens = 0;
  double temperature = 0;
  int32_t top_k = 0;
  double top_p = 0;
};

struct SafetySettings {
  int32_t max_skipped_in_a_row = 0;
  int32_t zscore_window = 0;  // steps
  double skip_loss_zscore = 0;
  double skip_grad_norm_zscore = 0;
  double hang_seconds = 0;          // 0: never
  int64_t replica_check_steps = 0;  // 0: never
};

struct TrainSettings {
  model::ModelConfig model;
  DataSettings data;
  BatchSettings batch;
  OptimizerSettings optimizer;
  ScheduleSettings schedule;
  Numerics numerics = Numerics::kNeox2;
  Precision precision = Precision::kFp32;
  Device device = Device::kCpu;
  uint64_t seed = 0;
  ParallelSettings parallel;
  CheckpointSettings checkpoint;
  InitFromSettings init_from;
  LoggingSettings logging;
  EvalSettings eval;
  SamplesSettings samples;
  SafetySettings safety;
  LossScaleSettings loss_scale;
  std::string run_dir;
  bool recompute = false;
  kernels::RotaryTables rotary_tables = kernels::RotaryTables::kFp32;
  int32_t threads = 0;         // of one rank; 0: all that the process may use
  bool allow_fallback = true;  // kernels::Context
  kernels::FullAttention full_attention = kernels::FullAttention::kOwn;
  bool cuda_graphs = false;

  int64_t tokens_per_step() const { return batch.global * data.sequence_length; }
  DType compute_dtype() const {
    switch (precision) {
      case Precision::kBf16: return DType::kBFloat16;
      case Precision::kFp16: return DType::kFloat16;
      case Precision::kFp32: break;
    }
    return DType::kFloat32;
  }
};

}  // namespace sepia::trainer
