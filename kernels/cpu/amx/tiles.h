// The tile unit that this build uses. A tile is 16 rows of 64 bytes, stored contiguously (1 KB).
//   TileZero<c>(), TileLoad<t>(from), TileBroadcast<c>(row), TileStore<c>(to)
//   TileMultiply<c, a, b>(): C [16 x 16] fp32 += A [16 x 32] bf16 * B, where row k of B holds the
//   pairs (B[2k][n], B[2k+1][n]) of its 16 columns n. Denormals count as zero.
#pragma once

#if defined(SEPIA_EMULATED_TILES)
#include "kernels/cpu/amx/tiles_emulated.h"
#else
#include "kernels/cpu/amx/tiles_hardware.h"
#endif
