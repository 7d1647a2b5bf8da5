// Where every thread of this process is, for the report of a hang.
#pragma once

#include <string>
#include <vector>

namespace sepia::dist {

struct ThreadTrace {
  int thread = 0;                   // the kernel's id
  std::string name;                 // of the thread, as in top -H
  std::vector<std::string> frames;  // innermost first; empty: the thread did not answer
};

// Once a process, before the first TraceThreads: takes a real-time signal for it.
void PrepareBacktraces();

// Interrupts each thread but the caller for a moment; at most 64 threads, at most `seconds` in all.
// One call at a time.
std::vector<ThreadTrace> TraceThreads(double seconds);

}  // namespace sepia::dist
