// What the kernels of both algorithms share: the generation, bounded waits, and what becomes of a reduced row.
#pragma once

#include "kernels/collectives/peer_args.h"
#include "kernels/collectives/wait_meter.h"
#include "kernels/common/memory_ptx.cuh"
#include "kernels/common/peer_ptx.cuh"
#include "kernels/norm/norm_row.cuh"

namespace tandem::kernels {

struct Generation {
  uint32_t number;
  uint32_t lost;
};
__device__ inline PeerState* state_of(const PeerView& p) {
  return reinterpret_cast<PeerState*>(p.arena[p.rank]);
}
__device__ inline Generation load_generation(const PeerView& p) {
  const uint4 words = load_fresh(state_of(p));
  return {words.x, words.y};
}
/// Once every thread of the block has its generation: the last block of the grid to say so sets the next one. Early, so that the
/// trip of the atomic passes while the block waits for its peers.
__device__ inline void leave_next_generation(const PeerView& p, uint32_t generation) {
  __syncthreads();
  if (threadIdx.x != 0) return;
  PeerState* state = state_of(p);
  if (gridDim.x > 1 && atomicAdd(&state->arrived, 1u) != gridDim.x - 1) return;
  state->arrived = 0;
  state->generation = next_generation(generation);
}

/// Around each wait of a kernel: its first thread counts.
__device__ inline WaitMeter wait_meter(const PeerView& p) {
  return {.mine = p.counted && blockIdx.x == 0 && threadIdx.x == 0};
}
__device__ inline void begin_wait(WaitMeter& m) {
  if (m.mine) m.begin(cycles());
}
__device__ inline void end_wait(WaitMeter& m) {
  if (m.mine) m.end(cycles());
}
__device__ inline void leave_waited(const PeerView& p, const WaitMeter& m) {
  if (m.mine) atomicAdd(&state_of(p)->waited, static_cast<unsigned long long>(m.total));
}

/// A thread's waits in one kernel: they end for good with the first that was too long.
class Patience {
 public:
  __device__ explicit Patience(const PeerView& p) : peers_(p) {}
  __device__ bool lost() const { return lost_; }
  /// To be asked between polls for `rank`: true when it is not worth going on.
  __device__ bool over(int rank) {
    if (lost_) return true;
    if (++polls_ % 128 != 0) return false;
    const uint64_t now = global_ns();
    if (end_ == 0) end_ = now + peers_.wait_ns;
    if (now <= end_) return false;
    lost_ = true;
    const uint32_t word = 1u + static_cast<uint32_t>(rank);
    if (atomicCAS(&state_of(peers_)->lost, 0u, word) == 0 && peers_.lost != nullptr) {
      *static_cast<volatile uint32_t*>(peers_.lost) = word;
      __threadfence_system();
    }
    return true;
  }

 private:
  const PeerView& peers_;
  uint64_t end_ = 0;
  uint32_t polls_ = 0;
  bool lost_ = false;
};

/// What becomes of a row that has been summed: it is stored, or goes through residual and norm.
template <typename T, bool NORM>
class RowEnd {
  static constexpr int V = kVec<T>;
  static constexpr bool kMixed = sizeof(T) != 4;

 public:
  /// Loads what no earlier kernel writes.
  __device__ explicit RowEnd(const PeerArgs& a) : a_(a), i_(static_cast<int>(threadIdx.x) * V) {
    if constexpr (NORM) {
      const NormParams& p = a.row;
      gamma_.load(p.gamma, i_, false, i_ < p.d);
      beta_.load(p.beta, i_, false, i_ < p.d && p.beta != nullptr);
      bias_.load(p.bias, i_, false, i_ < p.d && p.bias != nullptr);
      inverse_d_ = 1.0f / static_cast<float>(p.d);
    }
  }
  /// Is there a piece of this row for this thread?
  __device__ bool has(int64_t row) const { return i_ < a_.row.d && row * a_.row.d + i_ < a_.count; }
  __device__ int64_t element(int64_t row) const { return row * a_.row.d + i_; }

  /// Starts to load what the row's end needs beside the sum.
  __device__ void load(int64_t row) {
    if constexpr (NORM) {
      const NormParams& p = a_.row;
      residual_.load(p.residual, element(row), stream_f32(), i_ < p.d && p.residual != nullptr);
    }
  }
  /// `raw`: the sum of this thread's piece, rounded. All threads of the block; with a norm `partial` may not be used again
  /// without a barrier between.
  __device__ void store(int64_t row, const uint4& raw, float (&partial)[3][kWarp]) {
    const NormParams& p = a_.row;
    if constexpr (!NORM) {
      if (has(row)) *reinterpret_cast<uint4*>(static_cast<T*>(p.y) + element(row)) = raw;
    } else {
      float s[1][V];
      unpack<T>(raw, s[0]);
      if (p.bias != nullptr) bias_.add_to(false, s[0]);
      if (p.residual != nullptr) residual_.add_to(stream_f32(), s[0]);
      const RowPlace at{.row = row,
                        .start = row * p.d,
                        .threads = static_cast<int>(blockDim.x),
                        .place = static_cast<int>(threadIdx.x),
                        .inverse_d = inverse_d_,
                        .stream_f32 = stream_f32()};
      finish_row<T, 1, false>(p, at, s, partial, gamma_, beta_, [](int) {});
    }
  }

 private:
  __device__ bool stream_f32() const { return !kMixed || a_.row.stream_dtype == DType::kF32; }

  const PeerArgs& a_;
  int i_;
  float inverse_d_ = 0;
  Piece<T, V, false> gamma_;
  Piece<T, V, false> beta_;
  Piece<T, V, false> bias_;
  Piece<T, V, kMixed> residual_;
};

template <typename T>
__device__ inline void add_piece(const uint4& raw, bool first, float (&sum)[kVec<T>]) {
  float v[kVec<T>];
  unpack<T>(raw, v);
#pragma unroll
  for (int j = 0; j < kVec<T>; ++j) sum[j] = first ? v[j] : sum[j] + v[j];
}

}  // namespace tandem::kernels
