#include "data/tokenizer/bpe_trainer.h"

#include <algorithm>
#include <queue>
#include <set>

#include "base/check.h"
#include "base/error.h"
#include "data/tokenizer/byte_alphabet.h"
#include "data/tokenizer/nfc.h"
#include "data/tokenizer/ordered_pipeline.h"
#include "data/tokenizer/pre_tokenizer.h"
#include "base/utf8.h"

namespace sepia::data {
namespace {

struct Word {
  std::vector<int32_t> ids;
  int64_t count;
};

struct Pair {
  int32_t left;
  int32_t right;

  friend bool operator==(const Pair&, const Pair&) = default;
  friend auto operator<=>(const Pair&, const Pair&) = default;
};

struct PairHash {
  size_t operator()(const Pair& pair) const {
    const uint64_t both = static_cast<uint64_t>(static_cast<uint32_t>(pair.left)) << 32 |
                          static_cast<uint32_t>(pair.right);
    return static_cast<size_t>((both * 0x9E3779B97F4A7C15u) >> 16);
  }
};

struct PairUse {
  int64_t count = 0;
  std::vector<int32_t> words;  // where it occurs, or has occurred; may repeat
};

// A pair as it was counted at some time. The heap keeps stale ones; they are checked when popped.
struct Candidate {
  int64_t count;
  Pair pair;

  // Whether the other comes first: larger counts, then smaller pairs.
  friend bool operator<(const Candidate& a, const Candidate& b) {
    return a.count != b.count ? a.count < b.count : b.pair < a.pair;
  }
};

class Trainer {
 public:
  Trainer(const WordCounts& counts, const BpeTrainerOptions& options) : options_(options) {
    AddSpecialTokens();
    AddAlphabet(counts);
    AddWords(counts);
  }

  TokenizerSpec Run();

 private:
  void AddSpecialTokens();
  void AddAlphabet(const WordCounts& counts);
  void AddWords(const WordCounts& counts);
  bool PopBest(Pair& best);
  int32_t TokenOf(const Pair& pair);
  void MergeEverywhere(const Pair& pair, int32_t result);
  int32_t Append(const std::string& text);

