// sepia convert: a model from any format that Sepia reads to one that it writes.
#include <filesystem>
#include <memory>
#include <string>

#include <fmt/format.h>

#include "base/error.h"
#include "checkpoint/export/gguf.h"
#include "checkpoint/export/hf_folder.h"
#include "checkpoint/export/neox_folder.h"
#include "checkpoint/export/sepia_checkpoint.h"
#include "checkpoint/export/tensors_file.h"
#include "checkpoint/model_source.h"
#include "data/tokenizer/tokenizer.h"
#include "model/model_config.pb.h"
#include "tools/sepia/command.h"
#include "tools/sepia/gguf_tokenizer.h"

namespace sepia::tools {
namespace {

struct ConvertOptions {
  std::string source;
  std::string destination;
  std::string format;
  std::string dtype = "f32";
  std::string tokenizer;
  uint64_t max_shard_bytes = 5'000'000'000;
};

int64_t NumParameters(const checkpoint::ModelSource& source) {
  int64_t total = 0;
  for (const checkpoint::SourceTensor& tensor : source.tensors()) {
    total += tensor.shape.num_elements();
  }
  return total;
}

void WriteHf(const checkpoint::ModelSource& source, const ConvertOptions& options, DType dtype,
             checkpoint::HfFlavor flavor) {
  checkpoint::ExportHfFolder(source, options.destination,
                             {.dtype = dtype,
                              .max_shard_bytes = static_cast<int64_t>(options.max_shard_bytes),
                              .flavor = flavor});
}

void WriteGguf(const checkpoint::ModelSource& source, const ConvertOptions& options, DType dtype) {
  checkpoint::GgufExportOptions gguf{.dtype = dtype, .name = "", .tokenizer = {}};
  gguf.name = std::filesystem::path(options.destination).stem();
  const std::string path = options.tokenizer.empty() ? source.tokenizer_path() : options.tokenizer;
  if (!path.empty()) {
    config::ModelConfig config;
    source.FillModelConfig(&config);
    gguf.tokenizer = MakeGgufTokenizer(data::Tokenizer::Load(path), config.vocab_size());
  }
  checkpoint::ExportGguf(source, options.destination, gguf);
}

void WriteTensors(const checkpoint::ModelSource& source, const ConvertOptions& options,
                  DType dtype) {
  if (dtype != DType::kFloat32) throw UserError("--to tensors writes f32 only; leave out --dtype");
  checkpoint::ExportTensorsFile(source, options.destination);
}

void RunConvert(const ConvertOptions& options) {
  const DType dtype = *ParseDType(options.dtype);
  const auto source = checkpoint::OpenModelSource(options.source);
  std::string written = options.destination;
  if (options.format == "hf") {
    WriteHf(*source, options, dtype, checkpoint::HfFlavor::kGptNeox);
  } else if (options.format == "sepllm-hf") {
    WriteHf(*source, options, dtype, checkpoint::HfFlavor::kSepllmGptNeox);
  } else if (options.format == "gguf") {
    WriteGguf(*source, options, dtype);
  } else if (options.format == "neox") {
    checkpoint::ExportNeoxFolder(*source, options.destination, dtype);
  } else if (options.format == "sepia") {
    written = checkpoint::ExportSepiaCheckpoint(*source, options.destination, dtype);
  } else {
    WriteTensors(*source, options, dtype);
  }
  fmt::print("{}: {} tensors, {} parameters, from the {} {}\n", written, source->tensors().size(),
             NumParameters(*source), source->format(), source->path());
}

}  // namespace

void AddConvertCommand(CLI::App& app) {
  auto options = std::make_shared<ConvertOptions>();
  CLI::App* command = app.add_subcommand("convert", "convert a model between formats");
  command
      ->add_option("source", options->source,
                   "Sepia checkpoint or run directory, Hugging Face folder (safetensors or "
                   "pytorch_model.bin), GPT-NeoX checkpoint, or GGUF file (detected)")
      ->required();
  command
      ->add_option("destination", options->destination,
                   "new directory, or file for gguf and tensors")
      ->required();
  command
      ->add_option("--to", options->format,
                   "sepia: directory of checkpoints; hf: Hugging Face folder (GPTNeoXForCausalLM); "
                   "sepllm-hf: the same for the SepLLM authors' class, which applies sparse masks; "
                   "gguf: file for llama.cpp; neox: layer files that GPT-NeoX loads; tensors: one "
                   "safetensors file with weight.*, exp_avg.*, exp_avg_sq.*")
      ->required()
      ->check(CLI::IsMember({"sepia", "hf", "sepllm-hf", "gguf", "neox", "tensors"}));
  command
      ->add_option("--dtype", options->dtype,
                   "element type of the weights; with --to sepia, f32 keeps optimizer and training "
                   "state, the others weights only")
      ->check(CLI::IsMember({"f32", "bf16", "f16"}))
      ->capture_default_str();
  command
      ->add_option("--max-shard-size", options->max_shard_bytes,
                   "largest file of a Hugging Face folder, e.g. 500MB (default 5GB)")
      ->transform(CLI::AsSizeValue(true));
  command->add_option("--tokenizer", options->tokenizer,
                      "tokenizer.json for a GGUF file (default: the source's)");
  command->footer(
      "What is written is read back and compared before success is reported.\n"
      "Examples:\n"
      "  sepia convert runs/my-run my-model --to hf --dtype bf16\n"
      "  sepia convert pythia-160m-hf/ checkpoints/ --to sepia\n"
      "  sepia convert global_step143000/ checkpoints/ --to sepia\n"
      "  sepia convert runs/my-run my-model.gguf --to gguf --dtype f16\n"
      "  sepia convert runs/my-run state.safetensors --to tensors");
  command->final_callback([options] { RunConvert(*options); });
}

}  // namespace sepia::tools
