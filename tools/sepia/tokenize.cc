// sepia tokenize: text files to a .bin/.idx dataset.
#include <memory>
#include <string>

#include "base/error.h"
#include "base/log.h"
#include "data/indexed_dataset.h"
#include "data/tokenizer/corpus_tokenizer.h"
#include "tools/sepia/command.h"
#include "tools/sepia/corpus_options.h"

namespace sepia::tools {
namespace {

struct TokenizeCommand {
  std::string tokenizer;
  std::string out;
  std::string eod_token = "<|endoftext|>";
  bool append_eod = false;
  bool drop_empty = false;
  CorpusArguments corpus;
};

int32_t EodId(const data::Tokenizer& tokenizer, const TokenizeCommand& command) {
  const std::optional<int32_t> id = tokenizer.IdOf(command.eod_token);
  if (id.has_value()) return *id;
  throw UserError(
      fmt::format("{}: has no token \"{}\" for --append-eod: name another with "
                  "--eod-token",
                  command.tokenizer, command.eod_token));
}

void RunTokenize(const TokenizeCommand& command) {
  const data::Tokenizer tokenizer = data::Tokenizer::Load(command.tokenizer);
  data::CorpusReader reader(command.corpus.inputs, command.corpus.options);
  data::TokenizeOptions options{.num_threads = command.corpus.NumWorkers(),
                                .eod_id = std::nullopt,
                                .drop_empty = command.drop_empty};
  if (command.append_eod) options.eod_id = EodId(tokenizer, command);
  data::IndexedDatasetWriter writer(command.out, data::TokenDTypeFor(tokenizer.vocab_size()));
  data::CorpusProgress total;
  double seconds = 0;
  {
    ProgressLine line("tokenize", reader.total_file_bytes());
    total = data::TokenizeCorpus(
        tokenizer, reader, options,
        [&](std::span<const int32_t> document) { writer.AddDocument(document); },
        [&](const data::CorpusProgress& now) { line.Show(now.file_bytes, now.text_bytes); });
    seconds = line.Seconds();
  }
  if (total.num_documents == 0) {
    throw UserError(ExitCode::kBadData, "the input holds no text: nothing was written");
  }
  writer.Finish();
  LogInfo("{}: {} documents, {} tokens from {:.1f} MB of text in {} ({:.1f} MB/s)", command.out,
          total.num_documents, total.num_tokens, static_cast<double>(total.text_bytes) / 1e6,
          FormatDuration(seconds), static_cast<double>(total.text_bytes) / 1e6 / seconds);
  if (total.num_empty > 0) {
    LogInfo("{} documents without text were {}", total.num_empty,
            command.append_eod && !command.drop_empty ? "written as a lone end-of-document token"
                                                      : "dropped");
  }
}

}  // namespace

void AddTokenizeCommand(CLI::App& app) {
  auto options = std::make_shared<TokenizeCommand>();
  CLI::App* command =
      app.add_subcommand("tokenize", "turn .txt and .jsonl files into a .bin/.idx dataset");
  command->add_option("--tokenizer", options->tokenizer, "a Hugging Face tokenizer.json")
      ->required();
  command->add_option("--out", options->out, "writes OUT.bin and OUT.idx")->required();
  command->add_flag("--append-eod", options->append_eod,
                    "put the end-of-document token behind every document");
  command->add_option("--eod-token", options->eod_token,
                      "the end-of-document token (default: <|endoftext|>)");
  command->add_flag("--drop-empty", options->drop_empty,
                    "drop documents without text (GPT-NeoX does); otherwise --append-eod makes "
                    "them a lone end-of-document token");
  options->corpus.AddTo(*command);
  command->footer(
      "The order of the documents does not depend on the number of workers. OUT.bin and OUT.idx\n"
      "appear complete or not at all.\n\n"
      "Example:\n"
      "  sepia tokenize --tokenizer tokenizer.json --append-eod --out pile/train part-*.jsonl.zst");
  command->final_callback([options] { RunTokenize(*options); });
}

}  // namespace sepia::tools
