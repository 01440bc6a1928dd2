// Decode attention for keys and values as e4m3 codes.
#include "kernels/attention/decode/decode_elements.cuh"

namespace tandem::kernels {

void launch_decode_f8(bool self, const DecodeArgs& args, const DecodeLaunch& how) {
  decode::launch_elements<Either16, decode::CodeElements<DType::kF8>>(self, args, how);
}

}  // namespace tandem::kernels
