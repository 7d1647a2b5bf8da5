// What `sepia plan` prints: tables for people, one JSON object a line for programs.
#pragma once

#include <string>

#include "trainer/layout_search.h"

namespace sepia::tools {

struct PlanReport {
  const trainer::TrainSettings& settings;  // as the config has them
  const trainer::Cluster& cluster;
  const trainer::Hardware& hardware;
  const trainer::LayoutSearch& search;
  double density;             // share of separators
  std::string density_basis;  // where it comes from
  int64_t most_rows;          // of each list; 0: all
};

void PrintPlan(const PlanReport& report);
void PrintPlanAsJson(const PlanReport& report);

}  // namespace sepia::tools
