#include "kernels/skinny/wide/wide_dispatch.cuh"

namespace tandem::kernels {

WideKernel find_wide_stats(int batch) {
  return find_wide<WideWithStats>(batch, false);
}

}  // namespace tandem::kernels
