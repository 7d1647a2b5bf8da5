#include "trainer/report_chart.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/core.h>

#include "base/utf8.h"

namespace sepia::trainer {
namespace {

constexpr double kWidth = 560;
constexpr double kHeight = 250;
constexpr double kLeft = 52;
constexpr double kRight = 18;
constexpr double kTop = 10;
constexpr double kBottom = 34;
constexpr size_t kColumns = 1000;

using Points = std::vector<std::pair<double, double>>;

struct Axis {
  double low = 0;
  double high = 1;
  bool logarithmic = false;

  double Share(double value) const {
    if (logarithmic) {
      return (std::log10(value) - std::log10(low)) / (std::log10(high) - std::log10(low));
    }
    return (value - low) / (high - low);
  }
};

double PixelX(const Axis& x, double value) {
  return kLeft + x.Share(value) * (kWidth - kLeft - kRight);
}
double PixelY(const Axis& y, double value) {
  return kHeight - kBottom - y.Share(value) * (kHeight - kTop - kBottom);
}

// 1, 2 or 5 times a power of ten, so that about `count` steps cover `span`.
double NiceStep(double span, int count) {
  const double rough = span / count;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (rough <= factor * power * 1.0001) return factor * power;
  }
  return 10 * power;
}

std::vector<double> LinearTicks(double low, double high, int count) {
  std::vector<double> ticks;
  const double step = NiceStep(high - low, count);
  const double first = std::ceil(low / step - 1e-9);
  const double last = std::floor(high / step + 1e-9);
  for (double k = first; k <= last && ticks.size() < 20; ++k) ticks.push_back(k * step);
  return ticks;
}

std::vector<double> Ticks(const Axis& axis, int count) {
  if (!axis.logarithmic) return LinearTicks(axis.low, axis.high, count);
  std::vector<double> ticks;
  const double decades = std::log10(axis.high) - std::log10(axis.low);
  const bool wide = decades > 3;
  const double stride = std::pow(10.0, std::max(1.0, std::ceil(decades / count)));
  for (double power = std::pow(10.0, std::floor(std::log10(axis.low))); power <= axis.high;
       power *= wide ? stride : 10) {
    for (const double factor : {1.0, 2.0, 5.0}) {
      const double tick = factor * power;
      if ((wide && factor > 1) || tick < axis.low || tick > axis.high) continue;
      ticks.push_back(tick);
    }
  }
  return ticks;
}

std::string TickText(double value) {
  const double size = std::abs(value);
  if (size >= 1e9) return fmt::format("{:g}G", value / 1e9);
  if (size >= 1e6) return fmt::format("{:g}M", value / 1e6);
  if (size >= 1e4) return fmt::format("{:g}k", value / 1e3);
  if (size < 1e-12) return "0";
  return fmt::format("{:g}", std::round(value * 1e9) / 1e9);
}

Points Finite(const Points& points, bool positive) {
  Points finite;
  for (const auto& point : points) {
    if (std::isfinite(point.second) && (!positive || point.second > 0)) finite.push_back(point);
  }
  return finite;
}

// Lowest and highest point of every column, in order of x.
Points Thin(const Points& points) {
  if (points.size() <= 2 * kColumns) return points;
  Points thin;
  for (size_t column = 0; column < kColumns; ++column) {
    const auto begin = points.begin() + static_cast<ptrdiff_t>(column * points.size() / kColumns);
    const auto end =
        points.begin() + static_cast<ptrdiff_t>((column + 1) * points.size() / kColumns);
    auto [low, high] = std::minmax_element(
        begin, end, [](const auto& a, const auto& b) { return a.second < b.second; });
    if (high < low) std::swap(low, high);
    thin.push_back(*low);
    if (high != low) thin.push_back(*high);
  }
  return thin;
}

void Extend(const Points& points, Axis* x, Axis* y) {
  for (const auto& [px, py] : points) {
    x->low = std::min(x->low, px);
    x->high = std::max(x->high, px);
    y->low = std::min(y->low, py);
    y->high = std::max(y->high, py);
  }
}

void Widen(Axis* axis) {
  if (axis->high > axis->low) return;
  const double margin = axis->high == 0 ? 1 : std::abs(axis->high) * 0.05;
  if (!axis->logarithmic) axis->low -= margin;
  axis->high += margin;
}

std::string DrawAxes(const Chart& chart, const Axis& x, const Axis& y) {
  std::string svg;
  for (const double tick : Ticks(y, 5)) {
    const double at = PixelY(y, tick);
    svg += fmt::format(
        "<line class=\"grid\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>"
        "<text class=\"tick\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n",
        kLeft, kWidth - kRight, at, at, kLeft - 6, at + 3.5, TickText(tick));
  }
  for (const double tick : Ticks(x, 6)) {
    svg += fmt::format(
        "<text class=\"tick\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n",
        PixelX(x, tick), kHeight - kBottom + 15, TickText(tick));
  }
  svg += fmt::format(
      "<line class=\"axis\" x1=\"{0:.1f}\" x2=\"{1:.1f}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/>"
      "<text class=\"tick\" x=\"{1:.1f}\" y=\"{3:.1f}\" text-anchor=\"end\">{4}</text>\n",
      kLeft, kWidth - kRight, kHeight - kBottom, kHeight - 4, EscapeHtml(chart.x_label));
  for (const double mark : chart.marks) {
    if (mark <= x.low || mark >= x.high) continue;
    svg += fmt::format(
        "<line class=\"mark\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:.1f}\" y2=\"{2:.1f}\">"
        "<title>started again after step {3:g}</title></line>\n",
        PixelX(x, mark), kTop, kHeight - kBottom, mark);
  }
  return svg;
}

std::string DrawSeries(const ChartSeries& series, const Points& points, const Axis& x,
                       const Axis& y) {
  std::string svg;
  if (points.size() > 1) {
    svg += fmt::format("<polyline class=\"line {}\" points=\"", series.css_class);
    for (const auto& [px, py] : points) {
      svg += fmt::format("{:.1f},{:.1f} ", PixelX(x, px), PixelY(y, py));
    }
    svg += "\"/>\n";
  }
  if (!series.dots && points.size() > 1) return svg;
  for (const auto& [px, py] : points) {
    svg += fmt::format(
        "<circle class=\"dot {}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.5\"><title>step {:g}: {:.5g}"
        "</title></circle>\n",
        series.css_class, PixelX(x, px), PixelY(y, py), px, py);
  }
  return svg;
}

}  // namespace

