// sepia tokenizer train|encode|decode.
#include <cerrno>
#include <iostream>
#include <memory>
#include <string>

#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "data/tokenizer/bpe_trainer.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/tokenizer_json.h"
#include "tools/sepia/command.h"
#include "tools/sepia/corpus_options.h"

namespace sepia::tools {
namespace {

using Json = nlohmann::json;

struct TrainTokenizerCommand {
  std::string out;
  data::BpeTrainerOptions trainer;
  CorpusArguments corpus;
};

struct EncodeCommand {
  std::string tokenizer;
  bool json_lines = false;
  std::string file;
  std::string out;
  data::CorpusOptions text;
};

struct DecodeCommand {
  std::string tokenizer;
  bool skip_special = false;
};

void RunTrainTokenizer(const TrainTokenizerCommand& command) {
  data::CorpusReader reader(command.corpus.inputs, command.corpus.options);
  data::WordCounts counts;
  {
    ProgressLine line("count words", reader.total_file_bytes());
    counts = data::CountCorpusWords(reader, command.corpus.NumWorkers(),
                                    [&](int64_t file_bytes) { line.Show(file_bytes, file_bytes); });
  }
  if (counts.empty()) throw UserError(ExitCode::kBadData, "the input holds no text to learn from");
  const data::TokenizerSpec spec = data::TrainBpe(counts, command.trainer);
  WriteFileAtomic(command.out, data::FormatTokenizerJson(spec));
  LogInfo("{}: {} entries, {} merges from {} distinct words", command.out, spec.vocabulary.size(),
          spec.merges.size(), counts.size());
  if (spec.vocabulary.size() < command.trainer.vocab_size) {
    LogWarn("the text has no more pairs{}: {} entries instead of {}",
            command.trainer.min_frequency > 1 ? " that are frequent enough" : "",
            spec.vocabulary.size(), command.trainer.vocab_size);
  }
}

void PrintLine(const std::string& line) {
  std::cout << line << '\n';
  if (!std::cout) throw CannotWrite("standard output", errno);
}

std::string MendedText(std::string text, const std::string& name, int64_t line,
                       const EncodeCommand& command) {
  data::RawDocument document{&name, command.json_lines, line, 0, std::move(text)};
  return data::DocumentText(std::move(document), command.text).value_or("");
}

void EncodeFile(const data::Tokenizer& tokenizer, const EncodeCommand& command) {
  const std::string text = MendedText(ReadFile(command.file), command.file, 1, command);
  const std::vector<int32_t> ids = tokenizer.Encode(text);
  if (command.out.empty()) return PrintLine(fmt::format("[{}]", fmt::join(ids, ",")));
  const auto write = [&](const auto& values) {
    const auto bytes = std::as_bytes(std::span(values));
    WriteFileAtomic(command.out, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  };
  constexpr int32_t kUint16Values = 1 << 16;
  if (tokenizer.vocab_size() <= kUint16Values) {
    write(std::vector<uint16_t>(ids.begin(), ids.end()));
  } else {
    write(std::vector<uint32_t>(ids.begin(), ids.end()));
  }
}

void RunEncode(const EncodeCommand& command) {
  const data::Tokenizer tokenizer = data::Tokenizer::Load(command.tokenizer);
  if (!command.file.empty()) return EncodeFile(tokenizer, command);
  data::Encoder encoder(tokenizer);
  std::vector<int32_t> ids;
  int64_t number = 0;
  for (std::string line; std::getline(std::cin, line);) {
    ids.clear();
    ++number;
    // Errors in JSON lines name the line themselves.
    const std::string name =
        command.json_lines ? "standard input" : fmt::format("standard input:{}", number);
    encoder.Encode(MendedText(std::move(line), name, number, command), ids);
    PrintLine(fmt::format("[{}]", fmt::join(ids, ",")));
  }
}

std::vector<int32_t> ParseIds(const std::string& line, int64_t number, int32_t vocab_size) {
  const Json ids = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  const auto is_id = [](const Json& id) {
    return id.is_number_unsigned() && id.get<uint64_t>() <= INT32_MAX;
  };
  if (!ids.is_array() || !std::all_of(ids.begin(), ids.end(), is_id)) {
    throw BadData(fmt::format("standard input:{}", number), -1, "not a JSON array of token ids",
                  "write a line as [510, 4022]");
  }
  for (const Json& id : ids) {
    if (id.get<int32_t>() < vocab_size) continue;
    throw BadData(
        fmt::format("standard input:{}", number), -1,
        fmt::format("token id {} is outside the vocabulary of {}", id.get<int32_t>(), vocab_size),
        "use the tokenizer that the ids were made with");
  }
  return ids.get<std::vector<int32_t>>();
}

void RunDecode(const DecodeCommand& command) {
  const data::Tokenizer tokenizer = data::Tokenizer::Load(command.tokenizer);
  int64_t number = 0;
  for (std::string line; std::getline(std::cin, line);) {
    const std::vector<int32_t> ids = ParseIds(line, ++number, tokenizer.vocab_size());
    PrintLine(Json(tokenizer.Decode(ids, command.skip_special)).dump());
  }
}

void AddTrain(CLI::App& tokenizer) {
  auto options = std::make_shared<TrainTokenizerCommand>();
  CLI::App* command = tokenizer.add_subcommand("train", "learn a byte-level BPE vocabulary");
  command
      ->add_option("--vocab-size", options->trainer.vocab_size,
                   "entries, special tokens and the 256 bytes included")
      ->required();
  command->add_option("--out", options->out, "the tokenizer.json to write")->required();
  command
      ->add_option("--min-frequency", options->trainer.min_frequency,
                   "stop when the most frequent pair is rarer than this (default: 0)")
      ->check(CLI::NonNegativeNumber);
  command
      ->add_option("--special-token", options->trainer.special_tokens,
                   "repeatable; ids from 0 (default: <|endoftext|> <|padding|>)")
      ->allow_extra_args(false);
  options->corpus.AddTo(*command);
  command->footer(
      "The same texts give the same file, whatever their order and the number of workers.\n\n"
      "Example:\n  sepia tokenizer train --vocab-size 4096 --out tokenizer.json books/*.txt");
  command->final_callback([options] { RunTrainTokenizer(*options); });
}

void AddEncode(CLI::App& tokenizer) {
  auto options = std::make_shared<EncodeCommand>();
  CLI::App* command =
      tokenizer.add_subcommand("encode", "text to ids: a line in, a JSON array a line out");
  command->add_option("--tokenizer", options->tokenizer, "a Hugging Face tokenizer.json")
      ->required();
  CLI::Option* json_lines = command->add_flag("--jsonl", options->json_lines,
                                              "lines are JSON objects that hold the text");
  command->add_option("--json-key", options->text.json_key, "key of the text (default: text)")
      ->needs(json_lines);
  CLI::Option* file =
      command->add_option("--file", options->file, "encode this file as one text instead of lines");
  command
      ->add_option("--out", options->out,
                   "with --file: write little-endian uint16 ids (uint32 above 65,536 entries)")
      ->needs(file);
  file->excludes(json_lines);
  AddOnInvalidUtf8(*command, options->text.on_invalid_utf8);
  command->footer(
      "Examples:\n"
      "  echo 'Hello, world' | sepia tokenizer encode --tokenizer tokenizer.json\n"
      "  sepia tokenizer encode --tokenizer tokenizer.json --file book.txt --out book.u16");
  command->final_callback([options] { RunEncode(*options); });
}

void AddDecode(CLI::App& tokenizer) {
  auto options = std::make_shared<DecodeCommand>();
  CLI::App* command =
      tokenizer.add_subcommand("decode", "ids to text: a JSON array a line in, a JSON string out");
  command->add_option("--tokenizer", options->tokenizer, "a Hugging Face tokenizer.json")
      ->required();
  command->add_flag("--skip-special", options->skip_special, "leave special tokens out");
  command->footer(
      "Example:\n  echo '[12092, 13, 1533]' | sepia tokenizer decode --tokenizer tokenizer.json");
  command->final_callback([options] { RunDecode(*options); });
}

}  // namespace

void AddTokenizerCommand(CLI::App& app) {
  CLI::App* command = app.add_subcommand("tokenizer", "train and use byte-level BPE tokenizers");
  command->require_subcommand(1);
  command->footer(
      "Example:\n  echo 'Hello, world' | sepia tokenizer encode --tokenizer tokenizer.json");
  AddTrain(*command);
  AddEncode(*command);
  AddDecode(*command);
}

}  // namespace sepia::tools
