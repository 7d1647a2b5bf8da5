#include "dist/hang_report.h"

#include <algorithm>
#include <map>
#include <set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "dist/gather.h"

namespace sepia::dist {
namespace {

constexpr const char* kStates[] = {"asked", "running", "done"};

using Reports = std::vector<std::optional<HangReport>>;

nlohmann::ordered_json SecondsAgo(double now, double then) {
  if (then == 0) return nullptr;
  return std::max(0.0, now - then);
}

double Then(double now, const nlohmann::ordered_json& ago) {
  return ago.is_number() ? now - ago.get<double>() : 0;
}

std::string Text(std::string_view text) { return std::string(text); }

nlohmann::ordered_json ToObject(const Collective& c, double now) {
  return {{"call", c.call},
          {"group", Text(c.group.view())},
          {"group_call", c.group_call},
          {"operation", Text(c.operation.view())},
          {"label", Text(c.label.view())},
          {"bytes", c.bytes},
          {"state", kStates[static_cast<size_t>(c.state)]},
          {"asked_s_ago", SecondsAgo(now, c.asked)},
          {"started_s_ago", SecondsAgo(now, c.started)},
          {"done_s_ago", SecondsAgo(now, c.done)}};
}

Collective ToCollective(const nlohmann::ordered_json& object, double now) {
  const auto text = [&](const char* name) { return object.at(name).get<std::string>(); };
  Collective c{.call = object.at("call"),
               .group_call = object.at("group_call"),
               .group = std::string_view(text("group")),
               .operation = std::string_view(text("operation")),
               .label = std::string_view(text("label")),
               .bytes = object.at("bytes"),
               .asked = Then(now, object.at("asked_s_ago")),
               .started = Then(now, object.at("started_s_ago")),
               .done = Then(now, object.at("done_s_ago"))};
  const std::string state = text("state");
  c.state = state == kStates[2]   ? Collective::State::kDone
            : state == kStates[1] ? Collective::State::kRunning
                                  : Collective::State::kAsked;
  return c;
}

// The collective that a rank waits in: its oldest that is not done.
const Collective* Waiting(const HangReport& report) {
  for (const Collective& c : report.record.collectives) {
    if (c.state != Collective::State::kDone) return &c;
  }
  return nullptr;
}

std::string Call(const Collective& c) {
  return fmt::format("{} \"{}\" of {} bytes", c.operation.view(), c.label.view(), c.bytes);
}

std::string Place(const HangReport& report) {
  return fmt::format("phase \"{}\" of step {}", report.record.phase.view(), report.record.step);
}

std::string WhereItWaits(const HangReport& report) {
  const Collective* c = Waiting(report);
  if (c == nullptr) return fmt::format("is in {}", Place(report));
  return fmt::format("waits in call {} of group {}, {}, {}", c->group_call, c->group.view(),
                     Call(*c), Place(report));
}

class Judge {
 public:
  Judge(const Reports& reports, const std::vector<std::string>& nodes)
      : reports_(reports), nodes_(nodes) {}

  std::string Verdict() const {
    const std::vector<int> silent = RanksWhere([&](int r) { return !Report(r); });
    if (!silent.empty()) {
      return fmt::format("{} {} not answer: stopped, dead, or {} node or network is lost; {}",
                         Names(silent), silent.size() == 1 ? "does" : "do",
                         silent.size() == 1 ? "its" : "their", WhoWaits(silent));
    }
    const std::vector<int> late = RanksWhere([&](int r) { return Waiting(*Report(r)) == nullptr; });
    if (!late.empty()) {
      const HangReport& report = *Report(late.front());
      return fmt::format("{} late: in {} since {:.1f} s, in no collective; {}; see the backtrace",
                         Names(late) + (late.size() == 1 ? " is" : " are"), Place(report),
                         report.now - report.record.phase_began, WhoWaits(late));
    }
    std::string difference = FirstDifference();
    if (!difference.empty()) return difference;
    const std::string where = WhereItWaits(*Report(0));
    for (size_t r = 1; r < reports_.size(); ++r) {
      if (WhereItWaits(*reports_[r]) != where) return EveryPlace();
    }
    return fmt::format(
        "all ranks wait in the same collective: the network between {} is suspect; "
        "rank 0 {}",
        JoinNodes(), where);
  }

 private:
  const std::optional<HangReport>& Report(int rank) const {
    return reports_[static_cast<size_t>(rank)];
  }

  template <typename Condition>
  std::vector<int> RanksWhere(const Condition& condition) const {
    std::vector<int> ranks;
    for (int r = 0; r < static_cast<int>(reports_.size()); ++r) {
      if (condition(r)) ranks.push_back(r);
    }
    return ranks;
  }

  std::string Name(int rank) const {
    return fmt::format("rank {} (on {})", rank, nodes_[static_cast<size_t>(rank)]);
  }

