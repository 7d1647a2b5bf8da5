// Line charts as inline SVG, coloured by the classes of the page's style sheet.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace sepia::trainer {

struct ChartSeries {
  std::string name;                               // for the legend; empty: not listed
  std::string css_class;                          // "raw", "smooth", "valid", "plain"
  std::vector<std::pair<double, double>> points;  // by rising x; NaN values are left out
  bool dots = false;  // a dot a point, with its value on hover, beside the line
};

struct Chart {
  std::string title;
  std::string x_label;
  std::vector<ChartSeries> series;
  std::vector<double> marks;  // vertical lines, e.g. restarts
  bool log_y = false;         // only when every value is positive
  bool from_zero = false;
};

// A <figure> with title, legend and SVG; a sentence instead when there is nothing to draw. Long
// series are thinned to the extremes of each of about a thousand columns.
std::string DrawChart(const Chart& chart);

// Text for HTML: & < > " replaced, bytes that are not UTF-8 shown as U+FFFD.
std::string EscapeHtml(const std::string& text);

}  // namespace sepia::trainer
