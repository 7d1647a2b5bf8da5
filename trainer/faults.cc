#include "trainer/faults.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <iterator>
#include <sstream>
#include <thread>

#include <fmt/core.h>

#include "base/error.h"
#include "base/log.h"

namespace sepia::trainer {
namespace {

constexpr const char* kVariable = "SEPIA_FAULT";
constexpr std::string_view kKinds[] = {"kill", "stop", "crash", "hang", "slow",
                                       "skip", "nan",  "inf",   "flip"};

// The phase at whose beginning a fault strikes when none is given.
std::string_view UsualPhase(std::string_view kind) {
  if (kind == "nan" || kind == "inf") return "gradients";
  return kind == "flip" ? "update" : "data";
}

[[noreturn]] void NotUnderstood(std::string_view word) {
  throw UserError(
      fmt::format("{}: \"{}\" is not understood; for example \"nan rank=1 step=5\" "
                  "(trainer/faults.h lists the kinds)",
                  kVariable, word));
}

int64_t Number(std::string_view word, std::string_view digits) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size()) NotUnderstood(word);
  return value;
}

}  // namespace

Faults Faults::FromEnvironment(int rank) {
  const char* text = std::getenv(kVariable);
  return text == nullptr ? Faults() : Parse(text, rank);
}

Faults Faults::Parse(std::string_view text, int rank) {
  Faults faults;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line, ';');) {
    std::istringstream words(line);
    Fault fault;
    if (!(words >> fault.kind)) continue;
    if (std::find(std::begin(kKinds), std::end(kKinds), fault.kind) == std::end(kKinds)) {
      NotUnderstood(fault.kind);
    }
    fault.phase = UsualPhase(fault.kind);
    bool here = true;
    for (std::string word; words >> word;) {
      const size_t equals = std::min(word.find('='), word.size() - 1);
      const std::string key = word.substr(0, equals);
      const std::string value = word.substr(equals + 1);
      if (key == "rank") {
        here = here && Number(word, value) == rank;
      } else if (key == "step") {
        fault.step = Number(word, value);
      } else if (key == "ms") {
        fault.milliseconds = Number(word, value);
      } else if (key == "phase") {
        fault.phase = value;
      } else {
        NotUnderstood(word);
      }
    }
    if (here) faults.faults_.push_back(fault);
  }
  return faults;
}

const Faults::Fault* Faults::Find(std::string_view kind, int64_t step,
                                  std::string_view phase) const {
  for (const Fault& fault : faults_) {
    const bool now = fault.step < 0 || fault.step == step;
    if (fault.kind == kind && now && fault.phase == phase) return &fault;
  }
  return nullptr;
}

bool Faults::Has(std::string_view kind, int64_t step, std::string_view phase) const {
  if (Find(kind, step, phase) == nullptr) return false;
  LogWarn("{}: {} in step {}", kVariable, kind, step);
  return true;
}

void Faults::Strike(int64_t step, std::string_view phase) const {
  if (Find("kill", step, phase) != nullptr) raise(SIGKILL);
  if (Find("stop", step, phase) != nullptr) raise(SIGSTOP);
  if (Find("crash", step, phase) != nullptr) raise(SIGSEGV);
  if (Find("hang", step, phase) != nullptr) {
    while (true) std::this_thread::sleep_for(std::chrono::seconds(1));
  }
  if (const Fault* slow = Find("slow", step, phase); slow != nullptr) {
    std::this_thread::sleep_for(std::chrono::milliseconds(slow->milliseconds));
  }
}

}  // namespace sepia::trainer
