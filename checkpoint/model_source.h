// Anything that a model can be read from, behind one interface: a Sepia checkpoint, a run
// directory, a Hugging Face folder. Formats of others plug in as one more subclass.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/tensor.h"
#include "checkpoint/checkpoint_tensor.h"
#include "checkpoint/rectangle.h"
#include "checkpoint/train_state.h"

namespace sepia::config {
class ModelConfig;
}

namespace sepia::checkpoint {

struct SourceTensor {
  std::string name;
  DType dtype = DType::kFloat32;
  Shape shape;
};

// Immutable once open; reading is thread-safe. Damage throws BadData (exit 65).
class ModelSource {
 public:
  virtual ~ModelSource() = default;

  // For people: "Hugging Face folder".
  virtual std::string_view format() const = 0;
  // What was opened: the step directory when a run directory was given.
  virtual const std::string& path() const = 0;
  // The architecture; attention too where the source records it.
  virtual void FillModelConfig(config::ModelConfig* config) const = 0;
  // The weights, sorted by name: Hugging Face names with the "gpt_neox." prefix. The set and the
  // shapes are those that the architecture asks for.
  virtual std::span<const SourceTensor> tensors() const = 0;
  // Whether every tensor also has this role (moments). kMaster stands for the weights: always.
  virtual bool Has(Role role) const = 0;
  // tokenizer.json that belongs to the model, or "".
  virtual std::string tokenizer_path() const = 0;
  // Null when the source has weights only.
  virtual const TrainState* train_state() const { return nullptr; }
  // Resolved TrainConfig of the run in text format, or "".
  virtual std::string_view config_text() const { return ""; }

  // The tensor, or its elements `part` (a rank reads only what it holds), widened to fp32.
  // `out` is fp32 and has the extent of what is read. NaN and infinities are warned about.
  void ReadTensor(const std::string& name, TensorView out, Role role = Role::kMaster) const;
  void ReadPart(const std::string& name, const Rectangle& part, TensorView out,
                Role role = Role::kMaster) const;
  // Several parts of one tensor; what they have in common in the file is read once.
  void ReadParts(const std::string& name, std::span<const PartTarget> parts,
                 Role role = Role::kMaster) const;
  // Throws BadData when there is no such tensor.
  const SourceTensor& Get(std::string_view name) const;

 protected:
  virtual void Read(const SourceTensor& tensor, Role role, const Rectangle& part,
                    TensorView out) const = 0;
  // Part by part, unless a source can do better.
  virtual void ReadEach(const SourceTensor& tensor, Role role,
                        std::span<const PartTarget> parts) const;
};

// Detects what `path` is: a Sepia step directory, a directory of checkpoints or a run directory
// (the newest checkpoint of it), a Hugging Face folder (safetensors or pytorch_model.bin, one file
// or shards with an index), or a GPT-NeoX checkpoint (itself, or the directory with its `latest`);
// or a GGUF file. Throws BadData saying what is there instead.
std::unique_ptr<ModelSource> OpenModelSource(const std::string& path);

}  // namespace sepia::checkpoint
