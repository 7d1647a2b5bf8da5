#include "dist/agreement.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "base/log.h"
#include "dist/flight_recorder.h"
#include "dist/gather.h"
#include "dist/launcher.h"

namespace sepia::dist {
namespace {

// "<exit code> <message>", or nothing when `work` did not throw.
std::string Outcome(const std::function<void()>& work) {
  try {
    work();
    return "";
  } catch (const Error& error) {
    return fmt::format("{} {}", static_cast<int>(error.code()), error.what());
  } catch (const std::exception& error) {
    return fmt::format("{} {}", static_cast<int>(ExitCode::kInternal), error.what());
  }
}

}  // namespace

void FailTogether(Communicator& world, const Failure& failure) {
  // Before the barrier: behind it a rank may end while another has not noticed that it is through.
  if (const auto recorder = world.recorder()) recorder->ExpectTheEnd();
  if (world.rank() == 0) LogError("{}", failure.message);
  // The launcher ends the job when the first rank ends: not before the message is out.
  world.Barrier("failure");
  throw AgreedError(failure.code, failure.message);
}

std::optional<Failure> FirstFailure(Communicator& world, const std::function<void()>& work) {
  const std::vector<std::string> outcomes = GatherTexts(world, Outcome(work), "outcomes");
  const auto failed = std::find_if(outcomes.begin(), outcomes.end(),
                                   [](const std::string& outcome) { return !outcome.empty(); });
  if (failed == outcomes.end()) return std::nullopt;
  const size_t space = failed->find(' ');
  const auto code = static_cast<ExitCode>(std::stoi(failed->substr(0, space)));
  std::string message = failed->substr(space + 1);
  if (!RanksThatDiffer(outcomes).empty()) {
    message = fmt::format("rank {}: {}", failed - outcomes.begin(), message);
  }
  return Failure{code, std::move(message)};
}

void Agree(Communicator& world, const std::function<void()>& work) {
  if (world.size() == 1) return work();
  if (const std::optional<Failure> failure = FirstFailure(world, work)) {
    FailTogether(world, *failure);
  }
}

void RequireSame(Communicator& world, const SharedFact& fact) {
  const std::vector<std::string> values = GatherTexts(world, fact.value, "shared facts");
  const std::vector<int> odd = RanksThatDiffer(values);
  if (odd.empty()) return;
  const std::vector<std::string> nodes = GatherTexts(world, NodeName(), "node names");
  const auto first = static_cast<size_t>(odd.front());
  size_t usual = 0;
  while (values[usual] == values[first]) ++usual;
  FailTogether(
      world,
      {ExitCode::kUsage,
       fmt::format(
           "{} differs between ranks: rank {} (on {}) has {}, rank {} (on {}) has {}{}; {}",
           fact.what, first, nodes[first], values[first], usual, nodes[usual], values[usual],
           odd.size() == 1 ? "" : fmt::format("; {} ranks differ", odd.size()), fact.remedy)});
}

}  // namespace sepia::dist
