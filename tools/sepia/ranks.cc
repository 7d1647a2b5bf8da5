#include "tools/sepia/ranks.h"

#include <fmt/format.h>

#include "base/crc32c.h"
#include "base/file.h"
#include "base/log.h"
#include "dist/agreement.h"

namespace sepia::tools {
namespace {

// Nodes may each have their own copy: what counts is the content.
std::string ProgramIdentity() {
  const MappedFile program("/proc/self/exe");
  return fmt::format("CRC32C {:08x}", Crc32c(program.bytes()));
}

}  // namespace

std::unique_ptr<dist::Communicator> JoinWorld() {
  std::unique_ptr<dist::Communicator> world = dist::MakeWorldCommunicator();
  if (world->size() == 1) return world;
  if (world->rank() != 0) {
    SetConsoleLogLevel(LogLevel::kWarn);
    SetLogPrefix(fmt::format("[rank {}] ", world->rank()));
  }
  dist::RequireSame(*world, {.what = "the sepia program",
                             .value = ProgramIdentity(),
                             .remedy = "install the same build on every node"});
  return world;
}

}  // namespace sepia::tools
