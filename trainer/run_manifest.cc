#include "trainer/run_manifest.h"

#include <unistd.h>

#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/file.h"
#include "trainer/process.h"

namespace sepia::trainer {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMaxBytes = int64_t{16} << 20;

// A file that a person broke is replaced, not a reason to stop a run.
Json ReadManifest(const std::string& path) {
  if (!FileExists(path)) return Json::object();
  Json json = Json::parse(ReadFile(path, kMaxBytes), nullptr, /*allow_exceptions=*/false);
  return json.is_object() ? json : Json::object();
}

Json Build() {
  return {{"version", SEPIA_VERSION},
          {"compiler", fmt::format("{} {}", SEPIA_COMPILER, __VERSION__)},
          {"build_type", SEPIA_BUILD_TYPE},
          {"fmt", FMT_VERSION}};
}

Json Start(const RunManifest& manifest) {
  return {{"time", FormatUtc(WallSeconds())},
          {"command", CommandLine()},
          {"host", HostName()},
          {"process", getpid()},
          {"first_step", manifest.first_step},
          {"ranks", manifest.ranks},
          {"threads", manifest.threads},
          {"attention_isa", manifest.attention_isa},
          {"config_sha256", manifest.config_sha256},
          {"build", Build()}};
}

}  // namespace

void WriteRunManifest(const std::string& path, const RunManifest& manifest) {
  const Json old = ReadManifest(path);
  Json starts = Json::array();
  if (manifest.first_step > 0 && old.contains("starts") && old["starts"].is_array()) {
    starts = old["starts"];
  }
  starts.push_back(Start(manifest));
  const Json json = {
      {"schema", 1},
      {"seed", manifest.seed},
      {"numerics", manifest.numerics},
      {"precision", manifest.precision},
      {"parameters", manifest.parameters},
      {"data", {{"train", manifest.train_fingerprint}, {"valid", manifest.valid_fingerprint}}},
      {"starts", starts}};
  WriteFileAtomic(path, json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace sepia::trainer