std::string DrawChart(const Chart& chart) {
  std::vector<Points> points;
  Axis x{std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity(), false};
  Axis y = x;
  y.logarithmic = chart.log_y;
  for (const ChartSeries& series : chart.series) {
    points.push_back(Thin(Finite(series.points, chart.log_y)));
    Extend(points.back(), &x, &y);
  }
  std::string html = fmt::format("<figure><figcaption><b>{}</b>", EscapeHtml(chart.title));
  for (size_t i = 0; i < chart.series.size(); ++i) {
    if (chart.series[i].name.empty() || points[i].empty()) continue;
    html += fmt::format("<span class=\"key {}\">{}</span>", chart.series[i].css_class,
                        EscapeHtml(chart.series[i].name));
  }
  html += "</figcaption>";
  if (x.low > x.high) return html + "<p class=\"none\">Nothing was recorded.</p></figure>\n";
  if (chart.from_zero) y.low = std::min(y.low, 0.0);
  Widen(&x);
  Widen(&y);
  html += fmt::format("<svg viewBox=\"0 0 {:g} {:g}\" role=\"img\" aria-label=\"{}\">\n", kWidth,
                      kHeight, EscapeHtml(chart.title));
  html += DrawAxes(chart, x, y);
  for (size_t i = 0; i < chart.series.size(); ++i) {
    html += DrawSeries(chart.series[i], points[i], x, y);
  }
  return html + "</svg></figure>\n";
}

std::string EscapeHtml(const std::string& text) {
  std::string html;
  for (const char c : ReplaceInvalidUtf8(text)) {
    switch (c) {
      case '&': html += "&amp;"; break;
      case '<': html += "&lt;"; break;
      case '>': html += "&gt;"; break;
      case '"': html += "&quot;"; break;
      default: html += c; break;
    }
  }
  return html;
}

}  // namespace sepia::trainer
