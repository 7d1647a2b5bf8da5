// The one table of parameters. Allocation, initial values, sharding, gradient norm, weight decay
// and checkpoints all read it; nothing else knows an index or an offset.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "model/model_config.h"

namespace sepia::model {

// How a parameter is cut over the tensor axis.
enum class Placement : uint8_t {
  kReplicated,
  kColumn,  // dim 0: output features (qkv by whole heads, h_to_4h)
  kRow,     // dim 1: input features (attention.dense, 4h_to_h)
  kVocab,   // dim 0: rows of the vocabulary
};

struct Init {
  enum class Kind : uint8_t { kZero, kOne, kNormal } kind = Kind::kZero;
  double stddev = 0;  // kNormal
};

struct ParamSpec {
  std::string name;     // "layers.3.attention.qkv.weight"; labels, metrics
  std::string hf_name;  // "gpt_neox.layers.3.attention.query_key_value.weight"; checkpoints
  Shape shape;          // global (unsharded)
  Placement placement = Placement::kReplicated;
  Init init = {};
  bool weight_decay = false;  // 2-D weights, embeddings and head included
  // Every tensor rank holds the parameter, but only a part of the sum that is its gradient.
  bool partial_gradient = false;
};

// Roles of a block's parameters, in table order.
enum class BlockParam : int {
  kLn1Gamma,
  kLn1Beta,
  kQkvWeight,
  kQkvBias,
  kDenseWeight,
  kDenseBias,
  kLn2Gamma,
  kLn2Beta,
  kUpWeight,
  kUpBias,
  kDownWeight,
  kDownBias,
  kCount,
};

class ParameterTable {
 public:
  explicit ParameterTable(const ModelConfig& config);

  std::span<const ParamSpec> specs() const& { return specs_; }
  std::span<const ParamSpec> specs() const&& = delete;  // would outlive the table
  int64_t num_parameters() const;                       // elements

  int embedding() const { return 0; }
  int block(int64_t layer, BlockParam role) const;
  int final_gamma() const;
  int final_beta() const;
  int head() const;  // the embedding itself when tied

 private:
  std::vector<ParamSpec> specs_;
  int64_t num_layers_;
  bool tied_;
};

// Draws initial values: element e of the *global* tensor is Philox stream `spec.hf_name` of `seed`
// at index e, so sharding never changes a value. `values`, fp32, is the rectangle of the parameter
// that begins at `offset`. Runs on num_threads threads with the same bits for any number.
void InitializeParameter(const ParamSpec& spec, std::span<const int64_t> offset, uint64_t seed,
                         int num_threads, TensorView values);
// All of it.
void InitializeParameter(const ParamSpec& spec, uint64_t seed, int num_threads, TensorView values);

}  // namespace sepia::model
