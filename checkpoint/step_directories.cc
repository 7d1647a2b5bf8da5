#include "checkpoint/step_directories.h"

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "base/directory.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/manifest.h"
#include "checkpoint/reader.h"

namespace sepia::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "step_";
constexpr std::string_view kTemporary = ".tmp-";
constexpr std::string_view kTrash = ".trash-";
constexpr std::string_view kDamaged = ".damaged-";
constexpr std::string_view kHint = "LATEST";
constexpr std::string_view kKeepMark = "KEEP";

bool IsLeftover(std::string_view name) {
  if (name.starts_with(kTrash))
    return ParseStepDirectoryName(name.substr(kTrash.size())).has_value();
  const size_t mark = name.find(kTemporary);
  if (mark == std::string_view::npos) return false;
  const std::string_view stem = name.substr(0, mark);
  return stem == kHint || ParseStepDirectoryName(stem).has_value();
}

std::vector<fs::path> Entries(const std::string& root) {
  std::vector<fs::path> paths;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(root, error)) paths.push_back(entry.path());
  if (error && error != std::errc::no_such_file_or_directory) {
    throw BadData(root, -1, fmt::format("cannot list: {}", error.message()),
                  "check the path and its permissions");
  }
  return paths;
}

// All step directories, highest step first, unchecked.
std::vector<Candidate> ListSteps(const std::string& root) {
  std::vector<Candidate> steps;
  for (const fs::path& path : Entries(root)) {
    const auto step = ParseStepDirectoryName(path.filename().string());
    if (step && fs::is_directory(path)) steps.push_back({path.string(), *step, ""});
  }
  std::sort(steps.begin(), steps.end(),
            [](const Candidate& a, const Candidate& b) { return a.step > b.step; });
  return steps;
}

bool IsLogSpaced(int64_t step) { return step <= 512 && (step & (step - 1)) == 0; }

}  // namespace

std::string StepDirectoryName(int64_t step) {
  CHECK(step >= 0);
  return fmt::format("{}{:08}", kPrefix, step);
}

std::optional<int64_t> ParseStepDirectoryName(std::string_view name) {
  if (!name.starts_with(kPrefix)) return std::nullopt;
  const std::string_view digits = name.substr(kPrefix.size());
  int64_t step = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), step);
  // One spelling a number, so that no step can have two directories.
  if (error != std::errc() || step < 0 || name != StepDirectoryName(step)) return std::nullopt;
  return step;
}

std::vector<Candidate> FindCheckpoints(const std::string& root) {
  std::vector<Candidate> candidates = ListSteps(root);
  for (Candidate& candidate : candidates) {
    try {
      const CheckpointReader reader(candidate.path);
      if (reader.step() != candidate.step) {
        candidate.fault =
            fmt::format("{}: holds step {}; give it its name back", candidate.path, reader.step());
      }
    } catch (const UserError& error) {
      candidate.fault = error.what();
    }
  }
  return candidates;
}

std::optional<std::string> NewestCheckpoint(const std::string& root) {
  const std::vector<Candidate> candidates = FindCheckpoints(root);
  if (candidates.empty()) {
    for (const fs::path& path : Entries(root)) {
      const std::string name = path.filename().string();
      if (IsLeftover(name) || name == kHint) continue;
      throw BadData(root, -1, fmt::format("holds no checkpoint, but '{}'", name),
                    "give an empty directory, or one with step_N directories");
    }
    return std::nullopt;
  }
  if (candidates.front().fault.empty()) return candidates.front().path;
  const auto good = std::find_if(candidates.begin(), candidates.end(),
                                 [](const Candidate& c) { return c.fault.empty(); });
  std::string message = candidates.front().fault;
  if (good == candidates.end()) {
    message += fmt::format("; {} holds no other checkpoint that can be loaded", root);
  } else {
    message += fmt::format("; to continue from {}, train with --fallback-to-older or move {} away",
                           good->path, candidates.front().path);
  }
  throw UserError(ExitCode::kBadData, message);
}

void RemoveCheckpoint(const std::string& path) {
  const std::string root = DirectoryOf(path);
  const std::string trash =
      fmt::format("{}/{}{}", root, kTrash, fs::path(path).filename().string());
  RemoveTree(trash);
  RenameNoReplace(path, trash);
  SyncDirectory(root);
  RemoveTree(trash);
}

std::string SetAside(const std::string& path) {
  const std::string root = DirectoryOf(path);
  const std::string name =
      fmt::format("{}/{}{}", root, kDamaged, fs::path(path).filename().string());
  std::string target = name;
  for (int i = 2; FileExists(target); ++i) target = fmt::format("{}-{}", name, i);
  RenameNoReplace(path, target);
  SyncDirectory(root);
  return target;
}

void ApplyRetention(const std::string& root, const Retention& retention, int64_t newest) {
  if (retention.keep_last <= 0) return;
  int kept = 0;
  for (const Candidate& candidate : ListSteps(root)) {
    try {
      if (ReadCommittedStep(candidate.path) != candidate.step) continue;
    } catch (const UserError&) {
      continue;  // not ours to remove
    }
    const bool for_good =
        FileExists(fmt::format("{}/{}", candidate.path, kKeepMark)) ||
        (retention.keep_every > 0 && candidate.step % retention.keep_every == 0) ||
        (retention.keep_log_spaced && IsLogSpaced(candidate.step));
    if (kept++ < retention.keep_last || for_good || candidate.step == newest) continue;
    RemoveCheckpoint(candidate.path);
    LogDebug("removed {}", candidate.path);
  }
}

void SweepLeftovers(const std::string& root) {
  for (const fs::path& path : Entries(root)) {
    if (!IsLeftover(path.filename().string())) continue;
    RemoveTree(path);
    LogInfo("removed {}, left by an interrupted save", path.string());
  }
}

}  // namespace sepia::checkpoint
