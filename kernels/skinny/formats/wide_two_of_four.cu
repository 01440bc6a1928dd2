#include "kernels/skinny/wide/wide_dispatch.cuh"

namespace tandem::kernels {

WideKernel find_wide_two_of_four(int batch) {
  return find_wide<WideTwoOfFour>(batch, false);
}

}  // namespace tandem::kernels
