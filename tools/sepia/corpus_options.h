// Options and the progress line that `tokenize` and `tokenizer train` share.
#pragma once

#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/clock.h"
#include "data/tokenizer/corpus_reader.h"

namespace sepia::tools {

// The input files of a command and how to read them.
struct CorpusArguments {
  std::vector<std::string> inputs;
  data::CorpusOptions options;
  int workers = 0;  // 0: one a processor

  void AddTo(CLI::App& command);
  int NumWorkers() const;
};

// --on-invalid-utf8 error|replace
void AddOnInvalidUtf8(CLI::App& command, data::OnInvalidUtf8& value);

// "tokenize 45.2% 21.3 MB/s ETA 12s" on stderr: once a second on a terminal, where the line is
// redrawn, every ten seconds otherwise.
class ProgressLine {
 public:
  ProgressLine(std::string what, int64_t total_file_bytes);
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  // Bytes of the files used and bytes of text done so far.
  void Show(int64_t file_bytes, int64_t text_bytes);
  double Seconds() const { return timer_.Seconds(); }

 private:
  std::string what_;
  int64_t total_file_bytes_;
  bool terminal_;
  bool shown_ = false;
  double last_ = 0;
  Timer timer_;
};

}  // namespace sepia::tools
