#include "tools/sepia/plan_report.h"

#include <algorithm>
#include <cmath>
#include <iostream>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "trainer/log_line.h"
#include "trainer/step_traffic.h"

namespace sepia::tools {
namespace {

using nlohmann::ordered_json;
using trainer::FormatBytes;
using trainer::FormatCount;
using trainer::LayoutPlan;
using trainer::StepPrediction;

std::string Seconds(double seconds) {
  if (seconds >= 10) return fmt::format("{:.0f}s", seconds);
  if (seconds >= 0.1) return fmt::format("{:.2f}s", seconds);
  return fmt::format("{:.1f}ms", 1000 * seconds);
}

std::string Traffic(double bytes) {
  return bytes == 0 ? "-" : FormatBytes(static_cast<int64_t>(std::llround(bytes)));
}

size_t RowsOf(const PlanReport& report, size_t available) {
  return report.most_rows == 0 ? available
                               : std::min(available, static_cast<size_t>(report.most_rows));
}

// The config's own layout is marked.
bool IsConfigured(const PlanReport& report, const LayoutPlan& plan) {
  const trainer::TrainSettings &a = report.settings, &b = plan.settings;
  return a.parallel.tensor == b.parallel.tensor && a.parallel.sequence == b.parallel.sequence &&
         a.batch.micro == b.batch.micro && a.recompute == b.recompute &&
         (a.parallel.zero_stage == b.parallel.zero_stage || plan.data_ranks == 1);
}

std::string LayoutCells(const LayoutPlan& plan) {
  const trainer::TrainSettings& s = plan.settings;
  return fmt::format("{:>6} {:>4} {:>4} {:>3} {:>5} {:>4} {:>5}", s.parallel.tensor,
                     plan.data_ranks, s.parallel.zero_stage, s.parallel.sequence ? "yes" : "-",
                     s.batch.micro, AccumulationOf(s, plan.data_ranks), s.recompute ? "yes" : "-");
}

constexpr const char* kLayoutTitles = "tensor data zero seq micro  acc recmp";

void PrintHead(const PlanReport& report) {
  const trainer::Hardware& h = report.hardware;
  fmt::print("{} ranks, {} node{} of {}: {}\n", report.cluster.ranks(), report.cluster.nodes,
             report.cluster.nodes == 1 ? "" : "s", report.cluster.ranks_per_node, h.name);
  for (const std::string& source : h.sources) fmt::print("  {}\n", source);
  if (!h.measured) fmt::print("  EXTRAPOLATED: Sepia has never been timed on such a machine\n");
  if (report.cluster.nodes > 1) {
    fmt::print("  network of a node: {:.4g} GB/s, {:.0f} us{}\n", h.across_nodes.bytes_per_s / 1e9,
               1e6 * h.across_nodes.latency_s,
               h.measured ? " (as given or assumed; runs on several nodes were never timed)" : "");
  }
  fmt::print(
      "  a rank: products {}FLOP/s, head {}, attention {}; elementwise {}B/s, optimizer {}; "
      "memory {}\n",
      FormatCount(h.linear_flops), FormatCount(h.head_flops), FormatCount(h.attention_flops),
      FormatCount(h.elementwise_bytes), FormatCount(h.optimizer_bytes),
      FormatBytes(h.memory_bytes));
  fmt::print("  {} samples of {} tokens a step; {:.1f} % separators ({})\n",
             report.settings.batch.global, report.settings.data.sequence_length,
             100 * report.density, report.density_basis);
}

void PrintRanking(const PlanReport& report) {
  const std::vector<LayoutPlan>& plans = report.search.fitting;
  fmt::print("\n{} layouts fit, fastest first (* = the config's own)\n", plans.size());
  fmt::print(
      "  {}  memory    step   tok/s   MFU |   GEMM   head   attn  elem.  optim. comm "
      "hidden | tensor  data in node  across\n",
      kLayoutTitles);
  for (size_t i = 0; i < RowsOf(report, plans.size()); ++i) {
    const LayoutPlan& plan = plans[i];
    const StepPrediction& p = plan.prediction;
    const double communication = p.tensor_communication + p.data_communication;
    fmt::print(
        "{} {} {:>7} {:>7} {:>7} {:>4.0f}% | {:>6} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6} | "
        "{:>6} {:>6} {:>6}\n",
        IsConfigured(report, plan) ? '*' : ' ', LayoutCells(plan), FormatBytes(plan.memory.total()),
        Seconds(p.step()), FormatCount(p.tokens_per_s), 100 * p.mfu, Seconds(p.linear),
        Seconds(p.head), Seconds(p.attention), Seconds(p.elementwise), Seconds(p.optimizer),
        Seconds(p.exposed_communication), Seconds(communication - p.exposed_communication),
        Traffic(p.bytes.tensor_in_node), Traffic(p.bytes.data_in_node),
        Traffic(p.bytes.data_across_nodes));
  }
  fmt::print(
      "  comm: seconds that nothing hides; hidden: beside computing; last columns: bytes "
      "that a rank\n  sends in a step on the tensor axis, and on the data axis inside and "
      "between nodes.\n");
}

void PrintMemory(const PlanReport& report) {
  const trainer::RunMemory& m = report.search.fitting.front().memory;
  fmt::print(
      "\nmemory of a rank in the first of them: parameters {}, gradients {}, optimizer {}, "
      "activations {}, scratch {}, communication {}: {} of {} ({} reserved)\n",
      FormatBytes(m.model.params), FormatBytes(m.model.grads), FormatBytes(m.optimizer),
      FormatBytes(m.model.activations), FormatBytes(m.model.scratch), FormatBytes(m.communication),
      FormatBytes(m.total()), FormatBytes(report.hardware.memory_bytes),
      FormatBytes(report.hardware.reserved_bytes));
}

void PrintTooLarge(const PlanReport& report) {
  const std::vector<LayoutPlan>& plans = report.search.too_large;
  if (plans.empty()) return;
  fmt::print("\n{} layouts do not fit, nearest first\n  {}  memory  too much\n", plans.size(),
             kLayoutTitles);
  for (size_t i = 0; i < RowsOf(report, plans.size()); ++i) {
    fmt::print("{} {} {:>7} {:>9}\n", IsConfigured(report, plans[i]) ? '*' : ' ',
               LayoutCells(plans[i]), FormatBytes(plans[i].memory.total()),
               FormatBytes(plans[i].excess_bytes));
  }
}

ordered_json LinkJson(const trainer::LinkRates& link) {
  return {{"bytes_per_s", link.bytes_per_s}, {"latency_s", link.latency_s}};
}

ordered_json HeadJson(const PlanReport& report) {
  const trainer::Hardware& h = report.hardware;
  return {{"plan", "hardware"},
          {"name", h.name},
          {"measured", h.measured},
          {"sources", h.sources},
          {"nodes", report.cluster.nodes},
          {"ranks_per_node", report.cluster.ranks_per_node},
          {"linear_flops", h.linear_flops},
          {"head_flops", h.head_flops},
          {"attention_flops", h.attention_flops},
          {"elementwise_bytes_per_s", h.elementwise_bytes},
          {"optimizer_bytes_per_s", h.optimizer_bytes},
          {"peak_flops", h.peak_flops},
          {"memory_bytes", h.memory_bytes},
          {"reserved_bytes", h.reserved_bytes},
          {"in_node", LinkJson(h.in_node)},
          {"across_nodes", LinkJson(h.across_nodes)},
          {"density", report.density},
          {"density_basis", report.density_basis}};
}

ordered_json LayoutJson(const PlanReport& report, const LayoutPlan& plan, size_t place) {
  const trainer::TrainSettings& s = plan.settings;
  const trainer::RunMemory& m = plan.memory;
  const StepPrediction& p = plan.prediction;
  return {{"plan", plan.excess_bytes == 0 ? "layout" : "too_large"},
          {"place", place},
          {"configured", IsConfigured(report, plan)},
          {"tensor", s.parallel.tensor},
          {"data", plan.data_ranks},
          {"zero_stage", s.parallel.zero_stage},
          {"sequence", s.parallel.sequence},
          {"micro", s.batch.micro},
          {"accumulation", AccumulationOf(s, plan.data_ranks)},
          {"recompute", s.recompute},
          {"memory_bytes", m.total()},
          {"memory",
           {{"parameters", m.model.params},
            {"gradients", m.model.grads},
            {"optimizer", m.optimizer},
            {"activations", m.model.activations},
            {"scratch", m.model.scratch},
            {"communication", m.communication}}},
          {"excess_bytes", plan.excess_bytes},
          {"step_s", p.step()},
          {"parts_s",
           {{"gemm", p.linear},
            {"head", p.head},
            {"attention", p.attention},
            {"elementwise", p.elementwise},
            {"optimizer", p.optimizer},
            {"exposed_communication", p.exposed_communication},
            {"data", p.data}}},
          {"communication_s", {{"tensor", p.tensor_communication}, {"data", p.data_communication}}},
          {"bytes_sent",
           {{"tensor_in_node", std::llround(p.bytes.tensor_in_node)},
            {"data_in_node", std::llround(p.bytes.data_in_node)},
            {"data_across_nodes", std::llround(p.bytes.data_across_nodes)}}},
          {"tokens_per_s", p.tokens_per_s},
          {"mfu", p.mfu}};
}

}  // namespace

void PrintPlan(const PlanReport& report) {
  PrintHead(report);
  if (!report.search.fitting.empty()) {
    PrintRanking(report);
    PrintMemory(report);
  }
  PrintTooLarge(report);
  if (!report.search.refused.empty()) fmt::print("\nruled out\n");
  for (const trainer::RefusedLayout& refused : report.search.refused) {
    fmt::print("  {}: {}\n", refused.what, refused.why);
  }
}

void PrintPlanAsJson(const PlanReport& report) {
  const auto print = [](const ordered_json& line) { std::cout << line.dump() << std::endl; };
  print(HeadJson(report));
  for (const auto* plans : {&report.search.fitting, &report.search.too_large}) {
    for (size_t i = 0; i < RowsOf(report, plans->size()); ++i) {
      print(LayoutJson(report, (*plans)[i], i + 1));
    }
  }
  for (const trainer::RefusedLayout& refused : report.search.refused) {
    print({{"plan", "refused"}, {"what", refused.what}, {"why", refused.why}});
  }
}

}  // namespace sepia::tools
