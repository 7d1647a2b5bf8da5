// The real program in a process of its own, as a user or a cluster would run it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace sepia::testing {

struct ProcessResult {
  int code = 0;        // exit code, or 128 + signal
  std::string output;  // stdout and stderr together
};

struct ProcessOptions {
  int ranks = 0;               // started by mpirun; 0: one process without it
  int64_t max_file_bytes = 0;  // RLIMIT_FSIZE; 0: no limit
  std::string input = {};      // what standard input holds
  // Words before the program, instead of those that `ranks` asks for.
  std::vector<std::string> launcher = {};
  std::string fault = {};  // SEPIA_FAULT (trainer/faults.h)
};

class SepiaProcess {
 public:
  // Starts `sepia args...`, under mpirun where options.ranks says so.
  explicit SepiaProcess(const std::vector<std::string>& args, const ProcessOptions& options = {});
  // Kills it if it still runs.
  ~SepiaProcess();
  SepiaProcess(const SepiaProcess&) = delete;
  SepiaProcess& operator=(const SepiaProcess&) = delete;

  pid_t pid() const { return pid_; }
  void Signal(int signal) const;
  // What it has printed so far.
  std::string Output() const;
  ProcessResult Wait();

 private:
  pid_t pid_ = -1;
  int output_fd_ = -1;  // an unlinked temporary file
};

// mpirun with several ranks on this machine, however few processors it has.
std::vector<std::string> LaunchWords(int ranks);

ProcessResult RunSepia(const std::vector<std::string>& args, const ProcessOptions& options = {});

// The same for a run directory that an mpirun, killed or killing, may have left to ranks that
// outlive it by a moment, longer on busy processors: starts again while another run holds the
// directory.
ProcessResult RunSepiaWhenFree(const std::vector<std::string>& args,
                               const ProcessOptions& options = {});

// How often `what` stands in `text`.
size_t Count(const std::string& text, const std::string& what);

// Polls; false after a generous time, or `seconds`.
bool WaitUntil(const std::function<bool()>& condition, double seconds = 120);
// Polls until `path` has at least `lines` lines; false after a generous time.
bool WaitForLines(const std::string& path, int lines);
// Polls until `path` exists.
bool WaitForFile(const std::string& path);

void SleepMilliseconds(int milliseconds);

}  // namespace sepia::testing
