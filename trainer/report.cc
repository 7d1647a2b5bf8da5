#include "trainer/report.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>
#include <vector>

#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "trainer/config.h"
#include "trainer/header_block.h"
#include "trainer/log_line.h"
#include "trainer/metrics.h"
#include "trainer/report_chart.h"
#include "trainer/report_mask.h"
#include "trainer/report_style.h"
#include "trainer/training_data.h"

namespace sepia::trainer {
namespace {

constexpr int64_t kMaxTextBytes = 1 << 20;
constexpr size_t kShownSamples = 6;

struct Run {
  std::string directory;
  std::vector<StepMetrics> metrics;
  int64_t lines_left_out = 0;
  std::string config_text;
  std::optional<LoadedConfig> config;
  std::string config_problem;
  std::vector<double> restarts;  // steps after which the run was started again
  std::string machine;
};

void ReadMetrics(const std::string& path, Run* run) {
  const std::string text = ReadFile(path);
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    StepMetrics metrics;
    if (line.empty()) continue;
    if (ParseMetrics(line, &metrics)) {
      run->metrics.push_back(metrics);
    } else {
      ++run->lines_left_out;
    }
  }
}

void ReadConfig(const std::string& path, Run* run) {
  try {
    run->config_text = ReadFile(path, kMaxTextBytes);
    // The architecture is in the resolved text; the weights the run began with need not be there.
    run->config =
        LoadConfigText(run->config_text, path, {"init_from.path="}, {.for_training = false});
  } catch (const Error& error) {
    run->config_problem = error.what();
  }
}

// Best effort: a manifest that is missing or damaged costs a line of the page.
void ReadManifest(const std::string& path, Run* run) {
  if (!FileExists(path)) return;
  try {
    const nlohmann::json manifest = nlohmann::json::parse(ReadFile(path, kMaxTextBytes));
    for (const nlohmann::json& start : manifest.at("starts")) {
      const int64_t first_step = start.at("first_step").get<int64_t>();
      if (first_step > 0) run->restarts.push_back(static_cast<double>(first_step));
      const int64_t ranks = start.at("ranks").get<int64_t>();
      run->machine =
          fmt::format("{}, {} rank{} of {} threads, started {}",
                      start.at("host").get<std::string>(), ranks, ranks == 1 ? "" : "s",
                      start.at("threads").get<int64_t>(), start.at("time").get<std::string>());
    }
  } catch (const std::exception&) {
    return;
  }
}

using Value = double StepMetrics::*;

std::vector<std::pair<double, double>> Points(const Run& run, Value value) {
  std::vector<std::pair<double, double>> points;
  for (const StepMetrics& m : run.metrics) {
    points.emplace_back(static_cast<double>(m.step), m.*value);
  }
  return points;
}

// Mean over a fiftieth of the run around every step: no lag, unlike an exponential mean.
std::vector<std::pair<double, double>> Smooth(std::vector<std::pair<double, double>> points) {
  std::vector<double> sums{0};
  std::vector<double> counts{0};
  for (const auto& [step, value] : points) {
    const bool finite = std::isfinite(value);
    sums.push_back(sums.back() + (finite ? value : 0));
    counts.push_back(counts.back() + (finite ? 1 : 0));
  }
  const size_t size = points.size();
  for (size_t i = 0; i < size; ++i) {
    // Symmetric at the beginning, where curves fall steeply; one-sided at the end.
    const size_t reach = std::min(size / 100, i);
    const size_t begin = i - reach;
    const size_t end = std::min(i + reach + 1, size);
    const double count = counts[end] - counts[begin];
    points[i].second = count > 0 ? (sums[end] - sums[begin]) / count : std::nan("");
  }
  return points;
}

bool Long(const Run& run) { return run.metrics.size() > 100; }

// A noisy curve with its mean, or the curve alone when it is short.
std::vector<ChartSeries> NoisySeries(const Run& run, Value value, const std::string& name) {
  if (!Long(run)) return {{.name = name, .css_class = "plain", .points = Points(run, value)}};
  return {{.name = "every step", .css_class = "raw", .points = Points(run, value)},
          {.name = "smoothed", .css_class = "smooth", .points = Smooth(Points(run, value))}};
}

std::string Charts(const Run& run) {
  std::vector<ChartSeries> loss = NoisySeries(run, &StepMetrics::loss, "training");
  loss.push_back({.name = "validation", .css_class = "valid", .points = {}, .dots = true});
  for (const StepMetrics& m : run.metrics) {
    if (std::isnan(m.valid_loss)) continue;
    loss.back().points.emplace_back(static_cast<double>(m.step), m.valid_loss);
  }
  const auto chart = [&](const char* title, std::vector<ChartSeries> series, bool log_y,
                         bool from_zero) {
    return DrawChart({.title = title,
                      .x_label = "step",
                      .series = std::move(series),
                      .marks = run.restarts,
                      .log_y = log_y,
                      .from_zero = from_zero});
  };
  return "<div class=\"charts\">" + chart("Loss", std::move(loss), false, false) +
         chart("Gradient norm", NoisySeries(run, &StepMetrics::grad_norm, "before clipping"), true,
               false) +
         chart("Learning rate",
               {{.name = "", .css_class = "plain", .points = Points(run, &StepMetrics::lr)}}, false,
               true) +
         chart("Tokens per second", NoisySeries(run, &StepMetrics::tokens_per_s, ""), false, true) +
         "</div>\n";
}

std::string Tile(const std::string& name, const std::string& value) {
  return fmt::format("<div class=\"tile\"><span>{}</span><b>{}</b></div>\n", EscapeHtml(name),
                     EscapeHtml(value));
}

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

std::string Tiles(const Run& run) {
  const StepMetrics& last = run.metrics.back();
  double best_valid = std::nan("");
  std::vector<double> speeds;
  double seconds = 0;
  for (const StepMetrics& m : run.metrics) {
    best_valid = std::fmin(best_valid, m.valid_loss);
    if (std::isfinite(m.tokens_per_s)) speeds.push_back(m.tokens_per_s);
    if (std::isfinite(m.step_ms)) seconds += m.step_ms / 1000;
  }
  std::string steps = fmt::format("{}", last.step);
  if (run.config) steps += fmt::format(" / {}", run.config->settings.schedule.total_steps);
  std::string tiles = Tile("steps", steps) + Tile("last loss", fmt::format("{:.4f}", last.loss));
  if (!std::isnan(best_valid)) {
    tiles += Tile("best validation loss", fmt::format("{:.4f}", best_valid));
  }
  tiles += Tile("tokens seen", FormatCount(static_cast<double>(last.tokens)));
  tiles += Tile("median tokens/s", FormatCount(Median(std::move(speeds))));
  tiles += Tile("time in steps", FormatDuration(seconds));
  if (std::isfinite(last.mfu)) tiles += Tile("MFU", fmt::format("{:.1f} %", 100 * last.mfu));
  tiles += Tile("attention kept", fmt::format("{:.1f} %", 100 * last.attn_kept));
  tiles += Tile("skipped updates", fmt::format("{}", last.skipped));
  return "<div class=\"tiles\">" + tiles + "</div>\n";
}

std::string Heading(const Run& run) {
  std::string html = "<h1>" + EscapeHtml(run.directory) + "</h1>\n";
  if (run.config) {
    const TrainSettings& s = run.config->settings;
    html +=
        fmt::format("<p class=\"soft\">{} parameters, {} layers of width {}; {}; {}, {}</p>\n",
                    FormatCount(static_cast<double>(s.model.num_parameters())), s.model.num_layers,
                    s.model.hidden_size, EscapeHtml(DescribeAttention(s.model)),
                    NumericsName(s.numerics), PrecisionName(s.precision));
  }
  if (!run.machine.empty()) html += "<p class=\"soft\">" + EscapeHtml(run.machine) + "</p>\n";
  if (run.lines_left_out > 0) {
    html += fmt::format("<p class=\"soft\">{} unreadable line{} of metrics.jsonl left out.</p>\n",
                        run.lines_left_out, run.lines_left_out == 1 ? "" : "s");
  }
  return html;
}

std::string Mask(const Run& run) {
  std::string html = "<h2>What the first queries see</h2>\n";
  if (!run.config) {
    return html + "<p class=\"none\">No picture: " + EscapeHtml(run.config_problem) + "</p>\n";
  }
  try {
    const TrainSettings& settings = run.config->settings;
    const data::Datasets datasets = OpenDatasets(*run.config, run.directory + "/index_maps");
    std::vector<int32_t> tokens(static_cast<size_t>(settings.data.sequence_length) + 1);
    datasets.train->Sample(0, tokens);
    tokens.pop_back();
    return html + DrawMask(settings, tokens);
  } catch (const Error& error) {
    return html + "<p class=\"none\">No picture, the training data cannot be read: " +
           EscapeHtml(error.what()) + "</p>\n";
  }
}

std::string Samples(const std::string& directory) {
  std::vector<std::filesystem::path> files;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(directory, ignored)) {
    if (entry.is_regular_file(ignored) && entry.path().extension() == ".txt") {
      files.push_back(entry.path());
    }
  }
  if (files.empty()) return "";
  std::sort(files.begin(), files.end());
  std::string html = "<h2>Samples</h2>\n";
  const size_t shown = std::min(kShownSamples, files.size());
  for (size_t i = 0; i < shown; ++i) {
    // The newest open, the others evenly spread over the run.
    const size_t at = shown == 1 ? 0 : (files.size() - 1) * (shown - 1 - i) / (shown - 1);
    std::string text;
    try {
      text = ReadFile(files[at].string(), kMaxTextBytes);
    } catch (const Error& error) {
      text = error.what();
    }
    html +=
        fmt::format("<details{}><summary>{}</summary><pre>{}</pre></details>\n",
                    i == 0 ? " open" : "", EscapeHtml(files[at].stem().string()), EscapeHtml(text));
  }
  return html;
}

