// The speed of this machine's memory: one of the two limits of a roofline.
#pragma once

namespace sepia::tools {

// Reads and writes of all threads together, over arrays beyond any cache: 1e9 bytes a second.
double MemoryGbPerSecond(int num_threads);

}  // namespace sepia::tools
