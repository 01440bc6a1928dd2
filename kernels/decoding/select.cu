#include <cmath>
#include <string>

#include "harness/base/error.h"
#include "harness/base/host_device.h"
#include "kernels/common/device.cuh"
#include "kernels/common/launch.h"
#include "kernels/decoding/select.h"

namespace tandem::kernels {
namespace {

constexpr int kSelectThreads = 512;
constexpr int kThreads = 256;

/// The better of two candidates: larger value, then lower id. NaN is never put in.
__device__ inline void keep_better(float& value, int& id, float other_value, int other_id) {
  if (other_value > value || (other_value == value && other_id < id)) {
    value = other_value;
    id = other_id;
  }
}

__device__ inline float bias_at(const SelectParams& p, int i) {
  switch (p.bias_dtype) {
    case DType::kF16:
      return to_float(static_cast<const __half*>(p.bias)[i]);
    case DType::kBF16:
      return to_float(static_cast<const __nv_bfloat16*>(p.bias)[i]);
    default:
      return static_cast<const float*>(p.bias)[i];
  }
}

/// One block a row.
__global__ void __launch_bounds__(kSelectThreads) select_kernel(const SelectParams p) {
  pdl_launch_dependents();
  pdl_wait();
  constexpr int kWarps = kSelectThreads / kWarp;
  __shared__ float best_value[kWarps];
  __shared__ int best_id[kWarps];
  const int row = static_cast<int>(blockIdx.x);
  const float* logits = p.logits + row * p.logits_stride;

  float value = -INFINITY;
  int id = p.vocab;
  const auto take = [&](float logit, int i) {
    const float v = logit + (p.bias != nullptr ? bias_at(p, i) : 0.0f);
    if (p.biased != nullptr) p.biased[static_cast<int64_t>(row) * p.vocab + i] = v;
    keep_better(value, id, v, i);
  };
  // 16 bytes a load, four in flight: a row is too long for one load at a time. The order does not change the result.
  const int whole = reinterpret_cast<uintptr_t>(logits) % 16 == 0 ? p.vocab / 4 * 4 : 0;
#pragma unroll 4
  for (int i = 4 * static_cast<int>(threadIdx.x); i < whole; i += 4 * kSelectThreads) {
    const float4 v = __ldcg(reinterpret_cast<const float4*>(logits + i));
    take(v.x, i);
    take(v.y, i + 1);
    take(v.z, i + 2);
    take(v.w, i + 3);
  }
  for (int i = whole + static_cast<int>(threadIdx.x); i < p.vocab; i += kSelectThreads) take(logits[i], i);
  const auto reduce_warp = [&] {
#pragma unroll
    for (int m = kWarp / 2; m > 0; m >>= 1) {
      keep_better(value, id, __shfl_xor_sync(0xffffffffu, value, m), __shfl_xor_sync(0xffffffffu, id, m));
    }
  };
  reduce_warp();
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  if (threadIdx.x % kWarp == 0) {
    best_value[warp] = value;
    best_id[warp] = id;
  }
  __syncthreads();
  if (warp != 0) return;
  value = threadIdx.x < kWarps ? best_value[threadIdx.x] : -INFINITY;
  id = threadIdx.x < kWarps ? best_id[threadIdx.x] : p.vocab;
  reduce_warp();
  if (threadIdx.x != 0) return;

  // A row of -infinity alone still has a lowest id; a row of NaN has none and gives 0.
  int32_t chosen = (id < p.vocab ? id : 0) + p.id_offset;
  if (p.best_logits != nullptr) {
    p.best_logits[row] = value;
    p.next_ids[row] = chosen;
    return;
  }
  if (p.stop_at_eos) {
    const bool ended = p.finished[row] != 0;
    if (ended) chosen = p.pad_id;
    p.finished[row] = ended || chosen == p.eos_id ? 1 : 0;
  }
  p.next_ids[row] = chosen;
  const int32_t column = *p.position;
  if (column < p.tokens_stride) p.tokens[row * p.tokens_stride + column] = chosen;

  // The last row to arrive moves the counters: every row has read the position and written its flag by then.
  __threadfence();
  if (atomicAdd(p.arrived, 1) != p.rows - 1) return;
  __threadfence();
  *p.arrived = 0;
  *p.position = column + 1;
  if (p.running != nullptr) {
    int32_t running = 0;
    for (int r = 0; r < p.rows; ++r) running += p.stop_at_eos && __ldcg(p.finished + r) != 0 ? 0 : 1;
    *p.running = running;
  }
}

/// One block: a thread takes every kThreads-th row.
__global__ void __launch_bounds__(kThreads) pick_kernel(const PickParams p) {
  pdl_launch_dependents();
  pdl_wait();
  const int32_t column = *p.position;
  int mine = 0;  // rows of this thread that go on
  for (int row = static_cast<int>(threadIdx.x); row < p.rows; row += kThreads) {
    const auto at = [&](int rank, int half) { return p.candidates[(2 * rank + half) * p.rows + row]; };
    float value = __int_as_float(at(0, 0));
    int32_t chosen = at(0, 1);
    for (int rank = 1; rank < p.degree; ++rank)
      keep_better(value, chosen, __int_as_float(at(rank, 0)), at(rank, 1));
    if (p.stop_at_eos) {
      const bool ended = p.finished[row] != 0;
      if (ended) chosen = p.pad_id;
      p.finished[row] = ended || chosen == p.eos_id ? 1 : 0;
    }
    mine += p.stop_at_eos && p.finished[row] != 0 ? 0 : 1;
    p.next_ids[row] = chosen;
    if (column < p.tokens_stride) p.tokens[row * p.tokens_stride + column] = chosen;
  }
  __shared__ int running;
  if (threadIdx.x == 0) running = 0;
  __syncthreads();  // also: every thread has read the position
  atomicAdd(&running, mine);
  __syncthreads();
  if (threadIdx.x != 0) return;
  *p.position = column + 1;
  if (p.running != nullptr) *p.running = running;
}

__global__ void decode_state_kernel(const DecodeStateParams p) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < p.tokens_count) p.tokens[i] = p.pad_id;
  if (i < p.batch) {
    p.next_ids[i] = p.ids != nullptr ? p.ids[i] : p.id;
    if (p.finished != nullptr) p.finished[i] = 0;
  }
  if (i == 0) {
    *p.position = p.position_value;
    if (p.running != nullptr) *p.running = p.batch;
  }
}

