// Quantised weights for a measurement: random codes of every value that a type has.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "harness/base/half.h"
#include "harness/base/host_device.h"
#include "harness/base/tensor.h"

namespace tandem::kernels {

/// Random codes [n, k] with their scales after them, on 256 bytes. `values`: code by scale.
struct CodeMatrix {
  std::vector<uint8_t> bytes;
  int64_t scales_at = 0;
  int64_t used = 0;  // bytes without the gap
  std::vector<float> values;

  CodeMatrix(DType type, int64_t n, int64_t k) {
    std::mt19937_64 engine(1);
    std::vector<uint8_t> block(1'000'003);
    for (uint8_t& b : block) {
      b = static_cast<uint8_t>(engine());
      if (type == DType::kF8) b &= 0xbf;  // below 2, and no NaN
      if (type == DType::kI8 && b == 0x80) b = 0x81;
    }
    const bool narrow = type == DType::kI4;
    const int64_t groups = narrow ? ceil_div(k, 128) : 1;
    const int64_t code_bytes = tensor_bytes(type, n * k);
    scales_at = round_up(code_bytes, int64_t{256});
    bytes.resize(static_cast<size_t>(scales_at + n * groups * (narrow ? 2 : 4)));
    used = code_bytes + static_cast<int64_t>(bytes.size()) - scales_at;
    for (int64_t i = 0; i < code_bytes; ++i) bytes[i] = block[i % block.size()];
    values.resize(static_cast<size_t>(n * k));
    for (int64_t row = 0; row < n; ++row) {
      for (int64_t g = 0; g < groups; ++g) {
        const float scale = std::ldexp(1.0f, -7 - static_cast<int>((row + g) % 3));
        const uint16_t half = float_to_bf16(scale);
        uint8_t* to = &bytes[static_cast<size_t>(scales_at + (row * groups + g) * (narrow ? 2 : 4))];
        narrow ? std::memcpy(to, &half, 2) : std::memcpy(to, &scale, 4);
        for (int64_t j = g * (narrow ? 128 : k); j < std::min(k, (g + 1) * (narrow ? 128 : k)); ++j) {
          const uint8_t byte = bytes[static_cast<size_t>(tensor_bytes(type, row * k) + (narrow ? j / 2 : j))];
          const auto nibble = static_cast<int8_t>(static_cast<uint8_t>(j % 2 == 0 ? byte << 4 : byte & 0xf0));
          const float code = narrow               ? static_cast<float>(nibble / 16)
                             : type == DType::kF8 ? f8_to_float(byte)
                                                  : static_cast<float>(static_cast<int8_t>(byte));
          values[row * k + j] = code * scale;
        }
      }
    }
  }
};

}  // namespace tandem::kernels
