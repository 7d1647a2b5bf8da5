#include <set>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "data/tokenizer/json_settings.h"
#include "data/tokenizer/tokenizer_json.h"

namespace sepia::data {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxDepth = 16;
constexpr size_t kMaxKeyBytes = 4096;
// One added token; the matcher walks at most this far at each position of a text.
constexpr size_t kMaxAddedTokenBytes = 256;
constexpr size_t kMaxAddedTokensBytes = size_t{1} << 20;

// For messages: quoted, control characters escaped, not too long.
std::string Quoted(std::string_view text) {
  std::string shown =
      Json(std::string(text.substr(0, 60))).dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > 60) shown += "...";
  return shown;
}

// Merges are kept as text until the whole file is read: `vocab` may come after `merges`.
struct MergeTexts {
  std::string texts;  // all left and right parts, one behind the other
  std::vector<std::pair<uint32_t, uint32_t>> lengths;
};

// Collects the file's values. nlohmann's parser does not recurse, and this does not either.
class Handler : public nlohmann::json_sax<Json> {
 public:
  explicit Handler(const std::string& file) : settings(file), file_(file) {}

  bool null() override { return OnScalar(nullptr); }
  bool boolean(bool value) override { return OnScalar(value); }
  bool number_integer(number_integer_t value) override { return OnScalar(int64_t{value}); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > INT64_MAX) return OnScalar(static_cast<double>(value));
    return OnScalar(static_cast<int64_t>(value));
  }
  bool number_float(number_float_t value, const string_t&) override { return OnScalar(value); }
  bool string(string_t& value) override { return OnScalar(std::move(value)); }
  bool binary(binary_t&) override { return false; }

  bool key(string_t& key) override;
  bool start_object(size_t) override { return Begin(/*array=*/false); }
  bool start_array(size_t) override { return Begin(/*array=*/true); }
  bool end_object() override { return End(); }
  bool end_array() override { return End(); }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    throw BadData(file_, static_cast<int64_t>(position), "not valid JSON in UTF-8",
                  "the file is damaged or no JSON");
  }

  JsonSettings settings;  // every scalar outside the three tables below
  Vocabulary vocabulary;
  MergeTexts merges;
  std::vector<AddedToken> added_tokens;

 private:
  enum class Section { kSettings, kVocab, kMerges, kMergePair, kAddedTokens, kAddedToken };

  struct Frame {
    size_t path_length;  // of the container's own path
    std::set<std::string> keys;
  };

  bool OnScalar(JsonSettings::Value value);
  bool Begin(bool array);
  bool End();
  void AddVocabularyEntry(const JsonSettings::Value& value);
  void AddMergeText(const std::string& text);
  void FinishMergePair();
  void FinishAddedToken();
  [[noreturn]] void Refuse(const std::string& reason) const {
    throw BadData(file_, -1, path_ + ": " + reason);
  }

  std::string file_;
  std::string path_;  // of the value that comes next
  std::vector<Frame> frames_;
  Section section_ = Section::kSettings;
  std::string token_;              // kVocab: the key
  std::vector<std::string> pair_;  // kMergePair
  JsonSettings token_fields_{""};  // kAddedToken
  size_t num_containers_ = 0;
  size_t added_bytes_ = 0;
};

bool Handler::key(string_t& key) {
  if (key.size() > kMaxKeyBytes) Refuse("a key of " + std::to_string(key.size()) + " bytes");
  if (section_ == Section::kVocab) {
    token_ = std::move(key);  // Vocabulary finds duplicates
    return true;
  }
  Frame& frame = frames_.back();
  path_.resize(frame.path_length);
  if (key.find_first_of(".[") != std::string::npos) Refuse("unknown key " + Quoted(key));
  if (!path_.empty()) path_ += '.';
  path_ += key;
  if (!frame.keys.insert(std::move(key)).second) Refuse("appears twice");
  return true;
}

bool Handler::Begin(bool array) {
  constexpr size_t kMaxContainers = 1000;
  if (frames_.size() >= kMaxDepth) Refuse("nested too deeply");
  if (frames_.empty() && array) Refuse("the top level must be an object");
  switch (section_) {
    case Section::kSettings:
      if (++num_containers_ > kMaxContainers) Refuse("more objects than any tokenizer has");
      if (path_ == "model.vocab" && !array) section_ = Section::kVocab;
      if (path_ == "model.merges" && array) section_ = Section::kMerges;
      if (path_ == "added_tokens" && array) section_ = Section::kAddedTokens;
      if (array && section_ == Section::kSettings) path_ += "[]";
      break;
    case Section::kMerges:
      if (!array) Refuse("must hold \"a b\" strings or [\"a\", \"b\"] pairs");
      section_ = Section::kMergePair;
      break;
    case Section::kAddedTokens:
      if (array) Refuse("must hold objects");
      section_ = Section::kAddedToken;
      path_ = "added_tokens[" + std::to_string(added_tokens.size()) + "]";
      token_fields_ = JsonSettings(file_);
      break;
    default: Refuse("must be a plain value");
  }
  frames_.push_back({path_.size(), {}});
  return true;
}

