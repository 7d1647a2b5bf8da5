// Sums over queries whose bits do not depend on who computes them.
#pragma once

#include <cstdint>

namespace sepia::kernels::cpu {

// A part of the queries of a backward task: those from the end of the part before, or from the
// task's first query, to `end`. In every part key gradients are summed from zero in fp32; a key's
// sums of all parts of a head are added in their order, the first one as it is. So a task of many
// parts gives the same bits as many tasks of one part each.
struct QueryPart {
  int64_t end;         // not empty
  int64_t num_packed;  // packed keys that some query of the part sees
};

}  // namespace sepia::kernels::cpu
