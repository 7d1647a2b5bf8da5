// sepia report: one self-contained HTML page about a run.
#include <memory>
#include <string>

#include <fmt/core.h>

#include "base/file.h"
#include "tools/sepia/command.h"
#include "trainer/report.h"

namespace sepia::tools {
namespace {

struct ReportOptions {
  std::string run_dir;
  std::string out;
};

void WriteReport(const ReportOptions& options) {
  const std::string out = options.out.empty() ? options.run_dir + "/report.html" : options.out;
  WriteFileAtomic(out, trainer::MakeReport(options.run_dir));
  fmt::print("{}\n", out);
}

}  // namespace

void AddReportCommand(CLI::App& app) {
  auto options = std::make_shared<ReportOptions>();
  CLI::App* command =
      app.add_subcommand("report", "one HTML page about a run: curves, mask, samples");
  command->add_option("run_dir", options->run_dir, "directory of the run")->required();
  command->add_option("--out", options->out, "file to write (default: RUN_DIR/report.html)");
  command->footer("Example:\n  sepia report runs/quickstart");
  command->final_callback([options] { WriteReport(*options); });
}

}  // namespace sepia::tools
