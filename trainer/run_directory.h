// The directory of one run:
//   config.resolved.textproto  manifest.json  metrics.jsonl  events.out.tfevents.*  checkpoints/
//   samples/  report.html  logs/rank_N.log  hang/  lock
// One process group at a time: an flock on `lock`, which the kernel gives back however the process
// ends.
#pragma once

#include <string>

#include "base/file.h"

namespace sepia::trainer {

class RunDirectory {
 public:
  // Creates what is missing and takes the lock, for the run's one `owner`; its other processes only
  // learn the names. Throws UserError(kUsage) naming host and process when another run holds the
  // lock, kCannotWrite when the place is read-only.
  explicit RunDirectory(const std::string& path, bool owner = true);

  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }
  std::string config() const { return File("config.resolved.textproto"); }
  std::string manifest() const { return File("manifest.json"); }
  std::string metrics() const { return File("metrics.jsonl"); }
  std::string samples() const { return File("samples"); }
  // Reports of a hang (dist/watchdog.h). Those of an earlier start are set aside by its owner, as
  // hang-1, hang-2, ...
  std::string hang() const { return File("hang"); }

 private:
  std::string path_;
  sepia::File lock_;
};

}  // namespace sepia::trainer
