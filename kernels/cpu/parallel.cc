#include "kernels/cpu/parallel.h"

namespace sepia::kernels {

int DefaultNumThreads() { return omp_get_max_threads(); }

}  // namespace sepia::kernels
