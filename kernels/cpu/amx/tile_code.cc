#include "kernels/cpu/amx/segments.h"

namespace sepia::kernels::cpu::amx::SEPIA_TILES {

const TileCode kTileCode = {ForwardSegment, BackwardSegment, ReduceKeyGradients, ForwardBytes,
                            BackwardBytes};

}  // namespace sepia::kernels::cpu::amx::SEPIA_TILES