std::string Config(const Run& run) {
  if (run.config_text.empty()) return "";
  std::string html = "<h2>Config</h2>\n";
  if (run.config) {
    for (const std::string& deviation : run.config->deviations) {
      html += "<p class=\"soft\">Departs from its preset: " + EscapeHtml(deviation) + "</p>\n";
    }
  }
  return html + "<details><summary>config.resolved.textproto</summary><pre>" +
         EscapeHtml(run.config_text) + "</pre></details>\n";
}

}  // namespace

std::string MakeReport(const std::string& run_dir) {
  Run run;
  run.directory = run_dir;
  while (run.directory.size() > 1 && run.directory.back() == '/') run.directory.pop_back();
  const std::string metrics = run.directory + "/metrics.jsonl";
  ReadMetrics(metrics, &run);
  if (run.metrics.empty()) {
    throw BadData(metrics, -1, "holds no complete step", "train at least one step first");
  }
  ReadConfig(run.directory + "/config.resolved.textproto", &run);
  ReadManifest(run.directory + "/manifest.json", &run);
  return fmt::format(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<title>{} - "
      "Sepia</title>\n<style>{}</style></head>\n<body><main>\n{}{}{}{}{}{}</main></body>"
      "</html>\n",
      EscapeHtml(run.directory), kReportStyle, Heading(run), Tiles(run),
      "<h2>Training</h2>\n" + Charts(run), Mask(run), Samples(run.directory + "/samples"),
      Config(run));
}

}  // namespace sepia::trainer
