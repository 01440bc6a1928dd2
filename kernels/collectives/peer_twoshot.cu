// Two trips: a rank sends each row to the one rank that sums it, which sends the sum to all. Blocks of the same number work on
// the same rows on all ranks and wait for each other alone.
#include "kernels/collectives/peer_launch.h"
#include "kernels/collectives/peer_rows.cuh"
#include "kernels/common/launch.h"

namespace tandem::kernels {
namespace {

constexpr int kThreads = PeerLayout::kMaxRowPieces;
enum Phase : int { kRows = 0, kSums = 1 };

/// Tells every other rank that all this block has sent it so far in this phase is there.
__device__ inline void signal(const PeerView& p, Phase phase, uint32_t generation) {
  __syncthreads();
  const int peer = static_cast<int>(threadIdx.x);
  if (peer >= p.layout.ranks || peer == p.rank) return;
  const int64_t flag = p.layout.flag_offset(phase, p.rank, static_cast<int>(blockIdx.x));
  store_release_system(reinterpret_cast<uint32_t*>(p.arena[peer] + flag), generation);
}
/// Waits for the same of every other rank. False when one did not come; the same answer for all threads.
__device__ inline bool await(const PeerView& p, Phase phase, uint32_t generation, Patience& patience,
                             WaitMeter& meter) {
  begin_wait(meter);
  const int peer = static_cast<int>(threadIdx.x);
  if (peer < p.layout.ranks && peer != p.rank) {
    const int64_t flag = p.layout.flag_offset(phase, peer, static_cast<int>(blockIdx.x));
    const auto* word = reinterpret_cast<const uint32_t*>(p.arena[p.rank] + flag);
    while (load_acquire_system(word) != generation && !patience.over(peer)) {
    }
  }
  const bool all = __syncthreads_or(patience.lost()) == 0;
  end_wait(meter);
  return all;
}

template <typename T, bool NORM>
__global__ void __launch_bounds__(kThreads) two_shot_kernel(const __grid_constant__ PeerArgs a) {
  constexpr int V = kVec<T>;
  __shared__ float partial[3][kWarp];
  const PeerView& peers = a.peers;
  const PeerLayout& layout = peers.layout;
  const int ranks = layout.ranks;
  const int me = peers.rank;
  const int64_t row_bytes = static_cast<int64_t>(a.row.d) * static_cast<int>(sizeof(T));
  const int64_t at = static_cast<int64_t>(threadIdx.x) * kPiece;  // of the thread's piece in a row
  const RowGroups rows{.rows = a.row.rows, .ranks = ranks};
  const int64_t groups = rows.groups();
  RowEnd<T, NORM> end(a);
  touch_params(a);
  pdl_launch_dependents();
  pdl_wait();

  const Generation now = load_generation(peers);
  if (now.lost != 0) return;
  leave_next_generation(peers, now.number);
  Patience patience(peers);
  WaitMeter meter = wait_meter(peers);
  char* const arena = peers.arena[me];
  const auto* x = static_cast<const T*>(a.row.x);

  for (int64_t group = blockIdx.x; group < groups; group += gridDim.x) {
    uint4 raw[kMaxPeers];
#pragma unroll
    for (int k = 1; k < kMaxPeers; ++k) {
      const int64_t row = rows.row(group, (me + k) % ranks);
      raw[k] = load_16_if(k < ranks && row < rows.rows && end.has(row), x + end.element(row));
    }
#pragma unroll
    for (int k = 1; k < kMaxPeers; ++k) {
      const int owner = (me + k) % ranks;
      const int64_t row = rows.row(group, owner);
      if (k >= ranks || row >= rows.rows || !end.has(row)) continue;
      *reinterpret_cast<uint4*>(peers.arena[owner] + layout.staged_row(me, group, groups, row_bytes) + at) =
          raw[k];
    }
  }
  signal(peers, kRows, now.number);
  if (!await(peers, kRows, now.number, patience, meter)) return;

  bool again = false;
  const auto store = [&](int64_t row, const uint4& sum) {
    if (NORM && again) __syncthreads();  // `partial`
    again = true;
    end.store(row, sum, partial);
  };
  for (int64_t group = blockIdx.x; group < groups && rows.has(group, me); group += gridDim.x) {
    const int64_t row = rows.row(group, me);
    const bool mine = end.has(row);
    end.load(row);
    uint4 raw[kMaxPeers];
#pragma unroll
    for (int r = 0; r < kMaxPeers; ++r) {
      const char* from = r == me ? reinterpret_cast<const char*>(x + end.element(row))
                                 : arena + layout.staged_row(r, group, groups, row_bytes) + at;
      raw[r] = load_16_if(r < ranks && mine, from);
    }
    float sum[V] = {};
#pragma unroll
    for (int r = 0; r < kMaxPeers; ++r) {
      if (r < ranks) add_piece<T>(raw[r], r == 0, sum);
    }
    const uint4 rounded = pack<T>(sum);
    if (mine) {
      for (int k = 1; k < ranks; ++k) {
        char* to = peers.arena[(me + k) % ranks] + layout.gathered_row(row, row_bytes) + at;
        *reinterpret_cast<uint4*>(to) = rounded;
      }
    }
    store(row, rounded);
  }
  signal(peers, kSums, now.number);
  if (!await(peers, kSums, now.number, patience, meter)) return;
  leave_waited(peers, meter);

  for (int64_t group = blockIdx.x; group < groups; group += gridDim.x) {
    for (int k = 1; k < ranks; ++k) {
      const int64_t row = rows.row(group, (me + k) % ranks);
      if (row >= rows.rows) continue;
      end.load(row);
      store(row, load_16_if(end.has(row), arena + layout.gathered_row(row, row_bytes) + at));
    }
  }
}

template <typename T>
void launch_type(const PeerArgs& a, bool norm, cudaStream_t stream) {
  const auto kernel = norm ? two_shot_kernel<T, true> : two_shot_kernel<T, false>;
  const int threads = round_up(a.row.d / kVec<T>, kWarp);
  const RowGroups rows{.rows = a.row.rows, .ranks = a.peers.layout.ranks};
  const unsigned grid =
      resident_blocks(reinterpret_cast<const void*>(kernel), threads, a.peers.sharing, rows.groups());
  launch(kernel,
         {.grid = dim3(grid), .block = dim3(static_cast<unsigned>(threads)), .dependent = a.row.dependent},
         stream, a);
}

}  // namespace

void launch_two_shot(const PeerArgs& args, bool norm, cudaStream_t stream) {
  switch (args.row.dtype) {
    case DType::kF32:
      return launch_type<float>(args, norm, stream);
    case DType::kF16:
      return launch_type<__half>(args, norm, stream);
    default:
      return launch_type<__nv_bfloat16>(args, norm, stream);
  }
}

}  // namespace tandem::kernels
