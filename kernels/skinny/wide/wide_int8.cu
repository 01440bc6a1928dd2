#include "kernels/skinny/wide/wide_dispatch.cuh"

namespace tandem::kernels {

WideKernel find_wide_int8(int batch, bool head) {
  return find_wide<WideInt8>(batch, head);
}

}  // namespace tandem::kernels
