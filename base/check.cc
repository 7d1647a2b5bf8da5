#include "base/check.h"

namespace sepia::internal {

void CheckFailed(const char* file, int line, const char* condition, const std::string& detail) {
  std::string message = fmt::format("{}:{}: check failed: {}", file, line, condition);
  if (!detail.empty()) message += " (" + detail + ")";
  throw InternalError(message);
}

}  // namespace sepia::internal