void require(bool ok, const char* message) {
  if (!ok) throw UsageError(message);
}

unsigned blocks_for(int64_t threads) {
  return static_cast<unsigned>(ceil_div(threads, kThreads));
}

}  // namespace

void launch_select(const SelectParams& p, cudaStream_t stream) {
  require(p.rows >= 1, "select: rows must be at least 1");
  require(p.vocab >= 1 && p.logits_stride >= p.vocab,
          "select: vocab must be at least 1 and at most logits_stride");
  require(p.logits != nullptr && p.next_ids != nullptr, "select: logits and next_ids must be given");
  require(p.best_logits != nullptr || (p.tokens != nullptr && p.position != nullptr && p.arrived != nullptr),
          "select: tokens, position and arrived must be given without best_logits");
  require(p.best_logits == nullptr || !p.stop_at_eos, "select: stop_at_eos must be false with best_logits");
  require(!p.stop_at_eos || p.finished != nullptr, "select: stop_at_eos needs finished");
  launch(
      select_kernel,
      {.grid = dim3(static_cast<unsigned>(p.rows)), .block = dim3(kSelectThreads), .dependent = p.dependent},
      stream, p);
}

void launch_pick(const PickParams& p, cudaStream_t stream) {
  require(p.rows >= 1 && p.degree >= 1, "pick: rows and degree must be at least 1");
  require(p.candidates != nullptr && p.next_ids != nullptr && p.tokens != nullptr && p.position != nullptr,
          "pick: candidates, next_ids, tokens and position must be given");
  require(!p.stop_at_eos || p.finished != nullptr, "pick: stop_at_eos needs finished");
  launch(pick_kernel, {.grid = dim3(1), .block = dim3(kThreads), .dependent = p.dependent}, stream, p);
}

void launch_decode_state(const DecodeStateParams& p, cudaStream_t stream) {
  require(p.batch >= 1 && p.next_ids != nullptr && p.position != nullptr,
          "decode state: batch, next_ids and position must be given");
  require(p.tokens != nullptr || p.tokens_count == 0, "decode state: tokens_count without tokens");
  const int64_t threads = p.tokens_count > p.batch ? p.tokens_count : p.batch;
  launch(decode_state_kernel, {.grid = dim3(blocks_for(threads)), .block = dim3(kThreads)}, stream, p);
}

}  // namespace tandem::kernels
