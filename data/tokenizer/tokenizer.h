// Byte-level BPE with the ids of Hugging Face tokenizers.
//
//   const Tokenizer tokenizer = Tokenizer::Load("20B_tokenizer.json");
//   std::vector<int32_t> ids = tokenizer.Encode("Hello, world");
//
// Encoding, in this order: raw text is cut at added tokens that are not `normalized` (special
// ones); the pieces are brought to NFC, cut at the other added tokens (leftmost, longest), split
// into words by GPT-2's pattern and encoded by merging. Decoding concatenates; what is not UTF-8
// becomes U+FFFD.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/tokenizer_spec.h"

namespace sepia::data {

// Immutable, cheap to copy, thread-safe.
class Tokenizer {
 public:
  // From a tokenizer.json. Throws UserError(kBadData) with the field that is wrong.
  static Tokenizer Load(const std::string& path);
  explicit Tokenizer(TokenizerSpec spec);

  // Throws UserError(kBadData) with the offset if `text` is not UTF-8 (ReplaceInvalidUtf8 in utf8.h
  // mends it). For many texts an Encoder a thread is several times faster.
  std::vector<int32_t> Encode(std::string_view text) const;

  // Ids that the tokenizer does not know are dropped, as are special tokens with `skip_special`.
  // Always valid UTF-8.
  std::string Decode(std::span<const int32_t> ids, bool skip_special = false) const;
  // The same without repair: the bytes that the ids stand for. What Encode is the inverse of for
  // text in NFC.
  std::string DecodeBytes(std::span<const int32_t> ids, bool skip_special = false) const;

  // Largest id + 1: what a model's vocabulary must cover.
  int32_t vocab_size() const { return spec().vocabulary.size(); }
  // Token text as in the file ("Ġthe", "<|endoftext|>"); "" for an id without token.
  const std::string& TokenText(int32_t id) const { return spec().vocabulary.Text(id); }
  // The id of a token text as in the file.
  std::optional<int32_t> IdOf(std::string_view token_text) const;
  // The id of plain text that is exactly one token: "," or "\n". Nothing if it encodes to several.
  std::optional<int32_t> SingleTokenId(std::string_view text) const;
  bool IsSpecial(int32_t id) const;

  // Everything in the file, for exporters.
  const TokenizerSpec& spec() const;

 private:
  friend class Encoder;
  struct Parts;
  std::shared_ptr<const Parts> parts_;
};

// Encodes one text after another, with a cache of words. One a thread.
class Encoder {
 public:
  explicit Encoder(const Tokenizer& tokenizer);
  ~Encoder();
  Encoder(Encoder&&) noexcept;
  Encoder& operator=(Encoder&&) noexcept;

  // Appends the ids of `text` to `ids`; see Tokenizer::Encode.
  void Encode(std::string_view text, std::vector<int32_t>& ids);

 private:
  struct State;
  void EncodePiece(std::string_view piece, std::vector<int32_t>& ids);
  void EncodeWords(std::string_view text, std::vector<int32_t>& ids);
  void EncodeWord(std::string_view word, std::vector<int32_t>& ids);

  Tokenizer tokenizer_;
  std::unique_ptr<State> state_;
};

}  // namespace sepia::data
