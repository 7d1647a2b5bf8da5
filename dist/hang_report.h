// What a rank writes down when nothing moves, and what all reports together say about the cause.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dist/backtraces.h"
#include "dist/flight_recorder.h"

namespace sepia::dist {

struct HangReport {
  int rank = 0;
  std::string node;
  int process = 0;
  std::string reason;  // why this rank reports
  double now = 0;      // MonotonicSeconds() of this rank's node
  double stalled = 0;  // seconds without progress
  FlightRecorder::Record record;
  std::vector<ThreadTrace> threads;
};

// hang/rank_N.json: {"rank","node","process","time","reason","stalled_s","step","phase",
// "phase_s","collectives":[{"call","group","group_call","operation","label","bytes","state",
// "asked_s_ago","started_s_ago","done_s_ago"}],"threads":[{"thread","name","frames":[]}]}.
// Times are seconds before the report.
std::string ToJson(const HangReport& report);
// Without threads; empty for anything that ToJson does not write.
std::optional<HangReport> ParseHangReport(std::string_view json);

// Which rank is to blame, in one sentence or two: the one that does not answer, the one that is not
// in a collective, or the one whose calls differ. `reports` by rank, empty where a rank wrote none;
// `nodes` by rank.
std::string HangVerdict(const std::vector<std::optional<HangReport>>& reports,
                        const std::vector<std::string>& nodes);

}  // namespace sepia::dist
