#include "kernels/embedding/embedding.h"

#include <algorithm>
#include <string>

#include "harness/base/error.h"
#include "harness/base/host_device.h"
#include "kernels/common/device.cuh"
#include "kernels/common/launch.h"
#include "kernels/common/row_access.cuh"

namespace tandem::kernels {
namespace {

constexpr int kMaxBlock = 256;

/// First token of the sequence that `token` belongs to: the largest start not after it. Called by whole
/// warps.
__device__ int sequence_start(const int32_t* offsets, int batch, int token) {
  int start = 0;
  for (int i = static_cast<int>(threadIdx.x) % kWarp; i < batch; i += kWarp) {
    const int offset = offsets[i];
    if (offset <= token) start = max(start, offset);
  }
#pragma unroll
  for (int m = kWarp / 2; m > 0; m >>= 1) start = max(start, __shfl_xor_sync(0xffffffffu, start, m));
  return start;
}

/// One block a token.
template <typename T, int V>
__global__ void __launch_bounds__(kMaxBlock) embedding_kernel(EmbeddingParams p) {
  const int token = static_cast<int>(blockIdx.x);
  touch_params(p);
  // In this order: a decode step begins here, and its kernels read ahead what the steps before it left.
  pdl_wait();
  pdl_launch_dependents();
  const int id = p.ids[token];
  int64_t row = 0;
  if (p.positions != nullptr) {
    const int position = p.offsets != nullptr ? token - sequence_start(p.offsets, p.batch, token) : *p.step;
    row = static_cast<int64_t>(position) + p.position_offset;
  }
  const bool inside =
      id >= 0 && id < p.vocab && (p.positions == nullptr || (row >= 0 && row < p.position_rows));
  const int table_row = id - p.first_id;
  const bool mine = inside && table_row >= 0 && table_row < p.table_rows;
  const int64_t from = static_cast<int64_t>(table_row) * p.d;
  const int64_t to = static_cast<int64_t>(token) * p.d;
  const bool positions_f32 = p.positions_dtype == DType::kF32;
  for (int i = static_cast<int>(threadIdx.x) * V; i < p.d; i += static_cast<int>(blockDim.x) * V) {
    Piece<T, V, false> word;
    Piece<T, V, sizeof(T) != 4> position;
    word.load(p.table, from + i, false, mine);
    position.load(p.positions, row * p.d + i, positions_f32, mine && p.positions != nullptr);
    float x[V];
    word.get(false, x);
#pragma unroll
    for (int j = 0; j < V; ++j) x[j] = mine ? x[j] * p.scale : inside ? 0.0f : __int_as_float(0x7fffffff);
    position.add_to(positions_f32, x);  // zeros when there is none
    store_row<T>(p.x, to + i, sizeof(T) == 4 || p.out_dtype == DType::kF32, x);
  }
}

template <typename T, int V>
void launch_with(const EmbeddingParams& p, cudaStream_t stream) {
  const int wanted = ceil_div(p.d, V);
  const int threads = std::min(round_up(wanted, kWarp), kMaxBlock);
  launch(embedding_kernel<T, V>,
         {.grid = dim3(static_cast<unsigned>(p.tokens)),
          .block = dim3(static_cast<unsigned>(threads)),
          .dependent = p.dependent},
         stream, p);
}

template <typename T>
void dispatch(const EmbeddingParams& p, cudaStream_t stream) {
  const auto bits = static_cast<uintptr_t>(tensor_bytes(p.dtype, p.d)) |
                    reinterpret_cast<uintptr_t>(p.table) | reinterpret_cast<uintptr_t>(p.positions) |
                    reinterpret_cast<uintptr_t>(p.x);
  if (bits % 16 == 0) return launch_with<T, kVec<T>>(p, stream);
  return launch_with<T, 1>(p, stream);
}

void check(const EmbeddingParams& p) {
  const auto refuse = [](const std::string& what) { throw UsageError("embedding: " + what); };
  if (p.dtype != DType::kF32 && p.dtype != DType::kF16 && p.dtype != DType::kBF16) {
    refuse("dtype must be f32, f16 or bf16");
  }
  if (p.out_dtype != p.dtype && p.out_dtype != DType::kF32) refuse("out_dtype must be dtype or f32");
  if (p.tokens < 0 || p.tokens > 0x7fffffff) refuse("tokens must be in 0 .. 2147483647");
  if (p.d < 1 || p.vocab < 1) refuse("d and vocab must be at least 1");
  if (p.first_id < 0 || p.table_rows < 0 || p.first_id + p.table_rows > p.vocab)
    refuse("first_id and table_rows must lie in the vocabulary");
  if (p.ids == nullptr || p.table == nullptr || p.x == nullptr) refuse("ids, table and x must not be null");
  if (p.positions == nullptr) return;
  if (p.positions_dtype != p.dtype && p.positions_dtype != DType::kF32) {
    refuse("positions_dtype must be dtype or f32");
  }
  if ((p.offsets == nullptr) == (p.step == nullptr)) refuse("positions need exactly one of offsets and step");
  if (p.offsets != nullptr && p.batch < 1) refuse("offsets need a batch of at least 1");
}

}  // namespace

void launch_embedding(const EmbeddingParams& params, cudaStream_t stream) {
  check(params);
  if (params.tokens == 0) return;
  EmbeddingParams p = params;
  if (p.table_rows == 0) p.table_rows = p.vocab;
  switch (p.dtype) {
    case DType::kF16:
      return dispatch<__half>(p, stream);
    case DType::kBF16:
      return dispatch<__nv_bfloat16>(p, stream);
    default:
      return dispatch<float>(p, stream);
  }
}

}  // namespace tandem::kernels