  std::string Names(const std::vector<int>& ranks) const {
    if (ranks.size() == 1) return Name(ranks.front());
    return fmt::format("ranks {} (the first on {})", JoinRanks(ranks),
                       nodes_[static_cast<size_t>(ranks.front())]);
  }

  std::string JoinNodes() const {
    const std::set<std::string> nodes(nodes_.begin(), nodes_.end());
    return fmt::format("{}", fmt::join(nodes, ", "));
  }

  // The first rank that is not to blame.
  std::string WhoWaits(const std::vector<int>& blamed) const {
    for (int r = 0; r < static_cast<int>(reports_.size()); ++r) {
      if (Report(r) && std::find(blamed.begin(), blamed.end(), r) == blamed.end()) {
        return fmt::format("rank {} {}", r, WhereItWaits(*Report(r)));
      }
    }
    return "no other rank has reported";
  }

  // Ranks of one group call the same things in the same order: the first call where they do not.
  std::string FirstDifference() const {
    std::set<std::string> groups;
    for (const auto& report : reports_) {
      for (const Collective& c : report->record.collectives) groups.emplace(c.group.view());
    }
    for (const std::string& group : groups) {
      // By number in the group: who called what.
      std::map<int64_t, std::map<int, std::string>> calls;
      for (const auto& report : reports_) {
        for (const Collective& c : report->record.collectives) {
          if (c.group.view() == group) calls[c.group_call][report->rank] = Call(c);
        }
      }
      for (const auto& [number, by_rank] : calls) {
        std::vector<int> ranks;
        std::vector<std::string> texts;
        for (const auto& [rank, text] : by_rank) {
          ranks.push_back(rank);
          texts.push_back(text);
        }
        const std::vector<int> odd = RanksThatDiffer(texts);
        if (odd.empty()) continue;
        const auto first = static_cast<size_t>(odd.front());
        const size_t usual = first == 0 ? UsualOf(odd) : 0;
        return fmt::format(
            "{} called {} as call {} of group {}, but {} called {}: one of them has left out or "
            "added a collective",
            Name(ranks[first]), texts[first], number, group, Name(ranks[usual]), texts[usual]);
      }
    }
    return "";
  }

  static size_t UsualOf(const std::vector<int>& odd) {
    size_t usual = 0;
    while (std::find(odd.begin(), odd.end(), static_cast<int>(usual)) != odd.end()) ++usual;
    return usual;
  }

  // At most eight ranks, so that the line stays readable.
  std::string EveryPlace() const {
    std::vector<std::string> places;
    for (size_t r = 0; r < std::min<size_t>(8, reports_.size()); ++r) {
      places.push_back(fmt::format("{} {}", Name(static_cast<int>(r)), WhereItWaits(*reports_[r])));
    }
    return fmt::format("ranks wait for each other in different collectives: {}",
                       fmt::join(places, "; "));
  }

  const Reports& reports_;
  const std::vector<std::string>& nodes_;
};

}  // namespace

std::string ToJson(const HangReport& report) {
  nlohmann::ordered_json collectives = nlohmann::ordered_json::array();
  for (const Collective& c : report.record.collectives) {
    collectives.push_back(ToObject(c, report.now));
  }
  nlohmann::ordered_json threads = nlohmann::ordered_json::array();
  for (const ThreadTrace& t : report.threads) {
    threads.push_back({{"thread", t.thread}, {"name", t.name}, {"frames", t.frames}});
  }
  const nlohmann::ordered_json object = {{"rank", report.rank},
                                         {"node", report.node},
                                         {"process", report.process},
                                         {"time", FormatUtc(WallSeconds())},
                                         {"reason", report.reason},
                                         {"stalled_s", report.stalled},
                                         {"step", report.record.step},
                                         {"phase", Text(report.record.phase.view())},
                                         {"phase_s", report.now - report.record.phase_began},
                                         {"collectives", std::move(collectives)},
                                         {"threads", std::move(threads)}};
  return object.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

std::optional<HangReport> ParseHangReport(std::string_view json) {
  try {
    const auto object = nlohmann::ordered_json::parse(json);
    HangReport report;
    report.rank = object.at("rank");
    report.node = object.at("node");
    report.process = object.at("process");
    report.reason = object.at("reason");
    report.now = MonotonicSeconds();
    report.stalled = object.at("stalled_s");
    report.record.step = object.at("step");
    report.record.phase = std::string_view(object.at("phase").get<std::string>());
    report.record.phase_began = report.now - object.at("phase_s").get<double>();
    for (const auto& c : object.at("collectives")) {
      report.record.collectives.push_back(ToCollective(c, report.now));
    }
    return report;
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  }
}

std::string HangVerdict(const Reports& reports, const std::vector<std::string>& nodes) {
  return Judge(reports, nodes).Verdict();
}

}  // namespace sepia::dist
