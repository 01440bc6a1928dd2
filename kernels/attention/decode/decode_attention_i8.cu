// Decode attention for keys and values as int8 codes.
#include "kernels/attention/decode/decode_mma.cuh"

namespace tandem::kernels {

void launch_decode_i8(DType dtype, bool self, const DecodeArgs& args, const DecodeLaunch& how) {
  using Elements = decode::CodeElements<DType::kI8>;
  if (dtype == DType::kF16) return decode::launch_elements<__half, Elements>(self, args, how);
  return decode::launch_elements<__nv_bfloat16, Elements>(self, args, how);
}

}  // namespace tandem::kernels
