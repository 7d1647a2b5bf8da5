// Commands on models, against what Hugging Face computed and against each other.
#include <algorithm>
#include <cmath>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/buffer.h"
#include "base/file.h"
#include "checkpoint/safetensors.h"
#include "tests/e2e/sepia_process.h"
#include "tests/support/shared_fixtures.h"
#include "tests/support/temp_dir.h"

namespace sepia::testing {
namespace {

using checkpoint::SafetensorsEntry;
using checkpoint::SafetensorsFile;
using nlohmann::json;
using Words = std::vector<std::string>;

Words Joined(Words words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

std::vector<float> Floats(const SafetensorsFile& file, const std::string& name) {
  const SafetensorsEntry& entry = file.Get(name);
  std::vector<float> values(static_cast<size_t>(entry.shape.num_elements()));
  file.ReadFloats(entry, values);
  return values;
}

// The line of JSON in an output that has remarks as well.
json JsonLine(const std::string& output) {
  std::istringstream lines(output);
  for (std::string line; std::getline(lines, line);) {
    if (line[0] == '{') return json::parse(line);
  }
  ADD_FAILURE() << "no JSON in: " << output;
  return {};
}

void Probe(const std::string& model, const std::string& tokens, const std::string& out,
           const Words& set = {}) {
  Words words = {"probe", "--model", model, "--tokens", tokens, "--out", out};
  for (const std::string& assignment : set) words = Joined(words, {"--set", assignment});
  const ProcessResult result = RunSepia(words);
  ASSERT_EQ(result.code, 0) << result.output;
}

double RelativeL2(const std::vector<float>& ours, const std::vector<float>& reference) {
  EXPECT_EQ(ours.size(), reference.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < reference.size(); ++i) {
    difference += std::pow(double{ours[i]} - double{reference[i]}, 2);
    norm += std::pow(double{reference[i]}, 2);
  }
  return std::sqrt(difference / norm);
}

struct ProbeCase {
  const char* model;
  const char* name;
  Words set;
  // Of every tensor, by L2. FP32: the bound. BF16: 2^-8 a rounding, about 6 rounded
  // tensors a layer forward and as many backward with random signs: 2^-8 sqrt(12 layers).
  double bound;
};

TEST(Probe, EqualsHuggingFace) {
  SEPIA_SHARED_OR_SKIP(fixtures, "fixtures/models");
  const double bf16_of_3_layers = 0x1p-8 * 6;
  const std::vector<ProbeCase> cases = {
      {"tiny_erf", "full", {}, 2e-5},
      {"tiny_tanh",
       "sep_n8_H",
       {"model.attention.kind=SEP", "model.attention.window=8", "model.attention.full_layers=[0]"},
       2e-5},
      {"hd80",
       "sep_n8_H",
       {"model.attention.kind=SEP", "model.attention.window=8", "model.attention.full_layers=[0]"},
       2e-5},
      {"tiny_tanh",
       "sep_n8_H",
       {"model.attention.kind=SEP", "model.attention.window=8", "model.attention.full_layers=[0]",
        "precision=BF16"},
       bf16_of_3_layers}};
  const TempDir dir;
  for (const ProbeCase& probe : cases) {
    SCOPED_TRACE(std::string(probe.model) + " " + probe.name);
    const std::string folder = fixtures + "/" + probe.model;
    const std::string reference_path = folder + "/" + probe.name + ".safetensors";
    const Words set = probe.bound < 1e-4 ? Joined(probe.set, {"precision=FP32"}) : probe.set;
    Probe(folder, reference_path, dir.File("out"), set);
    const SafetensorsFile ours(dir.File("out")), reference(reference_path);
    int compared = 0;
    for (const SafetensorsEntry& entry : reference.entries()) {
      const bool judged =
          entry.name == "logits" || entry.name == "loss" || entry.name.starts_with("grad.");
      // Key biases have no gradient: model tests judge the parts of qkv apart.
      if (!judged || entry.name.ends_with("query_key_value.bias")) continue;
      EXPECT_LE(RelativeL2(Floats(ours, entry.name), Floats(reference, entry.name)), probe.bound)
          << entry.name;
      ++compared;
    }
    EXPECT_GT(compared, 20);
  }
}

TEST(Convert, RoundTripsBitForBit) {
  SEPIA_SHARED_OR_SKIP(curves, "fixtures/curves");
  const TempDir dir;
  const auto convert = [](const std::string& from, const std::string& to, const char* format) {
    const ProcessResult result = RunSepia({"convert", from, to, "--to", format});
    EXPECT_EQ(result.code, 0) << result.output;
  };
  convert(curves + "/trained", dir.File("sepia"), "sepia");
  convert(dir.File("sepia"), dir.File("hf"), "hf");
  convert(dir.File("hf"), dir.File("tensors"), "tensors");
  EXPECT_EQ(RunSepia({"checkpoint", "diff", curves + "/trained", dir.File("hf")}).code, 0);
  EXPECT_EQ(RunSepia({"checkpoint", "verify", dir.File("sepia"), "--deep"}).code, 0);
  EXPECT_EQ(RunSepia({"checkpoint", "diff", curves + "/init", dir.File("hf")}).code, 65);
  const SafetensorsFile original(curves + "/trained/model.safetensors");
  const SafetensorsFile tensors(dir.File("tensors"));
  for (const SafetensorsEntry& entry : original.entries()) {
    const SafetensorsEntry& ours = tensors.Get("weight." + entry.name);
    EXPECT_TRUE(std::ranges::equal(ours.bytes, entry.bytes)) << entry.name;
  }
  // What exists is kept.
  const ProcessResult again =
      RunSepia({"convert", dir.File("sepia"), dir.File("hf"), "--to", "hf"});
  EXPECT_EQ(again.code, 2) << again.output;
}

void WriteIds(const std::string& path, std::vector<int32_t> tokens) {
  const Shape shape = {1, static_cast<int64_t>(tokens.size())};
  const ConstTensorView view(tokens.data(), DType::kInt32, shape);
  const std::vector<checkpoint::SafetensorsTensor> tensors = {{"tokens", view}};
  checkpoint::WriteSafetensors(path, tensors);
}

// The cache of far keys in the decoder against the whole sequence at once. Compared where the
// likeliest token leads by more than fp32 can confuse.
TEST(Generate, GreedyIsTheArgmaxOfProbe) {
  SEPIA_SHARED_OR_SKIP(curves, "fixtures/curves");
  const TempDir dir;
  const Words set = {"model.attention.kind=SEP", "model.attention.window=4", "precision=FP32"};
  Words words = {"generate",
                 "--model",
                 curves + "/trained",
                 "--tokenizer",
                 curves + "/tokenizer.json",
                 "--prompt",
                 "It was, as I said, the. old; house",
                 "--max-tokens",
                 "12",
                 "--temperature",
                 "0",
                 "--ignore-eod",
                 "--json"};
  for (const std::string& assignment : set) words = Joined(words, {"--set", assignment});
  const ProcessResult result = RunSepia(words);
  ASSERT_EQ(result.code, 0) << result.output;
  const std::vector<int32_t> added = JsonLine(result.output)["tokens"];
  ASSERT_EQ(added.size(), 12);
  const ProcessResult encoded =
      RunSepia({"tokenizer", "encode", "--tokenizer", curves + "/tokenizer.json"},
               {.input = "It was, as I said, the. old; house\n"});
  std::vector<int32_t> tokens = json::parse(encoded.output);
  const size_t prompt = tokens.size();
  tokens.insert(tokens.end(), added.begin(), added.end());
  WriteIds(dir.File("tokens"), tokens);
  Probe(curves + "/trained", dir.File("tokens"), dir.File("out"), set);
  const std::vector<float> logits = Floats(SafetensorsFile(dir.File("out")), "logits");
  const size_t vocab = logits.size() / tokens.size();
  for (size_t i = 0; i < added.size(); ++i) {
    const auto row = logits.begin() + static_cast<ptrdiff_t>((prompt + i - 1) * vocab);
    const float most = *std::max_element(row, row + static_cast<ptrdiff_t>(vocab));
    EXPECT_NEAR(row[added[i]], most, 1e-4) << "token " << i;
  }
}

TEST(Eval, LossIsTheLossOfProbe) {
  SEPIA_SHARED_OR_SKIP(curves, "fixtures/curves");
  const TempDir dir;
  const Words set = {"--set", "precision=FP32", "--set", "model.attention.kind=SEP"};
  const ProcessResult result =
      RunSepia(Joined({"eval", "--model", curves + "/trained", "--data", curves + "/data", "--seq",
                       "256", "--max-samples", "1", "--json"},
                      set));
  ASSERT_EQ(result.code, 0) << result.output;
  const json eval = JsonLine(result.output);
  EXPECT_EQ(eval["tokens"], 256);
  const double loss = eval["loss"];
  EXPECT_NEAR(eval["perplexity"].get<double>(), std::exp(loss), 1e-9 * std::exp(loss));

  // Item 0 of the dataset: 257 tokens of uint16.
  const std::string bytes = ReadFile(curves + "/data.bin").substr(0, 2 * 257);
  std::vector<int32_t> tokens, targets;
  for (size_t i = 0; i < 257; ++i) {
    const int32_t id =
        static_cast<uint8_t>(bytes[2 * i]) + 256 * static_cast<uint8_t>(bytes[2 * i + 1]);
    if (i < 256) tokens.push_back(id);
    if (i > 0) targets.push_back(id);
  }
  const std::vector<checkpoint::SafetensorsTensor> tensors = {
      {"tokens", ConstTensorView(tokens.data(), DType::kInt32, {1, 256})},
      {"targets", ConstTensorView(targets.data(), DType::kInt32, {1, 256})}};
  checkpoint::WriteSafetensors(dir.File("tokens"), tensors);
  Probe(curves + "/trained", dir.File("tokens"), dir.File("out"),
        {"precision=FP32", "model.attention.kind=SEP"});
  // probe stores fp32.
  EXPECT_NEAR(Floats(SafetensorsFile(dir.File("out")), "loss")[0], loss, 1e-6 * loss);
}

}  // namespace
}  // namespace sepia::testing
