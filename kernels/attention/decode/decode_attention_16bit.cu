// Decode attention for keys and values in fp16 and bf16.
#include "kernels/attention/decode/decode_elements.cuh"

namespace tandem::kernels {

void launch_decode_16bit(DType dtype, bool self, const DecodeArgs& args, const DecodeLaunch& how) {
  if (dtype == DType::kF16)
    return decode::launch_elements<__half, decode::PlainElements<__half>>(self, args, how);
  return decode::launch_elements<__nv_bfloat16, decode::PlainElements<__nv_bfloat16>>(self, args, how);
}

}  // namespace tandem::kernels
