#include "reference/engine/peak_product.h"

namespace tandem::reference {

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
// Sanitizers cannot run before the resolver of a clone does.
__attribute__((target_clones("avx512f", "arch=haswell", "default")))
#endif
void product_tile(const float* a, const float* b, float* c, int depth, int times) {
  float sum[kTileRows][kTileCols] = {};
  for (int t = 0; t < times; ++t) {
    for (int p = 0; p < depth; ++p) {
#pragma GCC unroll 6
      for (int i = 0; i < kTileRows; ++i) {
#pragma omp simd
        for (int j = 0; j < kTileCols; ++j) sum[i][j] += a[p * kTileRows + i] * b[p * kTileCols + j];
      }
    }
  }
  for (int i = 0; i < kTileRows; ++i) {
    for (int j = 0; j < kTileCols; ++j) c[i * kTileCols + j] += sum[i][j];
  }
}

}  // namespace tandem::reference
