#include "checkpoint/export/neox_folder.h"

#include <map>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/export/hf_config.h"
#include "checkpoint/export/new_directory.h"
#include "checkpoint/export/sepllm_keys.h"
#include "checkpoint/export/value_stream.h"
#include "checkpoint/export/verification.h"
#include "checkpoint/neox/neox_layout.h"
#include "checkpoint/neox/neox_source.h"
#include "checkpoint/torch/torch_writer.h"
#include "model/model_config.pb.h"

namespace sepia::checkpoint {
namespace {

TorchMember StorageMember(const ModelSource& source, const SourceTensor& tensor, DType dtype,
                          size_t key) {
  return {fmt::format("data/{}", key), tensor.shape.num_elements() * DTypeSize(dtype),
          [&source, &tensor, dtype](const auto& take) {
            ForEachBlock(source, tensor, Role::kMaster, dtype,
                         [&](const ValueBlock& block) { take(block.bytes); });
          }};
}

void WriteLayer(const ModelSource& source, const std::vector<NeoxTensor>& tensors,
                const std::string& folder, DType dtype) {
  PickleWriter pickle;
  std::vector<TorchMember> members(1);  // the pickle comes first
  pickle.BeginDict();
  for (const NeoxTensor& tensor : tensors) {
    const size_t key = members.size() - 1;
    pickle.String(tensor.key);
    pickle.Tensor(dtype, tensor.shape, std::to_string(key));
    members.push_back(StorageMember(source, source.Get(tensor.hf_name), dtype, key));
  }
  pickle.EndDict();
  members.front() = TextMember("data.pkl", pickle.Take());
  members.push_back(TextMember("version", "3\n"));
  const std::string name = fmt::format("layer_{:02}-model_00-model_states", tensors.front().layer);
  WriteTorchArchive(folder + "/" + name + ".pt", name, members);
}

// Sparse masks are said in SepLLM's keys, which that fork of GPT-NeoX computes.
std::string MakeYaml(const config::ModelConfig& config) {
  nlohmann::ordered_json keys = {
      {"pipe-parallel-size", 1},
      {"model-parallel-size", 1},
      {"num-layers", config.num_layers()},
      {"hidden-size", config.hidden_size()},
      {"num-attention-heads", config.num_heads()},
      {"intermediate-size", config.intermediate_size()},
      {"seq-length", config.max_positions()},
      {"max-position-embeddings", config.max_positions()},
      {"pos-emb", "rotary"},
      {"rotary-pct", config.rotary_pct()},
      {"rotary-emb-base", config.rotary_base()},
      {"no-weight-tying", !config.tie_embeddings()},
      {"gpt-j-residual", config.parallel_residual()},
      {"output-layer-parallelism", "column"},
      {"norm", "layernorm"},
      {"layernorm-epsilon", config.layer_norm_eps()},
      {"activation", "gelu"},
      {"bias-gelu-fusion", config.activation() == config::TANH_GELU},
      {"finetune", true},
  };
  if (HasSparseAttention(config)) {
    const auto all = nlohmann::ordered_json::parse(MakeSepllmKeys(config));
    for (const char* key : {"separator_token_ids", "PADDING_ID", "prefill_local_window_size",
                            "USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS", "prefill_loc_win_size_list",
                            "init_tok_max_idx", "USE_ORIGINAL_FULL_ATTEN", "streamingLLM"}) {
      keys[key] = all[key];
    }
  }
  return "# Written by Sepia. JSON is YAML.\n" + keys.dump(1) + "\n";
}

// The keys that DeepSpeed's and GPT-NeoX's loading code looks up without asking.
void WriteStates(const ModelSource& source, const config::ModelConfig& config,
                 const std::string& folder) {
  const TrainState* state = source.train_state();
  const int64_t step = state == nullptr ? 0 : state->step;
  PickleWriter pickle;
  const auto integer = [&](const char* key, int64_t value) {
    pickle.String(key);
    pickle.Integer(value);
  };
  pickle.BeginDict();
  for (const char* key : {"module", "optimizer", "lr_scheduler"}) {
    pickle.String(key);
    pickle.None();
  }
  for (const char* key : {"csr_tensor_module_names", "sparse_tensor_module_names"}) {
    pickle.String(key);
    pickle.EmptySet();
  }
  integer("skipped_steps", state == nullptr ? 0 : state->skipped_steps);
  integer("global_steps", step);
  integer("global_samples", state == nullptr ? 0 : state->consumed_samples);
  integer("dp_world_size", 1);
  integer("mp_world_size", 1);
  integer("iteration", step);
  pickle.String("args");
  pickle.BeginDict();
  integer("num_layers", config.num_layers());
  integer("hidden_size", config.hidden_size());
  integer("num_attention_heads", config.num_heads());
  integer("max_position_embeddings", config.max_positions());
  integer("make_vocab_size_divisible_by", 128);
  integer("padded_vocab_size", config.vocab_size());
  integer("model_parallel_size", 1);
  pickle.String("tokenizer_type");
  pickle.String("HFTokenizer");
  pickle.EndDict();
  pickle.EndDict();
  WriteTorchArchive(folder + "/mp_rank_00_model_states.pt", "mp_rank_00_model_states",
                    {TextMember("data.pkl", pickle.Take()), TextMember("version", "3\n")});
}

void WarnAboutDifferences(const config::ModelConfig& config) {
  if (!HasSparseAttention(config)) return;
  LogWarn(
      "this model has {} attention: configs/sepia.yml says so in the keys of the SepLLM authors' "
      "fork of GPT-NeoX; GPT-NeoX itself computes full attention",
      config::AttentionConfig::Kind_Name(config.attention().kind()));
}

// SepLLM's keys know full_layers only as windows, so those are compared where there are any.
void CheckSameArchitecture(const ModelSource& source, const config::ModelConfig& config,
                           const ModelSource& written) {
  if (!HasSparseAttention(config)) return CheckSameModel(source, written);
  config::ModelConfig found;
  written.FillModelConfig(&found);
  CHECK(MakeYaml(config) == MakeYaml(found), "the YAML lost something:\n{}\n{}", MakeYaml(config),
        MakeYaml(found));
}

}  // namespace

void ExportNeoxFolder(const ModelSource& source, const std::string& folder, DType dtype) {
  config::ModelConfig config;
  source.FillModelConfig(&config);
  const std::string yaml = MakeYaml(config);
  WarnAboutDifferences(config);
  NewDirectory directory(folder);
  const TrainState* state = source.train_state();
  const std::string name = fmt::format("global_step{}", state == nullptr ? 0 : state->step);
  const std::string step = directory.path() + "/" + name;
  CreateDirectories(step + "/configs");
  std::map<int, std::vector<NeoxTensor>> layers;
  for (NeoxTensor& tensor : NeoxTensors(config)) layers[tensor.layer].push_back(tensor);
  for (const auto& [layer, tensors] : layers) WriteLayer(source, tensors, step, dtype);
  WriteStates(source, config, step);
  WriteFileAtomic(step + "/configs/sepia.yml", yaml);
  WriteFileAtomic(directory.path() + "/latest", name);
  const auto written = OpenNeoxFolder(step);
  CheckSameArchitecture(source, config, *written);
  VerifyTensors(source, *written, step, [&](const SourceTensor&) { return dtype; });
  directory.Commit();
}

}  // namespace sepia::checkpoint
