// sepia bench tokenizer: how fast text becomes ids.
#include <algorithm>
#include <atomic>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "data/tokenizer/nfc.h"
#include "data/tokenizer/tokenizer.h"
#include "tools/sepia/bench.h"

namespace sepia::tools {
namespace {

struct BenchTokenizerCommand {
  std::string tokenizer;
  std::string text;
  int threads = 1;
  int repetitions = 5;
};

// Pieces of about equal size that end at line ends, for several threads.
std::vector<std::string_view> CutAtLines(std::string_view text, size_t num_pieces) {
  std::vector<std::string_view> pieces;
  const size_t wanted = text.size() / num_pieces + 1;
  while (!text.empty()) {
    const size_t end = text.size() <= wanted ? std::string_view::npos : text.find('\n', wanted);
    const size_t length = end == std::string_view::npos ? text.size() : end + 1;
    pieces.push_back(text.substr(0, length));
    text.remove_prefix(length);
  }
  return pieces;
}

void CheckRoundTrip(const data::Tokenizer& tokenizer, const std::string& text) {
  std::string buffer;
  std::string expected(tokenizer.spec().normalize_nfc ? data::NormalizeNfc(text, buffer) : text);
  const std::string decoded = tokenizer.DecodeBytes(tokenizer.Encode(text));
  if (tokenizer.spec().add_prefix_space && !expected.starts_with(' ')) expected.insert(0, " ");
  if (decoded != expected) {
    throw UserError(ExitCode::kBadData, "decoding the ids does not give the text back");
  }
}

// Seconds and number of ids for encoding all pieces once.
std::pair<double, int64_t> EncodeOnce(const data::Tokenizer& tokenizer,
                                      const std::vector<std::string_view>& pieces, int threads) {
  std::atomic<size_t> next = 0;
  std::atomic<int64_t> num_ids = 0;
  const Timer timer;
  const auto work = [&] {
    data::Encoder encoder(tokenizer);
    std::vector<int32_t> ids;
    for (size_t i = next++; i < pieces.size(); i = next++) {
      ids.clear();
      encoder.Encode(pieces[i], ids);
      num_ids += static_cast<int64_t>(ids.size());
    }
  };
  std::vector<std::jthread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(work);
  work();
  others.clear();
  return {timer.Seconds(), num_ids};
}

void RunBenchTokenizer(const BenchTokenizerCommand& command) {
  const data::Tokenizer tokenizer = data::Tokenizer::Load(command.tokenizer);
  const std::string text = ReadFile(command.text);
  if (text.empty()) throw BadData(command.text, -1, "empty", "name a text of some megabytes");
  CheckRoundTrip(tokenizer, text);
  const auto threads = static_cast<size_t>(command.threads);
  const auto pieces = CutAtLines(text, threads == 1 ? 1 : 8 * threads);
  std::vector<double> seconds;
  int64_t num_ids = 0;
  for (int i = 0; i < command.repetitions; ++i) {
    const auto [elapsed, count] = EncodeOnce(tokenizer, pieces, command.threads);
    seconds.push_back(elapsed);
    num_ids = count;
  }
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  const nlohmann::ordered_json result = {
      {"bench", "tokenizer"},
      {"threads", command.threads},
      {"bytes", text.size()},
      {"tokens", num_ids},
      {"median_s", median},
      {"min_s", seconds.front()},
      {"mb_per_s", static_cast<double>(text.size()) / 1e6 / median},
      {"tokens_per_s", static_cast<double>(num_ids) / median},
      {"round_trip", true},
  };
  std::cout << result.dump() << std::endl;
}

}  // namespace

void AddBenchTokenizerCommand(CLI::App& bench) {
  auto options = std::make_shared<BenchTokenizerCommand>();
  CLI::App* command = bench.add_subcommand("tokenizer", "speed of encoding a text");
  command->add_option("--tokenizer", options->tokenizer, "a Hugging Face tokenizer.json")
      ->required();
  command->add_option("--text", options->text, "a UTF-8 text file")->required();
  command->add_option("--threads", options->threads, "threads (default: 1)")
      ->check(CLI::Range(1, 1024));
  command->add_option("--repetitions", options->repetitions, "the median is reported (default: 5)")
      ->check(CLI::Range(1, 1000));
  command->footer(
      "Decodes the ids and compares with the text before anything is timed.\n\n"
      "Example:\n  sepia bench tokenizer --tokenizer tokenizer.json --text book.txt --threads 2");
  command->final_callback([options] { RunBenchTokenizer(*options); });
}

}  // namespace sepia::tools
