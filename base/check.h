// Invariants that stay on in every build. A failure is a bug in Sepia, never a user's mistake:
// for those throw UserError (base/error.h).
//
//   CHECK(x.rank() == 2);
//   CHECK(index < size, "parameter {} of {}", index, size);
//   CHECK_EQ(a.shape(), b.shape());        // prints both values
//   DCHECK(...)                            // inner loops; off under NDEBUG
#pragma once

#include <string>

#include <fmt/core.h>

#include "base/error.h"

namespace sepia::internal {

[[noreturn]] void CheckFailed(const char* file, int line, const char* condition,
                              const std::string& detail);

template <typename... Args>
std::string CheckDetail(fmt::format_string<Args...> format, Args&&... args) {
  return fmt::format(format, std::forward<Args>(args)...);
}
inline std::string CheckDetail() { return {}; }

}  // namespace sepia::internal

#define CHECK(condition, ...)                                                       \
  do {                                                                              \
    if (!(condition)) [[unlikely]] {                                                \
      ::sepia::internal::CheckFailed(__FILE__, __LINE__, #condition,                \
                                     ::sepia::internal::CheckDetail(__VA_ARGS__)); \
    }                                                                               \
  } while (false)

#define SEPIA_CHECK_OP(a, b, op)                                                            \
  do {                                                                                      \
    const auto& sepia_check_a = (a);                                                        \
    const auto& sepia_check_b = (b);                                                        \
    if (!(sepia_check_a op sepia_check_b)) [[unlikely]] {                                   \
      ::sepia::internal::CheckFailed(__FILE__, __LINE__, #a " " #op " " #b,                 \
                                     fmt::format("{} vs {}", sepia_check_a, sepia_check_b)); \
    }                                                                                       \
  } while (false)

#define CHECK_EQ(a, b) SEPIA_CHECK_OP(a, b, ==)
#define CHECK_NE(a, b) SEPIA_CHECK_OP(a, b, !=)
#define CHECK_LT(a, b) SEPIA_CHECK_OP(a, b, <)
#define CHECK_LE(a, b) SEPIA_CHECK_OP(a, b, <=)
#define CHECK_GT(a, b) SEPIA_CHECK_OP(a, b, >)
#define CHECK_GE(a, b) SEPIA_CHECK_OP(a, b, >=)

#ifdef NDEBUG
#define DCHECK(condition, ...) \
  do {                         \
  } while (false && (condition))
#else
#define DCHECK(...) CHECK(__VA_ARGS__)
#endif
