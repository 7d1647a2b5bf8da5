#include "trainer/log_line.h"

#include <cmath>
#include <cstdlib>
#include <string_view>

#include <fmt/core.h>

#include "base/clock.h"

namespace sepia::trainer {
namespace {

// Spikes beyond this many standard deviations are shown.
constexpr double kSpike = 4;

std::string WithPrefix(double value, double base) {
  constexpr std::string_view kPrefixes[] = {"", "k", "M", "G", "T", "P"};
  size_t i = 0;
  for (; value >= base && i + 1 < std::size(kPrefixes); ++i) value /= base;
  const int decimals = i == 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return fmt::format("{:.{}f}{}", value, decimals, kPrefixes[i]);
}

std::string Spike(double z) {
  return std::abs(z) >= kSpike ? fmt::format(" ({:+.1f}z)", z) : std::string();
}

}  // namespace

std::string FormatRate(double rate) {
  if (rate == 0) return "0";
  const std::string text = fmt::format("{:.2e}", rate);
  const size_t e = text.find('e');
  return fmt::format("{}e{}", text.substr(0, e), std::atoi(text.c_str() + e + 1));
}

std::string FormatCount(double count) { return WithPrefix(count, 1000); }

std::string FormatBytes(int64_t bytes) { return WithPrefix(static_cast<double>(bytes), 1024); }

std::string FormatLogLine(const StepMetrics& m, int64_t total_steps, double eta_seconds) {
  const double percent = 100.0 * static_cast<double>(m.step) / static_cast<double>(total_steps);
  const auto share = [&](double ms) { return m.step_ms > 0 ? 100 * ms / m.step_ms : 0.0; };
  std::string line = fmt::format("step {}/{} {:.2f}% loss {:.4f}{} gnorm {:.2f}{} lr {}", m.step,
                                 total_steps, percent, m.loss, Spike(m.loss_z), m.grad_norm,
                                 Spike(m.grad_norm_z), FormatRate(m.lr));
  line += fmt::format(" {} tok/s {:.0f} ms (data {:.0f} comm {:.0f}%)", FormatCount(m.tokens_per_s),
                      m.step_ms, share(m.data_ms), share(m.comm_ms));
  if (!std::isnan(m.mfu)) line += fmt::format(" MFU {:.1f}%", 100 * m.mfu);
  line += fmt::format(" mem {} ETA {}", FormatBytes(m.rss_bytes), FormatDuration(eta_seconds));
  if (m.loss_scale != 1) line += fmt::format(" scale {:g}", m.loss_scale);
  if (m.skipped > 0) line += fmt::format(" skipped {}", m.skipped);
  if (!std::isnan(m.valid_loss)) line += fmt::format(" valid {:.4f}", m.valid_loss);
  return line;
}

}  // namespace sepia::trainer
