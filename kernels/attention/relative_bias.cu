#include "kernels/attention/relative_bias.h"

#include <string>

#include "harness/base/error.h"
#include "harness/model/batch.h"
#include "kernels/attention/attention_index.h"
#include "kernels/common/device.cuh"
#include "kernels/common/launch.h"

namespace tandem::kernels {
namespace {

constexpr int kThreads = 128;

template <typename T>
__global__ void distance_bias_kernel(const T* table, int64_t table_stride, BucketStarts starts,
                                     int max_distance, float* distance_bias) {
  pdl_launch_dependents();
  pdl_wait();
  const int entries = 2 * max_distance + 1;
  const int entry = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  const int head = static_cast<int>(blockIdx.y);
  if (entry >= entries) return;
  const int bucket = bucket_from_starts(starts, entry - max_distance);
  distance_bias[static_cast<int64_t>(head) * entries + entry] = to_float(table[bucket * table_stride + head]);
}

template <typename T>
void launch_typed(const DistanceBiasParams& p, const BucketStarts& starts, cudaStream_t stream) {
  const int64_t stride = p.table_stride == 0 ? p.heads : p.table_stride;
  const dim3 grid(static_cast<unsigned>(ceil_div(2 * p.max_distance + 1, kThreads)),
                  static_cast<unsigned>(p.heads));
  launch(distance_bias_kernel<T>, {.grid = grid, .block = dim3(kThreads), .dependent = p.dependent}, stream,
         static_cast<const T*>(p.table), stride, starts, p.max_distance, p.distance_bias);
}

void require(bool ok, const char* field, int64_t value, const std::string& allowed) {
  if (ok) return;
  throw UsageError(std::string("distance bias: ") + field + " is " + std::to_string(value) +
                   ", allowed: " + allowed);
}

void check(const DistanceBiasParams& p) {
  if (p.table == nullptr || p.distance_bias == nullptr) {
    throw UsageError("distance bias: table and distance_bias must not be null");
  }
  require(p.heads >= 1 && p.heads <= 65535, "heads", p.heads, "1 to 65535");
  const int directions = p.bidirectional ? 2 : 1;
  require(p.buckets >= 2 * directions && p.buckets <= kMaxBuckets && p.buckets % directions == 0, "buckets",
          p.buckets, "2 to " + std::to_string(kMaxBuckets) + "; bidirectional: even, from 4");
  const int exact =
      p.buckets / directions / 2;  // distances below have a bucket each; the logarithm begins here
  require(p.max_distance > exact && p.max_distance <= kMaxDistance, "max_distance", p.max_distance,
          std::to_string(exact + 1) + " to " + std::to_string(kMaxDistance));
  require(p.table_stride == 0 || p.table_stride >= p.heads, "table_stride", p.table_stride,
          "0 or at least heads (" + std::to_string(p.heads) + ")");
}

}  // namespace

void launch_distance_bias(const DistanceBiasParams& p, cudaStream_t stream) {
  check(p);
  const BucketStarts starts = make_bucket_starts(
      [&p](int distance) { return relative_bucket(distance, p.bidirectional, p.buckets, p.max_distance); },
      p.max_distance);
  switch (p.dtype) {
    case DType::kF32:
      return launch_typed<float>(p, starts, stream);
    case DType::kF16:
      return launch_typed<__half>(p, starts, stream);
    case DType::kBF16:
      return launch_typed<__nv_bfloat16>(p, starts, stream);
    default:
      throw UsageError("distance bias: dtype is " + std::string(dtype_name(p.dtype)) +
                       ", allowed: f32, f16, bf16");
  }
}

}  // namespace tandem::kernels