bool Handler::End() {
  path_.resize(frames_.back().path_length);
  frames_.pop_back();
  switch (section_) {
    case Section::kMergePair:
      FinishMergePair();
      section_ = Section::kMerges;
      break;
    case Section::kAddedToken:
      FinishAddedToken();
      section_ = Section::kAddedTokens;
      path_ = "added_tokens";
      break;
    default: section_ = Section::kSettings;
  }
  return true;
}

bool Handler::OnScalar(JsonSettings::Value value) {
  if (frames_.empty()) Refuse("the top level must be an object");
  const auto* text = std::get_if<std::string>(&value);
  switch (section_) {
    case Section::kSettings: settings.Put(path_, std::move(value)); break;
    case Section::kVocab: AddVocabularyEntry(value); break;
    case Section::kMerges: {
      const size_t space = text == nullptr ? std::string::npos : text->find(' ');
      if (space == std::string::npos || text->find(' ', space + 1) != std::string::npos) {
        Refuse("merge " + std::to_string(merges.lengths.size()) +
               " must be two tokens and a space");
      }
      pair_ = {text->substr(0, space), text->substr(space + 1)};
      FinishMergePair();
      break;
    }
    case Section::kMergePair:
      if (text == nullptr || pair_.size() == 2) Refuse("a merge must be two strings");
      pair_.push_back(*text);
      break;
    case Section::kAddedTokens: Refuse("must hold objects");
    case Section::kAddedToken: token_fields_.Put(path_, std::move(value)); break;
  }
  return true;
}

void Handler::AddVocabularyEntry(const JsonSettings::Value& value) {
  const auto* id = std::get_if<int64_t>(&value);
  if (id == nullptr || *id < 0 || *id >= Vocabulary::kMaxSize) {
    Refuse("the id of " + Quoted(token_) + " must be an integer from 0 to " +
           std::to_string(Vocabulary::kMaxSize - 1));
  }
  if (token_.empty()) Refuse("an empty token");
  switch (vocabulary.Add(static_cast<int32_t>(*id), token_)) {
    case Vocabulary::AddResult::kAdded: break;
    case Vocabulary::AddResult::kTextTaken: Refuse("token " + Quoted(token_) + " appears twice");
    case Vocabulary::AddResult::kIdTaken:
      Refuse("id " + std::to_string(*id) + " belongs to two tokens, the second is " +
             Quoted(token_));
  }
}

void Handler::FinishMergePair() {
  if (pair_.size() != 2 || pair_[0].empty() || pair_[1].empty()) {
    Refuse("merge " + std::to_string(merges.lengths.size()) + " must be two tokens");
  }
  if (merges.lengths.size() >= static_cast<size_t>(Vocabulary::kMaxSize)) Refuse("too many merges");
  merges.texts += pair_[0];
  merges.texts += pair_[1];
  merges.lengths.emplace_back(pair_[0].size(), pair_[1].size());
  pair_.clear();
}

void Handler::FinishAddedToken() {
  const auto name = [&](const char* field) { return path_ + "." + field; };
  const int64_t id = token_fields_.TakeInteger(name("id"));
  const std::string text = token_fields_.TakeString(name("content"));
  if (id < 0 || id >= Vocabulary::kMaxSize) Refuse("id out of range");
  if (text.empty() || text.size() > kMaxAddedTokenBytes) {
    Refuse("content must have 1 to " + std::to_string(kMaxAddedTokenBytes) + " bytes");
  }
  added_bytes_ += text.size();
  if (added_bytes_ > kMaxAddedTokensBytes)
    Refuse("the added tokens are longer than 1 MiB together");
  for (const char* field : {"single_word", "lstrip", "rstrip"}) {
    if (token_fields_.TakeBool(name(field), false)) {
      token_fields_.Refuse(name(field), "true is not supported");
    }
  }
  const bool special = token_fields_.TakeBool(name("special"), false);
  const bool normalized = token_fields_.TakeBool(name("normalized"), !special);
  token_fields_.Finish();
  added_tokens.push_back({static_cast<int32_t>(id), text, special, normalized, false});
}

// Components are objects {"type": ..., fields}, or null.
void TakeByteLevel(JsonSettings& settings, const std::string& component) {
  const std::string type = settings.TakeString(component + ".type", "none");
  if (type != "ByteLevel") {
    settings.Refuse(component, Quoted(type) + " is not supported", "Sepia knows ByteLevel");
  }
  settings.Ignore(component + ".trim_offsets");
}

