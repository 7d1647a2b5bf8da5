#include "data/tokenizer/tokenizer.h"

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "data/tokenizer/added_token_matcher.h"
#include "data/tokenizer/byte_alphabet.h"
#include "data/tokenizer/byte_pair_encoder.h"
#include "data/tokenizer/nfc.h"
#include "data/tokenizer/pre_tokenizer.h"
#include "data/tokenizer/tokenizer_json.h"
#include "base/utf8.h"
#include "data/tokenizer/word_cache.h"

namespace sepia::data {

struct Tokenizer::Parts {
  explicit Parts(TokenizerSpec the_spec) : spec(std::move(the_spec)), bpe(spec) {
    for (const AddedToken& token : spec.added_tokens) {
      if (token.special) special_ids.push_back(token.id);
      if (!token.normalized) {
        raw_tokens.Add(token.text, token.id);
      } else if (spec.normalize_nfc) {
        std::string buffer;
        normalized_tokens.Add(NormalizeNfc(token.text, buffer), token.id);
      } else {
        normalized_tokens.Add(token.text, token.id);
      }
    }
    std::sort(special_ids.begin(), special_ids.end());
  }

  TokenizerSpec spec;
  BytePairEncoder bpe;
  PreTokenizer pre_tokenizer;
  AddedTokenMatcher raw_tokens;         // looked for in the raw text
  AddedTokenMatcher normalized_tokens;  // looked for in the normalized text
  std::vector<int32_t> special_ids;     // sorted
};

Tokenizer Tokenizer::Load(const std::string& path) {
  Tokenizer tokenizer(ParseTokenizerJson(ReadFile(path, kMaxTokenizerJsonBytes), path));
  if (const int missing = tokenizer.parts_->bpe.num_missing_bytes(); missing > 0) {
    LogWarn("{}: {} of the bytes of UTF-8 have no token; they are left out of encoded text", path,
            missing);
  }
  return tokenizer;
}

Tokenizer::Tokenizer(TokenizerSpec spec) : parts_(std::make_shared<Parts>(std::move(spec))) {}

const TokenizerSpec& Tokenizer::spec() const { return parts_->spec; }

std::vector<int32_t> Tokenizer::Encode(std::string_view text) const {
  std::vector<int32_t> ids;
  Encoder(*this).Encode(text, ids);
  return ids;
}

std::string Tokenizer::DecodeBytes(std::span<const int32_t> ids, bool skip_special) const {
  std::string bytes;
  for (const int32_t id : ids) {
    if (skip_special && IsSpecial(id)) continue;
    const std::string& text = TokenText(id);
    bytes += SymbolsToBytes(text).value_or(text);
  }
  return bytes;
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special) const {
  return ReplaceInvalidUtf8(DecodeBytes(ids, skip_special));
}

std::optional<int32_t> Tokenizer::IdOf(std::string_view token_text) const {
  const int32_t id = spec().vocabulary.Find(token_text);
  return id == Vocabulary::kNone ? std::nullopt : std::optional(id);
}

std::optional<int32_t> Tokenizer::SingleTokenId(std::string_view text) const {
  const std::vector<int32_t> ids = Encode(text);
  return ids.size() == 1 ? std::optional(ids[0]) : std::nullopt;
}

bool Tokenizer::IsSpecial(int32_t id) const {
  return std::binary_search(parts_->special_ids.begin(), parts_->special_ids.end(), id);
}

struct Encoder::State {
  BytePairEncoder::Scratch bpe;
  PreTokenizer::Scratch pre_tokenizer;
  WordCache cache;
  std::string nfc_buffer;
  std::string prefixed;
};

Encoder::Encoder(const Tokenizer& tokenizer)
    : tokenizer_(tokenizer), state_(std::make_unique<State>()) {}
Encoder::~Encoder() = default;
Encoder::Encoder(Encoder&&) noexcept = default;
Encoder& Encoder::operator=(Encoder&&) noexcept = default;

namespace {

// Calls between(piece) for the text around matches and on_token(id) for matches, in order.
template <typename Between, typename OnToken>
void CutAtTokens(const AddedTokenMatcher& matcher, std::string_view text, const Between& between,
                 const OnToken& on_token) {
  size_t begin = 0;
  while (begin < text.size()) {
    const AddedTokenMatcher::Match match = matcher.Find(text, begin);
    if (match.begin > begin) between(text.substr(begin, match.begin - begin));
    if (match.length == 0) return;
    on_token(match.id);
    begin = match.begin + match.length;
  }
}

}  // namespace

void Encoder::Encode(std::string_view text, std::vector<int32_t>& ids) {
  constexpr size_t kMaxBytes = std::numeric_limits<int32_t>::max() / 4;  // NFC at most triples
  if (text.size() > kMaxBytes) {
    throw UserError(ExitCode::kBadData,
                    fmt::format("a text of {} bytes is too long to encode at once (at most {}): "
                                "split it into documents",
                                text.size(), kMaxBytes));
  }
  if (const size_t bad = FirstInvalidUtf8(text); bad != text.size()) {
    throw UserError(ExitCode::kBadData,
                    fmt::format("the text is not UTF-8 at byte {}: replace what is wrong, or "
                                "convert it from its encoding",
                                bad));
  }
  CutAtTokens(
      tokenizer_.parts_->raw_tokens, text, [&](std::string_view piece) { EncodePiece(piece, ids); },
      [&](int32_t id) { ids.push_back(id); });
}

void Encoder::EncodePiece(std::string_view piece, std::vector<int32_t>& ids) {
  if (tokenizer_.spec().normalize_nfc) piece = NormalizeNfc(piece, state_->nfc_buffer);
  CutAtTokens(
      tokenizer_.parts_->normalized_tokens, piece,
      [&](std::string_view words) { EncodeWords(words, ids); },
      [&](int32_t id) { ids.push_back(id); });
}

void Encoder::EncodeWords(std::string_view text, std::vector<int32_t>& ids) {
  const TokenizerSpec& spec = tokenizer_.spec();
  if (spec.add_prefix_space && text[0] != ' ') {
    state_->prefixed.assign(1, ' ').append(text);
    text = state_->prefixed;
  }
  if (!spec.use_regex) return EncodeWord(text, ids);
  const PreTokenizer& pre_tokenizer = tokenizer_.parts_->pre_tokenizer;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = pre_tokenizer.WordEnd(text, begin, state_->pre_tokenizer);
    EncodeWord(text.substr(begin, end - begin), ids);
    begin = end;
  }
}

void Encoder::EncodeWord(std::string_view word, std::vector<int32_t>& ids) {
  const BytePairEncoder& bpe = tokenizer_.parts_->bpe;
  if (word.size() > WordCache::kMaxWordBytes) return bpe.Encode(word, state_->bpe, ids);
  if (const auto cached = state_->cache.Find(word); !cached.empty()) {
    ids.insert(ids.end(), cached.begin(), cached.end());
    return;
  }
  const size_t before = ids.size();
  bpe.Encode(word, state_->bpe, ids);
  state_->cache.Insert(std::span(ids).subspan(before));
}

}  // namespace sepia::data
