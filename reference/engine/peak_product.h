// The fp32 multiply-add rate of this CPU: what floors on a CPU stand on. Not part of the reference; the reference is slower.
#pragma once

#include <cstdint>

namespace tandem::reference {

inline constexpr int kTileRows = 6;
inline constexpr int kTileCols = 16;

/// c[6][16] += a^T b over `depth`, `times` times over; a [depth, 6] and b [depth, 16] stay in the first-level cache. Compiled
/// for several instruction sets, the best one is chosen when the program starts.
void product_tile(const float* a, const float* b, float* c, int depth, int times);

}  // namespace tandem::reference
