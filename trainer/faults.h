// Faults on request, for tests: compiled into every build, off unless the environment asks.
//
//   SEPIA_FAULT="nan rank=1 step=5"
//   SEPIA_FAULT="kill rank=0 step=7 phase=save; slow rank=1 ms=20"
//
// One fault: a kind, the rank that it strikes (all ranks without `rank`), the step in which (every
// step without `step`), the phase at whose beginning (the first of a step, "data", without `phase`;
// phases: data, forward, backward, gradients, update, validate, samples, save, finish; and start,
// in which the step is the one that the run resumes behind), and `ms` for those that take time. In
// separate words, faults separated by ";".
//
//   kill    SIGKILL to itself          stop   SIGSTOP to itself
//   crash   SIGSEGV                    hang   sleeps for ever
//   slow    sleeps `ms`                skip   leaves out the sum of the targets
//   nan     a gradient becomes NaN     inf    a gradient becomes infinite
//   flip    a mantissa bit of one weight flips
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sepia::trainer {

class Faults {
 public:
  // Of SEPIA_FAULT, for this rank. Throws UserError for what it does not understand.
  static Faults FromEnvironment(int rank);
  static Faults Parse(std::string_view text, int rank);

  bool empty() const { return faults_.empty(); }
  // Whether a fault of this kind strikes now; those of the process itself strike by Strike().
  bool Has(std::string_view kind, int64_t step, std::string_view phase) const;
  // Kills, stops, crashes, hangs or slows this process, where that was asked for.
  void Strike(int64_t step, std::string_view phase) const;

 private:
  struct Fault {
    std::string kind;
    std::string phase;
    int64_t step = -1;  // every step
    int64_t milliseconds = 0;
  };

  const Fault* Find(std::string_view kind, int64_t step, std::string_view phase) const;

  std::vector<Fault> faults_;
};

}  // namespace sepia::trainer
