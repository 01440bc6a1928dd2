// What the attention tests share: random operands rounded to a type, the truth by plain loops in double precision, and
// the error between them.
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "harness/base/half.h"
#include "harness/base/random.h"
#include "harness/base/tensor.h"
#include "kernels/common/device_buffer.h"

namespace tandem::kernels::test {

inline bool has_device() {
  int count = 0;
  const bool ok = cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
  cudaGetLastError();
  return ok;
}
#define TANDEM_NEED_DEVICE() \
  if (!::tandem::kernels::test::has_device()) GTEST_SKIP() << "no CUDA device"

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// Largest relative L2 error of a result in `dtype`.
inline double tolerance(DType dtype) {
  return dtype == DType::kF32 ? 1e-5 : dtype == DType::kF16 ? 4e-3 : 1.5e-2;
}

inline float round_to(DType dtype, float v) {
  if (dtype == DType::kF16) return fp16_to_float(float_to_fp16(v));
  if (dtype == DType::kBF16) return bf16_to_float(float_to_bf16(v));
  return v;
}

/// Values of `dtype` as bytes, and back.
inline std::vector<uint8_t> to_bytes(DType dtype, const std::vector<float>& v) {
  std::vector<uint8_t> bytes(static_cast<size_t>(tensor_bytes(dtype, static_cast<int64_t>(v.size()))));
  for (size_t i = 0; i < v.size(); ++i) {
    if (dtype == DType::kF32) {
      std::memcpy(&bytes[4 * i], &v[i], 4);
    } else {
      const uint16_t h = dtype == DType::kF16 ? float_to_fp16(v[i]) : float_to_bf16(v[i]);
      std::memcpy(&bytes[2 * i], &h, 2);
    }
  }
  return bytes;
}
inline std::vector<float> from_bytes(DType dtype, const std::vector<uint8_t>& bytes) {
  std::vector<float> v(bytes.size() / static_cast<size_t>(dtype_bytes(dtype)));
  for (size_t i = 0; i < v.size(); ++i) {
    if (dtype == DType::kF32) {
      std::memcpy(&v[i], &bytes[4 * i], 4);
    } else {
      uint16_t h = 0;
      std::memcpy(&h, &bytes[2 * i], 2);
      v[i] = dtype == DType::kF16 ? fp16_to_float(h) : bf16_to_float(h);
    }
  }
  return v;
}
inline DeviceBuffer upload(DType dtype, const std::vector<float>& v) {
  return DeviceBuffer::of(to_bytes(dtype, v));
}
inline std::vector<float> download(DType dtype, const DeviceBuffer& buffer) {
  return from_bytes(dtype, buffer.to_host<uint8_t>());
}

/// About normal values of the given deviation, rounded to dtype.
inline std::vector<float> random_values(DType dtype, size_t count, uint64_t seed, float deviation) {
  std::vector<float> v(count);
  for (size_t i = 0; i < count; ++i) {
    v[i] = round_to(dtype, static_cast<float>(centred_sum(seed, i) / kCentredSumStd) * deviation);
  }
  return v;
}

/// softmax(scores) V for one query: `key(j)` and `value(j)` point at head_dim floats, `bias(j)` is added to the score.
template <typename Key, typename Value, typename Bias>
std::vector<double> attend(const float* query, int keys, int head_dim, double scale, Key key, Value value,
                           Bias bias) {
  std::vector<double> score(static_cast<size_t>(keys));
  double top = -std::numeric_limits<double>::infinity();
  for (int j = 0; j < keys; ++j) {
    double dot = 0;
    for (int i = 0; i < head_dim; ++i) dot += static_cast<double>(query[i]) * key(j)[i];
    score[j] = dot * scale + bias(j);
    top = std::max(top, score[j]);
  }
  double total = 0;
  std::vector<double> out(static_cast<size_t>(head_dim), 0.0);
  for (int j = 0; j < keys; ++j) {
    const double p = std::exp(score[j] - top);
    total += p;
    for (int i = 0; i < head_dim; ++i) out[i] += p * value(j)[i];
  }
  for (double& x : out) x /= total;
  return out;
}

/// Accumulates a relative L2 error; a NaN anywhere makes it NaN, which no tolerance passes.
class RelativeError {
 public:
  void add(double got, double want) {
    difference_ += (got - want) * (got - want);
    norm_ += want * want;
  }
  double value() const { return norm_ == 0 ? std::sqrt(difference_) : std::sqrt(difference_ / norm_); }

 private:
  double difference_ = 0;
  double norm_ = 0;
};

/// What one row and head may miss by, of codes twice as much: among thousands of them a wrong one would hide in the error of all.
inline constexpr double kPairTolerance = 0.25;

/// Sets an environment variable for the life of the guard.
class ScopedEnv {
 public:
  ScopedEnv(const char* name, const char* value) : name_(name) {
    const char* old = std::getenv(name);
    had_ = old != nullptr;
    if (had_) old_ = old;
    if (value != nullptr) {
      setenv(name, value, 1);
    } else {
      unsetenv(name);
    }
  }
  ~ScopedEnv() {
    if (had_) {
      setenv(name_, old_.c_str(), 1);
    } else {
      unsetenv(name_);
    }
  }
  ScopedEnv(const ScopedEnv&) = delete;
  ScopedEnv& operator=(const ScopedEnv&) = delete;

 private:
  const char* name_;
  bool had_ = false;
  std::string old_;
};

/// A stream for the life of a test.
class TestStream {
 public:
  TestStream() { TANDEM_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  ~TestStream() { TANDEM_CUDA_WARN(cudaStreamDestroy(stream_)); }
  TestStream(const TestStream&) = delete;
  TestStream& operator=(const TestStream&) = delete;
  operator cudaStream_t() const { return stream_; }  // NOLINT: stands for the stream

 private:
  cudaStream_t stream_ = nullptr;
};

}  // namespace tandem::kernels::test
