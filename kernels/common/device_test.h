// What tests of kernels share: rounding operands as the device stores them, poisoned outputs, comparison with
// a truth in double.
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "harness/base/half.h"
#include "harness/base/tensor.h"
#include "harness/base/testing/test_seed.h"
#include "kernels/common/device_buffer.h"

namespace tandem::kernels {

inline bool has_device() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count > 0;
  cudaGetLastError();
  return false;
}
#define TANDEM_NEEDS_DEVICE() \
  if (!::tandem::kernels::has_device()) GTEST_SKIP() << "no CUDA device"

inline constexpr DType kFloatTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

/// `v` as the device's type can hold it.
inline float rounded(float v, DType t) {
  if (t == DType::kF16) return fp16_to_float(float_to_fp16(v));
  if (t == DType::kBF16) return bf16_to_float(float_to_bf16(v));
  return v;
}
/// Distance from 1 to the next number of the type.
inline double epsilon(DType t) {
  return t == DType::kF16 ? 0x1p-10 : t == DType::kBF16 ? 0x1p-7 : 0x1p-23;
}

inline std::vector<uint8_t> encoded(const std::vector<float>& values, DType t) {
  std::vector<uint8_t> bytes(static_cast<size_t>(tensor_bytes(t, static_cast<int64_t>(values.size()))));
  for (size_t i = 0; i < values.size(); ++i) {
    if (t == DType::kF32) {
      std::memcpy(&bytes[4 * i], &values[i], 4);
    } else {
      const uint16_t bits = t == DType::kF16 ? float_to_fp16(values[i]) : float_to_bf16(values[i]);
      std::memcpy(&bytes[2 * i], &bits, 2);
    }
  }
  return bytes;
}
inline std::vector<float> decoded(const std::vector<uint8_t>& bytes, DType t) {
  std::vector<float> values(bytes.size() / static_cast<size_t>(dtype_bytes(t)));
  for (size_t i = 0; i < values.size(); ++i) {
    if (t == DType::kF32) {
      std::memcpy(&values[i], &bytes[4 * i], 4);
    } else {
      uint16_t bits = 0;
      std::memcpy(&bits, &bytes[2 * i], 2);
      values[i] = t == DType::kF16 ? fp16_to_float(bits) : bf16_to_float(bits);
    }
  }
  return values;
}

inline constexpr int64_t kGuardBytes = 256;

/// Values of one type on the device, with a guard of 0xff bytes (NaN in every float type) after them, and
/// `shift` elements after an allocation's start, so that tests can take the alignment away.
class DeviceTensor {
 public:
  DeviceTensor(const std::vector<float>& values, DType type, int64_t shift = 0)
      : DeviceTensor(static_cast<int64_t>(values.size()), type, shift) {
    const std::vector<uint8_t> bytes = encoded(values, type);
    if (!bytes.empty())
      TANDEM_CUDA_CHECK(cudaMemcpy(data(), bytes.data(), bytes.size(), cudaMemcpyHostToDevice));
  }
  /// Poisoned: every value is NaN.
  DeviceTensor(int64_t count, DType type, int64_t shift = 0)
      : type_(type), count_(count), shift_bytes_(tensor_bytes(type, shift)) {
    buffer_ = DeviceBuffer(shift_bytes_ + tensor_bytes(type, count) + kGuardBytes);
    TANDEM_CUDA_CHECK(cudaMemset(buffer_.data(), 0xff, static_cast<size_t>(buffer_.bytes())));
  }

  void* data() const { return buffer_.data<char>() + shift_bytes_; }
  DType type() const { return type_; }

  std::vector<uint8_t> bytes() const {
    const std::vector<uint8_t> all = buffer_.to_host<uint8_t>();
    const auto first = all.begin() + shift_bytes_;
    const auto last = first + tensor_bytes(type_, count_);
    for (auto guard = last; guard != all.end(); ++guard) {
      if (*guard != 0xff) {
        ADD_FAILURE() << "written " << guard - last << " bytes past the end";
        break;
      }
    }
    return {first, last};
  }
  std::vector<float> values() const { return decoded(bytes(), type_); }

 private:
  DType type_;
  int64_t count_;
  int64_t shift_bytes_;
  DeviceBuffer buffer_;
};

/// Random values already rounded to a type, so that device and truth start from the same numbers.
class RandomValues {
 public:
  explicit RandomValues(uint64_t seed) : engine_(seed) {}
  std::vector<float> normal(int64_t count, DType type, float mean = 0, float std = 1) {
    std::normal_distribution<float> values(mean, std);
    std::vector<float> v(static_cast<size_t>(count));
    for (float& x : v) x = rounded(values(engine_), type);
    return v;
  }
  int64_t between(int64_t first, int64_t last) {
    return std::uniform_int_distribution<int64_t>(first, last)(engine_);
  }
  bool coin() { return between(0, 1) == 1; }
  template <typename T, size_t N>
  T one_of(const T (&values)[N]) {
    return values[between(0, static_cast<int64_t>(N) - 1)];
  }

 private:
  std::mt19937_64 engine_;
};

/// Fails for the first value further from `want` than `relative` * |want| + `absolute`, or NaN, and says how
/// many there are.
inline void expect_near(const std::vector<float>& got, const std::vector<double>& want, double relative,
                        double absolute, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  size_t bad = 0;
  size_t first = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::abs(got[i] - want[i]) <= relative * std::abs(want[i]) + absolute) continue;
    if (bad++ == 0) first = i;
  }
  if (bad > 0) {
    ADD_FAILURE() << what << ": " << bad << " of " << got.size() << " values are wrong, the first at "
                  << first << ": " << got[first] << ", not " << want[first];
  }
}

}  // namespace tandem::kernels
