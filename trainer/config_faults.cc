#include "trainer/config_faults.h"

#include <algorithm>

#include <fmt/core.h>

namespace sepia::trainer {
namespace {

// More would scroll the first ones away.
constexpr size_t kMaxShown = 40;

}  // namespace

int ConfigSources::AddOverride(const std::string& text) {
  names_.push_back(text);
  return static_cast<int>(names_.size()) - 1;
}

std::string ConfigSources::Describe(const ConfigPlace& place) const {
  const std::string& name = names_[static_cast<size_t>(place.source)];
  if (place.source == 0) {
    return place.line == 0 ? name : fmt::format("{}:{}:{}", name, place.line, place.column);
  }
  return place.line == 0 ? fmt::format("--set '{}'", name)
                         : fmt::format("--set '{}', column {}", name, place.column);
}

void ConfigFaults::Add(const ConfigPlace& place, const std::string& message, ExitCode code) {
  faults_.push_back({place, message, code});
}

void ConfigFaults::AddAt(const ConfigPlaces& places, const std::string& path,
                         const std::string& message, ExitCode code) {
  for (std::string prefix = path; !prefix.empty();) {
    const auto found = places.find(prefix);
    if (found != places.end()) return Add(found->second, message, code);
    const size_t dot = prefix.find_last_of(".[");
    prefix.resize(dot == std::string::npos ? 0 : dot);
  }
  Add({}, message, code);
}

void ConfigFaults::ThrowIfAny() const {
  if (faults_.empty()) return;
  std::vector<Fault> sorted = faults_;
  // Faults of the file as a whole (line 0) come last: they often follow from one with a place.
  std::stable_sort(sorted.begin(), sorted.end(), [](const Fault& a, const Fault& b) {
    const bool a_whole = a.place.line == 0;
    const bool b_whole = b.place.line == 0;
    return a_whole != b_whole ? b_whole : a.place < b.place;
  });
  std::string text;
  for (size_t i = 0; i < std::min(sorted.size(), kMaxShown); ++i) {
    if (i > 0) text += '\n';
    text += fmt::format("{}: {}", sources_->Describe(sorted[i].place), sorted[i].message);
  }
  if (sorted.size() > kMaxShown)
    text += fmt::format("\n... and {} more", sorted.size() - kMaxShown);
  const ExitCode code = sorted[0].code;
  const bool shared = std::all_of(sorted.begin(), sorted.end(),
                                  [&](const Fault& fault) { return fault.code == code; });
  throw UserError(shared ? code : ExitCode::kUsage, text);
}

}  // namespace sepia::trainer
