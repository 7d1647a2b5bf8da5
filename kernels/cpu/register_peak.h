// The arithmetic peak of an instruction set on this machine: what shares of peak are a share of.
#pragma once

#include "kernels/cpu/cpu_features.h"

namespace sepia::kernels::cpu {

// One burst of some milliseconds, all threads at once, on operands that never leave the registers:
// fp32 FMA for kAvx2 and kAvx512, vdpbf16ps for kAvx512Bf16, tdpbf16ps for kAmx; 1e9 operations a
// second. Random operands: on zeros the clock stays higher than any real product lets it. Take the
// median of bursts between the runs of what they are compared with. `isa` is one of RunnableIsas().
double RegisterPeakGflops(Isa isa, int num_threads);

}  // namespace sepia::kernels::cpu
