// Places in config text and the faults found there, collected to be reported together.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/error.h"

namespace sepia::trainer {

// A position in the config file (source 0) or in the k-th --set (source k).
struct ConfigPlace {
  int source = 0;
  int line = 0;    // from 1; 0: the source as a whole
  int column = 0;  // from 1
  friend auto operator<=>(const ConfigPlace&, const ConfigPlace&) = default;
};

// Where each field that was given stands, by path: "model.attention.window",
// "data.train[0].prefix"; a repeated field of numbers or strings has one place.
using ConfigPlaces = std::map<std::string, ConfigPlace>;

// Names the sources: the file's path first, then the text of each --set.
class ConfigSources {
 public:
  explicit ConfigSources(const std::string& file) : names_{file} {}

  // Returns the number of the new source.
  int AddOverride(const std::string& text);
  // "run.textproto:12:3" or "--set batch.micro=x, column 13".
  std::string Describe(const ConfigPlace& place) const;

 private:
  std::vector<std::string> names_;
};

class ConfigFaults {
 public:
  explicit ConfigFaults(const ConfigSources* sources) : sources_(sources) {}

  void Add(const ConfigPlace& place, const std::string& message, ExitCode code = ExitCode::kUsage);
  // At the place of `path` or of the nearest enclosing message that was given.
  void AddAt(const ConfigPlaces& places, const std::string& path, const std::string& message,
             ExitCode code = ExitCode::kUsage);

  bool empty() const { return faults_.empty(); }
  size_t size() const { return faults_.size(); }
  // Too many to be worth reading on: parsers stop.
  bool full() const { return faults_.size() >= kMaxFaults; }
  // Throws UserError with one line a fault, in the order of the text, when there are any. Its code
  // is the one that all of them share, else kUsage.
  void ThrowIfAny() const;

 private:
  static constexpr size_t kMaxFaults = 1000;
  struct Fault {
    ConfigPlace place;
    std::string message;
    ExitCode code;
  };

  const ConfigSources* sources_;
  std::vector<Fault> faults_;
};

}  // namespace sepia::trainer
