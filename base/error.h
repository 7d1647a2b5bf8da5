// Errors that reach a person, and the process exit codes they end in.
//
// Exit codes are part of the command-line interface: scripts and supervisors rely on them
// (docs/exit-codes.md). Exceptions are the only error channel; main() catches once.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include <fmt/core.h>

namespace sepia {

enum class ExitCode : int {
  kDone = 0,
  kInternal = 1,      // a bug in Sepia
  kUsage = 2,         // command line or config
  kBadData = 65,      // damaged or unsuitable input file or checkpoint
  kNumerical = 70,    // training diverged (non-finite updates)
  kHang = 71,         // hang, or a lost peer
  kCannotWrite = 73,  // disk full, no permission
  kStopped = 75,      // stopped on request; the run can be resumed
  kEnvironment = 78,  // missing device, unsuitable library or machine
};

// Base of every exception that Sepia throws on purpose.
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

// Something the user can mend. The message says what is wrong, where, and how to mend it.
class UserError : public Error {
 public:
  explicit UserError(const std::string& message) : Error(ExitCode::kUsage, message) {}
  UserError(ExitCode code, const std::string& message) : Error(code, message) {}
};

// A violated invariant: a bug in Sepia, thrown by CHECK.
class InternalError : public Error {
 public:
  explicit InternalError(const std::string& message) : Error(ExitCode::kInternal, message) {}
};

// `throw BadData(path, offset, "reason", "remedy")`: a damaged or unsuitable input file.
// A negative offset means that the fault has no single place.
UserError BadData(const std::string& path, int64_t offset, const std::string& reason,
                  const std::string& remedy = "");

// `throw CannotWrite(path, errno, "remedy")`: a failed write, with the system's reason.
UserError CannotWrite(const std::string& path, int system_errno, const std::string& remedy = "");

}  // namespace sepia
