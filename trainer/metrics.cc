#include "trainer/metrics.h"

#include <cmath>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace sepia::trainer {
namespace {

// fmt prints the shortest digits that read back as the same double.
std::string Number(double value) {
  return std::isfinite(value) ? fmt::format("{}", value) : std::string("null");
}

double ReadNumber(const nlohmann::json& object, const char* name) {
  const auto it = object.find(name);
  return it != object.end() && it->is_number() ? it->get<double>() : kNotMeasured;
}

int64_t ReadInteger(const nlohmann::json& object, const char* name) {
  const auto it = object.find(name);
  return it != object.end() && it->is_number_integer() ? it->get<int64_t>() : 0;
}

}  // namespace

std::string ToJson(const StepMetrics& m) {
  std::string json = fmt::format(
      R"({{"schema":{},"step":{},"loss":{},"grad_norm":{},"lr":{},"loss_scale":{},"tokens":{})",
      kMetricsSchema, m.step, Number(m.loss), Number(m.grad_norm), Number(m.lr),
      Number(m.loss_scale), m.tokens);
  json +=
      fmt::format(R"(,"tokens_per_s":{},"step_ms":{},"data_ms":{},"comm_ms":{},"comm_hidden":{},)"
                  R"("mfu":{})",
                  Number(m.tokens_per_s), Number(m.step_ms), Number(m.data_ms), Number(m.comm_ms),
                  Number(m.comm_hidden), Number(m.mfu));
  json +=
      fmt::format(R"(,"attn_kept":{},"flops":{},"rss_bytes":{},"skipped":{},"skip":{})",
                  Number(m.attn_kept), Number(m.flops), m.rss_bytes, m.skipped, m.update_skipped);
  if (!m.rank_step_ms.empty()) {
    json += fmt::format(R"(,"rank_step_ms":[{:.3f}])", fmt::join(m.rank_step_ms, ","));
  }
  json += fmt::format(R"(,"loss_z":{},"grad_norm_z":{})", Number(m.loss_z), Number(m.grad_norm_z));
  if (!std::isnan(m.valid_loss)) json += fmt::format(R"(,"valid_loss":{})", Number(m.valid_loss));
  json += fmt::format(R"(,"nan":{}}})", !m.finite());
  return json;
}

bool ParseMetrics(std::string_view line, StepMetrics* metrics) {
  const auto object = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object() || ReadInteger(object, "schema") != kMetricsSchema) return false;
  metrics->step = ReadInteger(object, "step");
  metrics->loss = ReadNumber(object, "loss");
  metrics->grad_norm = ReadNumber(object, "grad_norm");
  metrics->lr = ReadNumber(object, "lr");
  metrics->loss_scale = ReadNumber(object, "loss_scale");
  metrics->tokens = ReadInteger(object, "tokens");
  metrics->tokens_per_s = ReadNumber(object, "tokens_per_s");
  metrics->step_ms = ReadNumber(object, "step_ms");
  metrics->data_ms = ReadNumber(object, "data_ms");
  metrics->comm_ms = ReadNumber(object, "comm_ms");
  if (const auto times = object.find("rank_step_ms"); times != object.end()) {
    metrics->rank_step_ms = times->get<std::vector<double>>();
  }
  metrics->comm_hidden = ReadNumber(object, "comm_hidden");
  metrics->mfu = ReadNumber(object, "mfu");
  metrics->attn_kept = ReadNumber(object, "attn_kept");
  metrics->flops = ReadNumber(object, "flops");
  metrics->rss_bytes = ReadInteger(object, "rss_bytes");
  metrics->skipped = ReadInteger(object, "skipped");
  metrics->update_skipped = object.value("skip", false);
  metrics->loss_z = ReadNumber(object, "loss_z");
  metrics->grad_norm_z = ReadNumber(object, "grad_norm_z");
  metrics->valid_loss = ReadNumber(object, "valid_loss");
  return metrics->step > 0;
}

MetricsFile::MetricsFile(const std::string& path, int64_t last_step) {
  std::string text = FileExists(path) ? ReadFile(path) : std::string();
  size_t kept = 0;
  while (true) {
    const size_t end = text.find('\n', kept);
    if (end == std::string::npos) break;
    StepMetrics metrics;
    if (!ParseMetrics(std::string_view(text).substr(kept, end - kept), &metrics)) break;
    if (metrics.step > last_step) break;
    history_.push_back(metrics);
    kept = end + 1;
  }
  file_ = File::OpenForAppend(path);
  if (kept != text.size()) file_.Truncate(static_cast<int64_t>(kept));
}

void MetricsFile::Append(const StepMetrics& metrics) { file_.Write(ToJson(metrics) + "\n"); }

}  // namespace sepia::trainer
