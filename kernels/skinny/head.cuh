// The vocabulary head's epilogue: a running arg-max instead of logits, and the bookkeeping of a decode step.
#pragma once

#include <climits>
#include <cmath>

#include "kernels/common/device.cuh"
#include "kernels/skinny/args.h"
#include "kernels/skinny/finish.cuh"
#include "kernels/skinny/skinny_shape.h"

namespace tandem::kernels {

struct Candidate {
  float value = -INFINITY;
  int id = INT_MAX;

  __device__ void take(float v, int i) {
    if (better(v, i, value, id)) {
      value = v;
      id = i;
    }
  }
};

/// log2 of the threads that share a row: the rows, rounded up to a power of two, divide the block.
__device__ constexpr int row_threads_shift(int rows) {
  int shift = 8;
  while ((kSkinnyThreads >> shift) < rows) --shift;
  return shift;
}

/// Folds one row of a pass, b0 + (thread / threads of a row), into the thread's candidate for it.
template <class Format, int kPassRows>
__device__ inline void take_pass(const SkinnyArgs& a, const TileView& view, const float* red,
                                 const TileEnds& ends, int b0, Candidate& best) {
  constexpr int kShift = row_threads_shift(kPassRows);
  const SkinnyPlan& p = a.plan;
  const int b = static_cast<int>(threadIdx.x) >> kShift;
  if (b0 + b >= view.rows) return;
#pragma unroll 1
  for (int local = threadIdx.x & ((1 << kShift) - 1); local < p.tile_rows(); local += 1 << kShift) {
    const int id = view.tile * p.tile_rows() + local;
    if (id >= p.n) break;
    const float sum = scaled<Format>(ends, local, sum_warps<kPassRows>(p, red, b, local));
    const float v = sum * a.head.scale + ends.bias[local];
    if (a.head.logits != nullptr) a.head.logits[static_cast<int64_t>(view.row0 + b0 + b) * p.n + id] = v;
    best.take(v, id);
  }
}

/// Reduces the candidates of each group of 1 << shift neighbouring threads; the group's first thread gets the best.
/// `values` and `ids`: [kSkinnyWarps] of shared memory. For the whole block together.
__device__ inline void reduce_candidates(Candidate& best, int shift, float* values, int* ids) {
  for (int step = 1; step < min(kWarp, 1 << shift); step <<= 1) {
    const float value = __shfl_xor_sync(0xffffffffu, best.value, step);
    const int id = __shfl_xor_sync(0xffffffffu, best.id, step);
    best.take(value, id);
  }
  if (1 << shift <= kWarp) return;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  if (threadIdx.x % kWarp == 0) {
    values[warp] = best.value;
    ids[warp] = best.id;
  }
  __syncthreads();
  for (int other = 1; other < (1 << shift) / kWarp; ++other) {
    // Only the group's first thread keeps the result; the others stay inside the arrays.
    best.take(values[(warp + other) % kSkinnyWarps], ids[(warp + other) % kSkinnyWarps]);
  }
  __syncthreads();
}

/// One thread a row: the chosen id, and what the decode step keeps.
__device__ inline void close_step(const HeadArgs& h, int m, const Candidate& best) {
  const int row = static_cast<int>(threadIdx.x);
  const int column = h.position != nullptr ? __ldcg(h.position) : 0;
  bool runs = false;
  if (row < m) {
    int id = (best.id == INT_MAX ? 0 : best.id) + h.id_offset;
    if (h.best_logits != nullptr) h.best_logits[row] = best.value;
    runs = true;
    if (h.stop_at_eos) {
      const bool was_finished = __ldcg(h.finished + row) != 0;
      if (was_finished) id = h.pad_id;
      runs = !was_finished && id != h.eos_id;
      if (!runs && !was_finished) h.finished[row] = 1;
    }
    h.next_ids[row] = id;
    if (h.tokens_out != nullptr && column >= 0 && column < h.tokens_stride)
      h.tokens_out[row * h.tokens_stride + column] = id;
  }
  const int running = __syncthreads_count(runs ? 1 : 0);  // also: every thread has read the position
  if (threadIdx.x == 0) {
    if (h.position != nullptr) *h.position = column + 1;
    if (h.running != nullptr) *h.running = running;
  }
}

/// The block's candidates (of each pass, row threadIdx.x >> shift) go to the workspace; the last block to arrive combines
/// all of them. Which block that is does not change the result: better() orders candidates totally.
/// `shared`: at least 1 KiB that no thread of the block uses any more.
template <int kPasses, int kPassRows>
__device__ inline void finish_head(const SkinnyArgs& a, int row0, int rows, Candidate (&best)[kPasses],
                                   unsigned char* shared) {
  constexpr int kShift = row_threads_shift(kPassRows);
  const HeadArgs& h = a.head;
  const int m = a.plan.m;
  const int tid = static_cast<int>(threadIdx.x);
  float* values = reinterpret_cast<float*>(shared);  // [64]
  int* ids = reinterpret_cast<int*>(values + kSkinnyMaxRows);
  int* last = ids + kSkinnyMaxRows;
  __syncthreads();
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    reduce_candidates(best[pass], kShift, values, ids);
    const int b = pass * kPassRows + (tid >> kShift);
    if ((tid & ((1 << kShift) - 1)) == 0 && b < rows) {
      const int at = static_cast<int>(blockIdx.x) * m + row0 + b;
      h.part_values[at] = best[pass].value;
      h.part_ids[at] = best[pass].id;
    }
  }
  __threadfence();
  __syncthreads();
  if (tid == 0) *last = atomicAdd(h.arrivals, 1u) == gridDim.x * gridDim.y - 1 ? 1 : 0;
  __syncthreads();
  if (*last == 0) return;
  __threadfence();

  const int shift = row_threads_shift(m);
  const int row = tid >> shift;
  Candidate chosen;
  if (row < m) {
#pragma unroll 4
    for (int g = tid & ((1 << shift) - 1); g < static_cast<int>(gridDim.x); g += 1 << shift) {
      chosen.take(__ldcg(h.part_values + g * m + row), __ldcg(h.part_ids + g * m + row));
    }
  }
  reduce_candidates(chosen, shift, values, ids);
  if ((tid & ((1 << shift) - 1)) == 0 && row < m) {
    values[row] = chosen.value;
    ids[row] = chosen.id;
  }
  __syncthreads();
  Candidate mine;
  if (tid < m) {
    mine.value = values[tid];
    mine.id = ids[tid];
  }
  close_step(h, m, mine);
  if (tid == 0) *h.arrivals = 0;
}

}  // namespace tandem::kernels
