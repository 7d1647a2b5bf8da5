// One self-contained HTML page about a run: what it is, how it goes, what the model writes.
#pragma once

#include <string>

namespace sepia::trainer {

// Reads run_dir's metrics.jsonl, config.resolved.textproto, manifest.json and samples/; only the
// metrics must be there. Lines of the metrics that are torn or foreign are left out and counted.
// Throws UserError(kBadData) when there is nothing to report.
std::string MakeReport(const std::string& run_dir);

}  // namespace sepia::trainer
