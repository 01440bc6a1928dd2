#include "harness/weights/values/rounding.h"

#include <fmt/format.h>

#include "harness/base/error.h"
#include "harness/base/half.h"

namespace tandem {

void round_weights(Precision precision, std::span<float> weights) {
  switch (precision) {
    case Precision::kFp32:
      return;
    case Precision::kTf32:
      for (float& w : weights) w = round_to_tf32(w);
      return;
    case Precision::kFp16:
      for (float& w : weights) w = fp16_to_float(float_to_fp16(w));
      return;
    case Precision::kBf16:
      for (float& w : weights) w = bf16_to_float(float_to_bf16(w));
      return;
    case Precision::kFp8:
    case Precision::kInt8:
    case Precision::kW8a16:
    case Precision::kW4a16:
      break;
  }
  throw Error(
      fmt::format("weights are rounded to fp32, tf32, fp16 or bf16; {} has scales of its engine's choice",
                  precision_name(precision)));
}

}  // namespace tandem
