// The vocabulary head's epilogue in a wide kernel: the arg-max never leaves the registers until the block's last tile.
#pragma once

#include "kernels/skinny/head.cuh"
#include "kernels/skinny/wide/wide_args.h"

namespace tandem::kernels {

/// The scales of the rows of x of a thread's candidates, once the previous kernel has written them.
template <int kBatch>
__device__ inline void load_head_scales(const WideArgs& a, int lane, float (&scales)[kBatch / 4]) {
#pragma unroll
  for (int s = 0; s < kBatch / 4; ++s) {
    const int b = wide_batch_row(lane, s / 2, s % 2);
    scales[s] = b < a.plan.m ? __ldcg(a.x_scales + b) : 0.0f;
  }
}

/// Sums of codes as numbers. `x_scales`: of x that is codes, as wide_take's candidates.
template <class Format, int kBatch, int kCount>
__device__ inline void scale_sums(float (&c)[kBatch / 8][4], const float (&row_scale)[2],
                                  const float (&x_scales)[kCount]) {
#pragma unroll
  for (int j = 0; j < kBatch / 8; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      c[j][e] *= row_scale[e / 2];
      if constexpr (Format::kXScales) c[j][e] *= x_scales[2 * j + e % 2];
    }
  }
}

/// Folds a tile into the thread's candidates: of row 8 j + 2 (lane % 4) + i of x at [2 j + i]. Ids only grow, so of equals the
/// first stays. `bias`: of the thread's two rows of w.
template <int kBatch>
__device__ inline void wide_take(const WideArgs& a, const float (&c)[kBatch / 8][4],
                                 Candidate (&best)[kBatch / 4], const float (&bias)[2], int tile, int warp,
                                 int lane) {
  const HeadArgs& h = a.head;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int id = tile * a.plan.tile_rows() + wide_output(false, warp, lane, half).column;
    if (id >= a.plan.n) break;
#pragma unroll
    for (int s = 0; s < kBatch / 4; ++s) {
      const float v = c[s / 2][2 * half + s % 2] * h.scale + bias[half];
      if (v > best[s].value) {
        best[s].value = v;
        best[s].id = id;
      }
    }
    if (h.logits == nullptr) continue;
#pragma unroll
    for (int s = 0; s < kBatch / 4; ++s) {
      const int b = wide_batch_row(lane, s / 2, s % 2);
      if (b < a.plan.m)
        h.logits[static_cast<int64_t>(b) * a.plan.n + id] = c[s / 2][2 * half + s % 2] * h.scale + bias[half];
    }
  }
}

/// The consumers' candidates to shared memory, keys [warps][kBatch]. The eight lanes of a row halve what they still carry
/// at every step, so that each ends with kBatch / 32 rows (or shares one).
template <int kBatch>
__device__ inline void wide_share(Candidate (&best)[kBatch / 4], unsigned long long* keys, int warp,
                                  int lane) {
  int first = 0;  // of the candidates that this lane still carries
#pragma unroll
  for (int width = kBatch / 4, bit = kWarp / 2; bit >= 4; bit >>= 1) {
    if (width > 1) {
      width >>= 1;
      const bool upper = (lane & bit) != 0;
      if (upper) first += width;
#pragma unroll
      for (int s = 0; s < kBatch / 8; ++s) {
        if (s >= width) break;
        Candidate keep = upper ? best[s + width] : best[s];
        const Candidate give = upper ? best[s] : best[s + width];
        keep.take(__shfl_xor_sync(0xffffffffu, give.value, bit), __shfl_xor_sync(0xffffffffu, give.id, bit));
        best[s] = keep;
      }
    } else {
      best[0].take(__shfl_xor_sync(0xffffffffu, best[0].value, bit),
                   __shfl_xor_sync(0xffffffffu, best[0].id, bit));
    }
  }
  constexpr int kLeft = kBatch >= 32 ? kBatch / 32 : 1;
#pragma unroll
  for (int s = 0; s < kLeft; ++s) {
    const int slot = first + s;  // lanes that share a row write the same
    keys[warp * kBatch + wide_batch_row(lane, slot / 2, slot % 2)] =
        best[s].id == INT_MAX ? 0 : candidate_key(best[s].value, best[s].id);
  }
}

/// All threads of the block, once its keys are in shared memory: into the grid's, an order-independent maximum of integers;
/// the last block to arrive closes the step.
template <int kBatch>
__device__ inline void wide_finish_head(const WideArgs& a, const unsigned long long* keys, int* last) {
  const HeadArgs& h = a.head;
  const int tid = static_cast<int>(threadIdx.x);
  __syncthreads();
  if (tid < a.plan.m) {
    unsigned long long best = 0;
    for (int warp = 0; warp < 4 * a.plan.groups; ++warp) best = max(best, keys[warp * kBatch + tid]);
    atomicMax(h.keys + tid, best);
    __threadfence();
  }
  __syncthreads();
  if (tid == 0) *last = atomicAdd(h.arrivals, 1u) == gridDim.x - 1 ? 1 : 0;
  __syncthreads();
  if (*last == 0) return;
  __threadfence();
  Candidate mine;
  if (tid < a.plan.m) {
    const unsigned long long key = __ldcg(h.keys + tid);
    h.keys[tid] = 0;
    if (key != 0) {
      mine.value = key_value(key);
      mine.id = key_id(key);
    }
  }
  close_step(h, a.plan.m, mine);
  if (tid == 0) *h.arrivals = 0;
}

}  // namespace tandem::kernels
