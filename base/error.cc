#include "base/error.h"

#include <cstring>

namespace sepia {

UserError BadData(const std::string& path, int64_t offset, const std::string& reason,
                  const std::string& remedy) {
  std::string message = path;
  if (offset >= 0) message += fmt::format(": offset {}", offset);
  message += ": " + reason;
  if (!remedy.empty()) message += "; " + remedy;
  return UserError(ExitCode::kBadData, message);
}

UserError CannotWrite(const std::string& path, int system_errno, const std::string& remedy) {
  std::string message = fmt::format("{}: cannot write: {}", path, std::strerror(system_errno));
  if (!remedy.empty()) message += "; " + remedy;
  return UserError(ExitCode::kCannotWrite, message);
}

}  // namespace sepia