void TakePipeline(JsonSettings& settings, TokenizerSpec& spec) {
  settings.Ignore("version");
  settings.TakeNull("truncation");
  settings.TakeNull("padding");
  settings.Ignore("normalizer");
  const std::string normalizer = settings.TakeString("normalizer.type", "none");
  if (normalizer != "none" && normalizer != "NFC") {
    settings.Refuse("normalizer", Quoted(normalizer) + " is not supported",
                    "Sepia knows NFC and null");
  }
  spec.normalize_nfc = normalizer == "NFC";

  settings.Ignore("pre_tokenizer");
  TakeByteLevel(settings, "pre_tokenizer");
  spec.add_prefix_space = settings.TakeBool("pre_tokenizer.add_prefix_space", true);
  spec.use_regex = settings.TakeBool("pre_tokenizer.use_regex", true);

  // The ByteLevel post-processor moves offsets only, which Sepia does not report.
  settings.Ignore("post_processor");
  if (settings.TakeString("post_processor.type", "ByteLevel") != "ByteLevel") {
    settings.Refuse("post_processor", "only ByteLevel and null are supported: others add tokens");
  }
  settings.Ignore("decoder");
  TakeByteLevel(settings, "decoder");
  for (const char* component : {"post_processor", "decoder"}) {
    for (const char* field : {".add_prefix_space", ".trim_offsets", ".use_regex"}) {
      settings.Ignore(std::string(component) + field);
    }
  }
}

void TakeModel(JsonSettings& settings) {
  const std::string type = settings.TakeString("model.type", "none");
  if (type != "BPE") {
    settings.Refuse("model.type", Quoted(type) + " is not supported", "Sepia knows BPE");
  }
  settings.TakeNull("model.dropout");
  settings.TakeNull("model.unk_token");
  for (const char* name : {"model.continuing_subword_prefix", "model.end_of_word_suffix"}) {
    if (!settings.TakeString(name, "").empty()) settings.Refuse(name, "is not supported");
  }
  for (const char* name : {"model.byte_fallback", "model.ignore_merges"}) {
    if (settings.TakeBool(name, false)) settings.Refuse(name, "true is not supported");
  }
  settings.Ignore("model.fuse_unk");  // without an unknown token there is nothing to fuse
}

void AddMerges(const MergeTexts& merges, const std::string& file, TokenizerSpec& spec) {
  const Vocabulary& vocabulary = spec.vocabulary;
  spec.merges.reserve(merges.lengths.size());
  std::string_view rest = merges.texts;
  for (const auto& [left_length, right_length] : merges.lengths) {
    const std::string_view both = rest.substr(0, left_length + right_length);
    const Merge merge{vocabulary.Find(both.substr(0, left_length)),
                      vocabulary.Find(both.substr(left_length)), vocabulary.Find(both)};
    for (const int32_t id : {merge.left, merge.right, merge.result}) {
      if (id != Vocabulary::kNone) continue;
      throw BadData(file, -1,
                    fmt::format("model.merges: merge {} ({} and {}) needs tokens that are not in "
                                "model.vocab",
                                spec.merges.size(), Quoted(both.substr(0, left_length)),
                                Quoted(both.substr(left_length))));
    }
    spec.merges.push_back(merge);
    rest.remove_prefix(both.size());
  }
}

void AddAddedTokens(std::vector<AddedToken> tokens, const std::string& file, TokenizerSpec& spec) {
  for (AddedToken& token : tokens) {
    token.in_model = spec.vocabulary.Find(token.text) == token.id;
  }
  std::set<int32_t> ids;
  for (AddedToken& token : tokens) {
    const bool is_new = ids.insert(token.id).second;
    if (!is_new || (!token.in_model &&
                    spec.vocabulary.Add(token.id, token.text) != Vocabulary::AddResult::kAdded)) {
      throw BadData(file, -1,
                    fmt::format("added_tokens: {} with id {} contradicts another entry",
                                Quoted(token.text), token.id));
    }
    spec.added_tokens.push_back(std::move(token));
  }
}

}  // namespace

TokenizerSpec ParseTokenizerJson(std::string_view json, const std::string& path) {
  if (static_cast<int64_t>(json.size()) > kMaxTokenizerJsonBytes) {
    throw BadData(path, -1, fmt::format("{} bytes are too many for a tokenizer", json.size()));
  }
  Handler handler(path);
  Json::sax_parse(json.begin(), json.end(), &handler);
  TokenizerSpec spec;
  TakePipeline(handler.settings, spec);
  TakeModel(handler.settings);
  handler.settings.Finish();
  spec.vocabulary = std::move(handler.vocabulary);
  if (spec.vocabulary.size() == 0) throw BadData(path, -1, "model.vocab is missing or empty");
  AddMerges(handler.merges, path, spec);
  AddAddedTokens(std::move(handler.added_tokens), path, spec);
  return spec;
}

}  // namespace sepia::data
