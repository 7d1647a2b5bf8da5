#include "trainer/report_mask.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string_view>

#include <fmt/core.h>

#include "base/attention_index.h"
#include "trainer/flops.h"

namespace sepia::trainer {
namespace {

// More cells than this cannot be told apart.
constexpr int64_t kMostPositions = 112;
constexpr double kCell = 5;

enum class Why : uint8_t { kHidden, kInitial, kSeparator, kNear };

constexpr std::string_view kClasses[] = {"", "initial", "separator", "near"};

Why Visibility(const TrainSettings& settings, const model::LayerAttention& layer,
               const std::vector<int32_t>& tokens, int64_t query, int64_t key) {
  if (layer.kind == AttentionKind::kFull) return Why::kNear;
  if (key < layer.num_initial) return Why::kInitial;
  const std::vector<int32_t>& separators = settings.model.separator_ids;
  const bool chosen = layer.kind == AttentionKind::kSep
                          ? std::binary_search(separators.begin(), separators.end(),
                                               tokens[static_cast<size_t>(key)])
                          : layer.kind == AttentionKind::kFixedStride && key % layer.stride == 0;
  if (chosen) return Why::kSeparator;
  return query - key < layer.window ? Why::kNear : Why::kHidden;
}

// One rectangle for each stretch of equal cells in a row.
std::string DrawRow(const TrainSettings& settings, const model::LayerAttention& layer,
                    const std::vector<int32_t>& tokens, int64_t query) {
  std::string svg;
  for (int64_t key = 0; key <= query;) {
    const Why why = Visibility(settings, layer, tokens, query, key);
    int64_t end = key + 1;
    while (end <= query && Visibility(settings, layer, tokens, query, end) == why) ++end;
    if (why != Why::kHidden) {
      svg +=
          fmt::format("<rect class=\"{}\" x=\"{:g}\" y=\"{:g}\" width=\"{:g}\" height=\"{:g}\"/>",
                      kClasses[static_cast<size_t>(why)], static_cast<double>(key) * kCell,
                      static_cast<double>(query) * kCell,
                      static_cast<double>(end - key) * kCell - 0.5, kCell - 0.5);
    }
    key = end;
  }
  return svg + "\n";
}

std::string KeptTable(const TrainSettings& settings, const std::vector<int32_t>& tokens) {
  const auto length = static_cast<int64_t>(tokens.size());
  std::string rows;
  double total = 0;
  for (size_t layer = 0; layer < settings.model.attention.size(); ++layer) {
    model::ModelConfig one = settings.model;
    one.attention = {settings.model.attention[layer]};
    const model::AttentionPlan plan = model::MakeAttentionPlan(one);
    const AttentionIndexes indexes = BuildAttentionIndexes(tokens, 1, length, plan.specs);
    const double kept = CountAttentionWork(plan, indexes, 1, length).kept_share();
    total += kept;
    rows += fmt::format(
        "<tr><td>{}</td><td class=\"bar\"><i style=\"width:{:.1f}%\"></i></td><td>{:.1f} %</td>"
        "</tr>\n",
        layer, 100 * kept, 100 * kept);
  }
  return fmt::format(
      "<table class=\"kept\"><tr><th>layer</th><th>kept of the causal triangle</th><th>{:.1f} % "
      "in all</th></tr>\n{}</table>",
      100 * total / static_cast<double>(settings.model.attention.size()), rows);
}

}  // namespace

std::string DrawMask(const TrainSettings& settings, const std::vector<int32_t>& tokens) {
  const std::vector<model::LayerAttention>& layers = settings.model.attention;
  const auto sparse = std::find_if(layers.begin(), layers.end(), [](const auto& layer) {
    return layer.kind != AttentionKind::kFull;
  });
  const model::LayerAttention& layer = sparse == layers.end() ? layers.front() : *sparse;
  const int64_t shown = std::min<int64_t>(kMostPositions, static_cast<int64_t>(tokens.size()));
  const double size = static_cast<double>(shown) * kCell;
  std::string html = "<div class=\"mask\"><figure><figcaption><b>";
  html += sparse == layers.end() ? std::string("Dense attention")
                                 : fmt::format("Layer {}", sparse - layers.begin());
  html += fmt::format("</b> queries down, keys across: the first {} of {} positions &ensp;", shown,
                      tokens.size());
  if (sparse != layers.end()) {
    const bool stride = layer.kind == AttentionKind::kFixedStride;
    if (layer.num_initial > 0) html += "<span class=\"key initial\">initial</span>";
    if (layer.kind == AttentionKind::kSep) html += "<span class=\"key separator\">separator</span>";
    if (stride) html += "<span class=\"key separator\">every stride-th</span>";
    html += fmt::format("<span class=\"key near\">last {}</span>", layer.window);
  }
  html += fmt::format(
      "</figcaption><svg viewBox=\"0 0 {0:g} {0:g}\" role=\"img\" aria-label=\"attention mask\">\n"
      "<path class=\"future\" d=\"M0 0L{0:g} {0:g}L0 {0:g}Z\"/>\n",
      size);
  for (int64_t query = 0; query < shown; ++query) html += DrawRow(settings, layer, tokens, query);
  return html + "</svg></figure>" + KeptTable(settings, tokens) + "</div>\n";
}

}  // namespace sepia::trainer
