// One fate for all ranks: work that each rank does by itself, and that fails on all or on none.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "base/error.h"
#include "dist/communicator.h"

namespace sepia::dist {

// Thrown on every rank when the work of at least one failed, and not to be caught: the ranks end.
// Rank 0 has logged the message already.
class AgreedError : public Error {
 public:
  using Error::Error;
};

// Why work failed: its first failure by rank. The message names the rank unless all failed in the
// same way.
struct Failure {
  ExitCode code;
  std::string message;
};

// Runs `work`, which makes no collective calls, on every rank. Returns the same on all of them:
// none when it threw on no rank. For failures that a run can go on from. Collective.
std::optional<Failure> FirstFailure(Communicator& world, const std::function<void()>& work);

// The end of the run, for a reason that all ranks know: rank 0 logs it, and all throw AgreedError.
// From here on no rank takes another one's end for a fault. Collective.
[[noreturn]] void FailTogether(Communicator& world, const Failure& failure);

// Runs `work`, which makes no collective calls. When it throws on any rank, throws AgreedError on
// all ranks, with the first failure. In a world of one the exception just passes. Collective.
void Agree(Communicator& world, const std::function<void()>& work);

// The same for work with a result.
template <typename Work>
auto Agreed(Communicator& world, const Work& work) {
  std::optional<decltype(work())> result;
  Agree(world, [&] { result.emplace(work()); });
  return std::move(*result);
}

// A fact that must be the same on all ranks.
struct SharedFact {
  std::string what;  // "the build of sepia"
  std::string value;
  std::string remedy;  // "start the same binary on every node"
};

// Throws as Agree does when ranks differ: names the fact and the ranks with their nodes.
void RequireSame(Communicator& world, const SharedFact& fact);

}  // namespace sepia::dist
