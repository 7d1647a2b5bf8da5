// sepia convert: a model from any format that Sepia reads to one that it writes.
#include <filesystem>
#include <memory>
#include <string>

#include <fmt/format.h>

#include "base/error.h"
#include "checkpoint/export/hf_folder.h"
#include "checkpoint/export/sepia_checkpoint.h"
#include "checkpoint/export/tensors_file.h"
#include "checkpoint/model_source.h"
#include "tools/sepia/command.h"

namespace sepia::tools {
namespace {

struct ConvertOptions {
  std::string source;
  std::string destination;
  std::string format;
  std::string dtype = "f32";
  uint64_t max_shard_bytes = 5'000'000'000;
};

int64_t NumParameters(const checkpoint::ModelSource& source) {
  int64_t total = 0;
  for (const checkpoint::SourceTensor& tensor : source.tensors()) {
    total += tensor.shape.num_elements();
  }
  return total;
}

void RunConvert(const ConvertOptions& options) {
  const DType dtype = *ParseDType(options.dtype);
  const auto source = checkpoint::OpenModelSource(options.source);
  std::string written = options.destination;
  if (options.format == "hf") {
    checkpoint::ExportHfFolder(
        *source, options.destination,
        {.dtype = dtype, .max_shard_bytes = static_cast<int64_t>(options.max_shard_bytes)});
  } else if (options.format == "sepia") {
    written = checkpoint::ExportSepiaCheckpoint(*source, options.destination, dtype);
  } else {
    if (dtype != DType::kFloat32)
      throw UserError("--to tensors writes f32 only; leave out --dtype");
    checkpoint::ExportTensorsFile(*source, options.destination);
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
                   "Sepia checkpoint or run directory, or Hugging Face folder (detected)")
      ->required();
  command->add_option("destination", options->destination, "new directory, or file for tensors")
      ->required();
  command
      ->add_option("--to", options->format,
                   "sepia: directory of checkpoints; hf: Hugging Face folder; tensors: one "
                   "safetensors file with weight.*, exp_avg.*, exp_avg_sq.*")
      ->required()
      ->check(CLI::IsMember({"sepia", "hf", "tensors"}));
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
  command->footer(
      "What is written is read back and compared before success is reported.\n"
      "Examples:\n"
      "  sepia convert runs/my-run my-model --to hf --dtype bf16\n"
      "  sepia convert pythia-160m-hf/ checkpoints/ --to sepia\n"
      "  sepia convert runs/my-run state.safetensors --to tensors");
  command->final_callback([options] { RunConvert(*options); });
}

}  // namespace sepia::tools
