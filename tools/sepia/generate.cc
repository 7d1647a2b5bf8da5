// sepia generate: continues a prompt.
#include <cstdio>
#include <memory>
#include <optional>
#include <utility>

#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/log.h"
#include "data/tokenizer/tokenizer.h"
#include "dist/agreement.h"
#include "model/generate.h"
#include "tools/sepia/command.h"
#include "tools/sepia/loaded_model.h"
#include "tools/sepia/ranks.h"

namespace sepia::tools {
namespace {

struct GenerateCommandOptions {
  ModelSourceOptions source;
  std::string prompt;
  std::string tokenizer;
  int64_t max_tokens = 64;
  double temperature = 0.8;
  int32_t top_k = 0;
  double top_p = 1;
  uint64_t seed = 1234;
  bool ignore_eod = false;
  bool json = false;
};

// The token that ends documents.
std::optional<int32_t> EndOfDocument(const data::Tokenizer& tokenizer) {
  return tokenizer.IdOf("<|endoftext|>");
}

// An empty prompt begins a document: after the end of another one.
std::vector<int32_t> PromptTokens(const std::string& prompt, const data::Tokenizer& tokenizer) {
  std::vector<int32_t> tokens = tokenizer.Encode(prompt);
  const std::optional<int32_t> eod = EndOfDocument(tokenizer);
  if (tokens.empty() && eod) tokens.push_back(*eod);
  if (tokens.empty()) {
    throw UserError("--prompt is empty and the tokenizer has no <|endoftext|>; give some text");
  }
  return tokens;
}

data::Tokenizer LoadTokenizer(const GenerateCommandOptions& options, const OpenedModel& opened) {
  data::Tokenizer tokenizer = data::Tokenizer::Load(TokenizerPath(options.tokenizer, opened));
  if (tokenizer.vocab_size() > opened.model_config().vocab_size) {
    throw UserError(
        fmt::format("the tokenizer has {} tokens, the model only {}; use the tokenizer "
                    "that the model was trained with",
                    tokenizer.vocab_size(), opened.model_config().vocab_size));
  }
  return tokenizer;
}

void RunGenerate(const GenerateCommandOptions& options) {
  std::unique_ptr<dist::Communicator> world = JoinWorld();
  const OpenedModel opened = OpenedModel::OpenOn(*world, options.source);
  const auto tokenizer = dist::Agreed(*world, [&] { return LoadTokenizer(options, opened); });
  const auto prompt = dist::Agreed(*world, [&] { return PromptTokens(options.prompt, tokenizer); });
  model::GenerateOptions generate;
  generate.max_tokens = options.max_tokens;
  generate.sampling = {.temperature = options.temperature,
                       .top_k = options.top_k,
                       .top_p = options.top_p,
                       .seed = options.seed,
                       .vocab_size = tokenizer.vocab_size()};
  if (!options.ignore_eod) generate.stop_token = EndOfDocument(tokenizer).value_or(-1);

  LoadedModel loaded(opened, {.batch_size = 1, .seq_length = 1}, std::move(world));
  const Timer timer;
  const std::vector<int32_t> tokens =
      model::Generate(loaded.ctx(), loaded.model(), loaded.mesh(), prompt, generate);
  const double seconds = timer.Seconds();
  if (loaded.mesh().world().rank() != 0) return;  // all ranks have drawn the same tokens
  const std::string text = tokenizer.Decode(tokens);
  if (options.json) {
    const nlohmann::ordered_json result = {
        {"tokens", tokens}, {"text", text}, {"prompt_tokens", prompt.size()}, {"seconds", seconds}};
    std::printf("%s\n", result.dump().c_str());
  } else {
    std::printf("%s%s\n", options.prompt.c_str(), text.c_str());
    LogInfo("{} tokens in {:.2f} s, {:.1f} a second", tokens.size(), seconds,
            static_cast<double>(tokens.size()) / seconds);
  }
}

}  // namespace

void AddGenerateCommand(CLI::App& app) {
  auto options = std::make_shared<GenerateCommandOptions>();
  CLI::App* command = app.add_subcommand("generate", "continue a prompt");
  AddModelSourceOptions(command, &options->source);
  command->add_option("--prompt", options->prompt, "text to continue")->required();
  command->add_option("--tokenizer", options->tokenizer,
                      "tokenizer.json (default: the one beside the model)");
  command->add_option("--max-tokens", options->max_tokens, "tokens to add at most")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_option("--temperature", options->temperature, "0 = always the most likely token")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 100.0));
  command->add_option("--top-k", options->top_k, "keep the k most likely tokens; 0 = all")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  command->add_option("--top-p", options->top_p, "keep the smallest set with this probability")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1.0));
  command->add_option("--seed", options->seed, "same seed, same text")->capture_default_str();
  command->add_flag("--ignore-eod", options->ignore_eod, "go on after the end of a document");
  command->add_flag("--json", options->json, "print {\"tokens\": [...], \"text\": ...}");
  command->footer(
      "Example:\n  sepia generate --model runs/my-run --prompt \"In the beginning\" --max-tokens "
      "100");
  command->final_callback([options] { RunGenerate(*options); });
}

}  // namespace sepia::tools
