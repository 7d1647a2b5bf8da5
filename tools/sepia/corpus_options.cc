#include "tools/sepia/corpus_options.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <thread>

#include "base/log.h"
#include "tools/sepia/choice_option.h"

namespace sepia::tools {

void AddOnInvalidUtf8(CLI::App& command, data::OnInvalidUtf8& value) {
  AddChoiceOption<data::OnInvalidUtf8>(
      command, "--on-invalid-utf8", value,
      {{"error", data::OnInvalidUtf8::kError}, {"replace", data::OnInvalidUtf8::kReplace}},
      "error: stop and say where (default); replace: U+FFFD for each bad part");
}

void CorpusArguments::AddTo(CLI::App& command) {
  command.add_option("input", inputs, ".txt or .jsonl files, each perhaps .gz or .zst")->required();
  command.add_option("--json-key", options.json_key, "key of the text in .jsonl (default: text)");
  command.add_option("--document-separator", options.document_separator,
                     "cut .txt files into documents at this text; without it a file is a document");
  command
      .add_option("--max-document-bytes", options.max_document_bytes,
                  "longer documents are an error (default: 256 MiB)")
      ->check(CLI::Range(int64_t{1}, int64_t{512} << 20));
  command.add_option("--workers", workers, "threads (default: one a processor)")
      ->check(CLI::Range(1, 1024));
  AddOnInvalidUtf8(command, options.on_invalid_utf8);
}

int CorpusArguments::NumWorkers() const {
  if (workers > 0) return workers;
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

ProgressLine::ProgressLine(std::string what, int64_t total_file_bytes)
    : what_(std::move(what)), total_file_bytes_(total_file_bytes), terminal_(isatty(2) != 0) {}

ProgressLine::~ProgressLine() {
  if (terminal_ && shown_) std::fputs("\r\x1b[K", stderr);
}

void ProgressLine::Show(int64_t file_bytes, int64_t text_bytes) {
  const double now = timer_.Seconds();
  if (now - last_ < (terminal_ ? 1.0 : 10.0)) return;
  last_ = now;
  shown_ = true;
  const double done = static_cast<double>(file_bytes);
  const double total = static_cast<double>(std::max<int64_t>(total_file_bytes_, 1));
  const std::string line =
      fmt::format("{} {:.1f}% {:.1f} MB/s ETA {}", what_, 100 * done / total,
                  static_cast<double>(text_bytes) / 1e6 / now,
                  FormatDuration(done > 0 ? now * std::max(0.0, total - done) / done : -1));
  if (terminal_) {
    std::fprintf(stderr, "\r\x1b[K%s", line.c_str());
    std::fflush(stderr);
  } else {
    LogInfo("{}", line);
  }
}

}  // namespace sepia::tools
