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

struct Options {
  std::string tokenizer;
  std::string text;
  std::vector<int> threads = {1};
  int repeats = 5;
  bool paced = false;
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

// One line of the result, while it is being measured.
struct Case {
  int num_threads;
  std::vector<std::string_view> pieces;
  std::vector<double> seconds = {};
  int64_t num_ids = 0;

  // Every thread takes the next piece until none is left, as `sepia tokenize` does with documents.
  double MeasureOnce(const data::Tokenizer& tokenizer) {
    std::atomic<size_t> next = 0;
    std::atomic<int64_t> ids_made = 0;
    const Timer timer;
    const auto work = [&] {
      data::Encoder encoder(tokenizer);
      std::vector<int32_t> ids;
      for (size_t i = next++; i < pieces.size(); i = next++) {
        ids.clear();
        encoder.Encode(pieces[i], ids);
        ids_made += static_cast<int64_t>(ids.size());
      }
    };
    std::vector<std::jthread> others;
    for (int i = 1; i < num_threads; ++i) others.emplace_back(work);
    work();
    others.clear();
    seconds.push_back(timer.Seconds());
    num_ids = ids_made;
    return seconds.back();
  }
};

void RunBenchTokenizer(const Options& o) {
  const data::Tokenizer tokenizer = data::Tokenizer::Load(o.tokenizer);
  const std::string text = ReadFile(o.text);
  if (text.empty()) throw BadData(o.text, -1, "empty", "name a text of some megabytes");
  CheckRoundTrip(tokenizer, text);
  std::vector<Case> cases;
  for (const int threads : o.threads) {
    const auto num_pieces = static_cast<size_t>(threads == 1 ? 1 : 8 * threads);
    cases.push_back({threads, CutAtLines(text, num_pieces)});
  }
  RunRounds(o.repeats, o.paced, cases.size(), [&] {
    std::vector<double> seconds;
    for (Case& c : cases) seconds.push_back(c.MeasureOnce(tokenizer));
    return seconds;
  });
  for (const Case& c : cases) {
    const Spread spread = Summarize(c.seconds);
    const nlohmann::ordered_json result = {
        {"bench", "tokenizer"},
        {"threads", c.num_threads},
        {"bytes", text.size()},
        {"tokens", c.num_ids},
        {"median_s", spread.median},
        {"min_s", spread.min},
        {"max_s", spread.max},
        {"mb_per_s", static_cast<double>(text.size()) / 1e6 / spread.median},
        {"tokens_per_s", static_cast<double>(c.num_ids) / spread.median},
        {"round_trip", true},
    };
    std::cout << result.dump() << std::endl;
  }
}

}  // namespace

void AddBenchTokenizerCommand(CLI::App& bench) {
  auto o = std::make_shared<Options>();
  CLI::App* command = bench.add_subcommand("tokenizer", "speed of encoding a text");
  command->add_option("--tokenizer", o->tokenizer, "a Hugging Face tokenizer.json")->required();
  command->add_option("--text", o->text, "a UTF-8 text file")->required();
  AddThreadsOption(*command, o->threads);
  AddRepeatsOption(*command, o->repeats);
  AddPacedOption(*command, o->paced);
  command->footer(
      "Decodes the ids and compares with the text before anything is timed. --threads takes a\n"
      "list: the numbers run in turn, a line each.\n\n"
      "Example:\n  sepia bench tokenizer --tokenizer tokenizer.json --text book.txt --threads 1,2");
  command->final_callback([o] { RunBenchTokenizer(*o); });
}

}  // namespace sepia::tools