  const BpeTrainerOptions& options_;
  TokenizerSpec spec_;
  std::vector<Word> words_;
  std::unordered_map<Pair, PairUse, PairHash> pairs_;
  std::priority_queue<Candidate> candidates_;
};

int32_t Trainer::Append(const std::string& text) {
  const int32_t id = spec_.vocabulary.size();
  CHECK(spec_.vocabulary.Add(id, text) == Vocabulary::AddResult::kAdded, "{}", text);
  return id;
}

void Trainer::AddSpecialTokens() {
  for (const std::string& text : options_.special_tokens) {
    constexpr size_t kMaxBytes = 256;
    if (text.empty() || text.size() > kMaxBytes || FirstInvalidUtf8(text) != text.size()) {
      throw UserError(
          fmt::format("special token \"{}\": must be UTF-8 of 1 to {} bytes", text, kMaxBytes));
    }
    if (spec_.vocabulary.Find(text) != Vocabulary::kNone) {
      throw UserError(fmt::format("special token \"{}\" is given twice", text));
    }
    spec_.added_tokens.push_back({Append(text), text, /*special=*/true, /*normalized=*/false,
                                  /*in_model=*/true});
  }
}

void Trainer::AddAlphabet(const WordCounts& counts) {
  std::set<char32_t> symbols;
  if (options_.all_bytes) {
    for (int byte = 0; byte < 256; ++byte) symbols.insert(SymbolOfByte(static_cast<uint8_t>(byte)));
  } else {
    for (const auto& [word, count] : counts) {
      for (const char byte : word) symbols.insert(SymbolOfByte(static_cast<uint8_t>(byte)));
    }
  }
  for (const char32_t symbol : symbols) {
    std::string text;
    AppendUtf8(symbol, text);
    if (spec_.vocabulary.Find(text) == Vocabulary::kNone) Append(text);
  }
  if (options_.vocab_size < spec_.vocabulary.size() || options_.vocab_size > Vocabulary::kMaxSize) {
    throw UserError(fmt::format(
        "a vocabulary of {} entries: special tokens and alphabet take {}, and {} are the most",
        options_.vocab_size, spec_.vocabulary.size(), Vocabulary::kMaxSize));
  }
}

void Trainer::AddWords(const WordCounts& counts) {
  std::array<int32_t, 256> ids{};
  for (size_t byte = 0; byte < ids.size(); ++byte) {
    std::string symbol;
    AppendUtf8(SymbolOfByte(static_cast<uint8_t>(byte)), symbol);
    ids[byte] = spec_.vocabulary.Find(symbol);
  }
  words_.reserve(counts.size());
  for (const auto& [text, count] : counts) {
    Word word{{}, count};
    for (const char byte : text) word.ids.push_back(ids[static_cast<uint8_t>(byte)]);
    const auto index = static_cast<int32_t>(words_.size());
    for (size_t i = 0; i + 1 < word.ids.size(); ++i) {
      PairUse& use = pairs_[{word.ids[i], word.ids[i + 1]}];
      use.count += count;
      if (use.words.empty() || use.words.back() != index) use.words.push_back(index);
    }
    words_.push_back(std::move(word));
  }
  for (const auto& [pair, use] : pairs_) candidates_.push({use.count, pair});
}

// The pair with the largest count; false if none is left that is frequent enough.
bool Trainer::PopBest(Pair& best) {
  while (!candidates_.empty()) {
    const Candidate top = candidates_.top();
    candidates_.pop();
    const int64_t count = pairs_.at(top.pair).count;
    if (count != top.count) {  // it has become rarer; it is in the heap again if more frequent
      if (count > 0 && count < top.count) candidates_.push({count, top.pair});
      continue;
    }
    if (count < 1 || count < options_.min_frequency) return false;
    best = top.pair;
    return true;
  }
  return false;
}

int32_t Trainer::TokenOf(const Pair& pair) {
  const std::string text = spec_.vocabulary.Text(pair.left) + spec_.vocabulary.Text(pair.right);
  const int32_t known = spec_.vocabulary.Find(text);
  return known != Vocabulary::kNone ? known : Append(text);
}

void ReplacePair(const Pair& pair, int32_t result, std::vector<int32_t>& ids) {
  size_t out = 0;
  for (size_t i = 0; i < ids.size(); ++out) {
    const bool match = i + 1 < ids.size() && ids[i] == pair.left && ids[i + 1] == pair.right;
    ids[out] = match ? result : ids[i];
    i += match ? 2 : 1;
  }
  ids.resize(out);
}

void Trainer::MergeEverywhere(const Pair& pair, int32_t result) {
  const std::vector<int32_t> affected = std::move(pairs_.at(pair).words);
  std::set<Pair> grown;
  for (const int32_t index : affected) {
    Word& word = words_[static_cast<size_t>(index)];
    const size_t length = word.ids.size();
    std::vector<int32_t> before = word.ids;
    ReplacePair(pair, result, word.ids);
    if (word.ids.size() == length) continue;
    for (size_t i = 0; i + 1 < before.size(); ++i) {
      pairs_.at({before[i], before[i + 1]}).count -= word.count;
    }
    for (size_t i = 0; i + 1 < word.ids.size(); ++i) {
      const Pair now{word.ids[i], word.ids[i + 1]};
      PairUse& use = pairs_[now];
      use.count += word.count;
      // Only pairs with the new token are new here; the others are listed already.
      if (now.left != result && now.right != result) continue;
      use.words.push_back(index);
      grown.insert(now);
    }
  }
  for (const Pair& candidate : grown) {
    candidates_.push({pairs_.at(candidate).count, candidate});
  }
}

TokenizerSpec Trainer::Run() {
  Pair best{};
  while (spec_.vocabulary.size() < options_.vocab_size && PopBest(best)) {
    const int32_t result = TokenOf(best);
    spec_.merges.push_back({best.left, best.right, result});
    MergeEverywhere(best, result);
  }
  spec_.normalize_nfc = true;
  return std::move(spec_);
}

// Splits texts into words and counts them, for one thread.
class WordCounter {
 public:
  void Count(std::string_view text, WordCounts& counts) {
    text = NormalizeNfc(text, buffer_);
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = pre_tokenizer_.WordEnd(text, begin, scratch_);
      word_.assign(text.substr(begin, end - begin));
      ++counts[word_];
      begin = end;
    }
  }

 private:
  PreTokenizer pre_tokenizer_;
  PreTokenizer::Scratch scratch_;
  std::string buffer_;
  std::string word_;
};

}  // namespace

void CountWords(std::string_view text, WordCounts& counts) { WordCounter().Count(text, counts); }

WordCounts CountCorpusWords(CorpusReader& reader, int num_threads,
                            const std::function<void(int64_t file_bytes)>& report) {
  struct ChunkWords {
    WordCounts counts;
    int64_t file_bytes;
  };
  WordCounts total;
  const auto make_worker = [&reader] {
    auto counter = std::make_shared<WordCounter>();
    return [&reader, counter](CorpusChunk& chunk) {
      ChunkWords words{{}, chunk.file_bytes};
      for (RawDocument& document : chunk.documents) {
        const auto text = DocumentText(std::move(document), reader.options());
        if (text.has_value()) counter->Count(*text, words.counts);
      }
      return words;
    };
  };
  const auto add = [&](ChunkWords& words) {
    for (const auto& [word, count] : words.counts) total[word] += count;
    report(words.file_bytes);
  };
  OrderedPipeline<ChunkWords>(reader, make_worker, add).Run(num_threads);
  return total;
}

TokenizerSpec TrainBpe(const WordCounts& counts, const BpeTrainerOptions& options) {
  return Trainer(counts, options).Run();
}

}  // namespace sepia::data
