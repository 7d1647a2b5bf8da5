// Commands that run a model, under mpirun: the results of one process.
#include <cmath>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "checkpoint/safetensors.h"
#include "tests/e2e/sepia_process.h"
#include "tests/e2e/tiny_run.h"
#include "tests/support/shared_fixtures.h"

namespace sepia::testing {
namespace {

using Tensors = std::map<std::string, std::vector<float>>;

Tensors ReadTensors(const std::string& path) {
  const checkpoint::SafetensorsFile file(path);
  Tensors tensors;
  for (const checkpoint::SafetensorsEntry& entry : file.entries()) {
    std::vector<float>& values = tensors[entry.name];
    values.resize(static_cast<size_t>(entry.shape.num_elements()));
    file.ReadFloats(entry, values);
  }
  return tensors;
}

double RelativeL2(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(double{a[i]} - b[i], 2);
    norm += std::pow(double{b[i]}, 2);
  }
  return std::sqrt(difference / norm);
}

// What is printed on stdout lies between what mpirun and the log say.
nlohmann::json JsonLine(const std::string& output) {
  const size_t begin = output.find('{');
  return nlohmann::json::parse(output.substr(begin, output.find('\n', begin) - begin));
}

// Logits and full-shape gradients; rows shared out over data ranks, four of them for two rows.
TEST(MpiProbe, GivesTheFileOfOneProcess) {
  SEPIA_SHARED_OR_SKIP(folder, "fixtures/models/tiny_tanh");
  const TempDir dir;
  const auto probe = [&](int ranks, int tensor, bool sequence) {
    const std::string out = dir.File(fmt::format("{}x{}{}", ranks, tensor, sequence));
    const ProcessResult result =
        RunSepia({"probe", "--model", folder, "--tokens", folder + "/sep_n8.safetensors", "--out",
                  out, "--set", "model.attention.kind=SEP", "--set", "model.attention.window=8",
                  "--set", fmt::format("parallel.tensor={}", tensor), "--set",
                  fmt::format("parallel.sequence={}", sequence), "--set", "threads=1"},
                 {.ranks = ranks});
    EXPECT_EQ(result.code, 0) << result.output;
    return ReadTensors(out);
  };
  const Tensors one = probe(0, 1, false);
  using Case = std::tuple<int, int, bool>;
  for (const auto& [ranks, tensor, sequence] :
       {Case(2, 2, false), Case(4, 2, false), Case(4, 1, false), Case(4, 2, true)}) {
    SCOPED_TRACE(fmt::format("{} ranks, tensor {}, sequence {}", ranks, tensor, sequence));
    const Tensors several = probe(ranks, tensor, sequence);
    ASSERT_EQ(several.size(), one.size());
    for (const auto& [name, values] : one) {
      ASSERT_EQ(several.at(name).size(), values.size()) << name;
      if (name.ends_with("query_key_value.bias")) continue;  // its key part is rounding noise
      EXPECT_LE(RelativeL2(several.at(name), values), 1e-5) << name;  // model/layout_test.cc
    }
  }
}

TEST(MpiEval, GivesTheLossOfOneProcess) {
  const TinyRun run;
  ASSERT_EQ(RunSepia(run.Train("model", {"--steps", "2"})).code, 0);
  const auto eval = [&](int ranks, int tensor) {
    const ProcessResult result =
        RunSepia({"eval", "--model", run.RunDir("model"), "--data", run.File("data"), "--json",
                  "--set", fmt::format("parallel.tensor={}", tensor), "--set", "threads=1"},
                 {.ranks = ranks});
    EXPECT_EQ(result.code, 0) << result.output;
    return JsonLine(result.output);
  };
  const nlohmann::json one = eval(0, 1);
  for (const auto& [ranks, tensor] : {std::pair(2, 2), std::pair(3, 1)}) {
    const nlohmann::json several = eval(ranks, tensor);
    EXPECT_EQ(several["tokens"], one["tokens"]);
    EXPECT_NEAR(several["loss"].get<double>(), one["loss"].get<double>(), 1e-5);
  }
}

}  // namespace
}  // namespace sepia::testing
