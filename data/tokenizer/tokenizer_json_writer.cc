#include <map>

#include <nlohmann/json.hpp>

#include "data/tokenizer/tokenizer_json.h"

namespace sepia::data {
namespace {

using Json = nlohmann::ordered_json;

Json ByteLevel(const TokenizerSpec& spec) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", spec.add_prefix_space},
          {"trim_offsets", true},
          {"use_regex", spec.use_regex}};
}

Json AddedTokens(const TokenizerSpec& spec) {
  Json list = Json::array();
  for (const AddedToken& token : spec.added_tokens) {
    list.push_back({{"id", token.id},
                    {"content", token.text},
                    {"single_word", false},
                    {"lstrip", false},
                    {"rstrip", false},
                    {"normalized", token.normalized},
                    {"special", token.special}});
  }
  return list;
}

Json Model(const TokenizerSpec& spec) {
  std::vector<bool> outside(static_cast<size_t>(spec.vocabulary.size()), false);
  for (const AddedToken& token : spec.added_tokens) {
    if (!token.in_model) outside[static_cast<size_t>(token.id)] = true;
  }
  // The keys are unique, which push_back of pairs relies on (operator[] of ordered_json is a
  // linear search).
  Json::object_t vocab;
  for (int32_t id = 0; id < spec.vocabulary.size(); ++id) {
    if (!spec.vocabulary.Has(id) || outside[static_cast<size_t>(id)]) continue;
    vocab.push_back({spec.vocabulary.Text(id), id});
  }
  Json merges = Json::array();
  for (const Merge& merge : spec.merges) {
    merges.push_back(spec.vocabulary.Text(merge.left) + " " + spec.vocabulary.Text(merge.right));
  }
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", nullptr},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", false},
          {"byte_fallback", false},
          {"ignore_merges", false},
          {"vocab", std::move(vocab)},
          {"merges", std::move(merges)}};
}

}  // namespace

std::string FormatTokenizerJson(const TokenizerSpec& spec) {
  const Json root = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", AddedTokens(spec)},
      {"normalizer", spec.normalize_nfc ? Json{{"type", "NFC"}} : Json(nullptr)},
      {"pre_tokenizer", ByteLevel(spec)},
      {"post_processor", ByteLevel(spec)},
      {"decoder", ByteLevel(spec)},
      {"model", Model(spec)},
  };
  return root.dump(2) + "\n";
}

}  // namespace sepia::data
