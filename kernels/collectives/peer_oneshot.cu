// One trip: a rank writes its message into every arena, its own too, and sums what lies in its own once all of it has come.
#include "kernels/collectives/peer_launch.h"
#include "kernels/collectives/peer_rows.cuh"
#include "kernels/common/launch.h"

namespace tandem::kernels {
namespace {

enum class Then : uint8_t { kStore, kNorm, kGather };

constexpr int kThreads = PeerLayout::kMaxRowPieces;

/// Bytes of two words with the generation in their upper halves.
__device__ inline WordPair marked(uint32_t a, uint32_t b, uint32_t generation) {
  const uint64_t mark = static_cast<uint64_t>(generation) << 32;
  return {mark | a, mark | b};
}
__device__ inline bool has_mark(const WordPair& v, uint32_t generation) {
  return v.first >> 32 == generation && v.second >> 32 == generation;
}

template <typename T, int RANKS, Then THEN>
__global__ void __launch_bounds__(kThreads) one_shot_kernel(const __grid_constant__ PeerArgs a) {
  constexpr int V = kVec<T>;
  constexpr int kTogether = RANKS == 2 ? 2 : 4;  // ranks whose lines are awaited together: registers
  __shared__ float partial[3][kWarp];
  const PeerView& peers = a.peers;
  const int place = static_cast<int>(threadIdx.x);
  const int pieces = a.row.d / V;
  RowEnd<T, THEN == Then::kNorm> end(a);
  touch_params(a);
  pdl_launch_dependents();
  pdl_wait();

  const Generation now = load_generation(peers);
  const auto send = [&](int64_t row, const uint4& raw) {
    if (!end.has(row)) return;
    const WordPair lines[2] = {marked(raw.x, raw.y, now.number), marked(raw.z, raw.w, now.number)};
    const int64_t offset = peers.layout.line_offset(now.number, peers.rank, row, pieces, place, 0);
#pragma unroll
    for (int r = 0; r < RANKS; ++r) {
      // A neighbour first: not all ranks write to the same one.
      char* to = peers.arena[(peers.rank + 1 + r) % RANKS] + offset;
      store_words_system(to, lines[0]);
      store_words_system(to + int64_t{pieces} * kPiece, lines[1]);
    }
  };
  const auto* x = static_cast<const T*>(a.row.x);
  int64_t row = blockIdx.x;
  const uint4 first = load_16_if(end.has(row), x + end.element(row));
  if (now.lost != 0) return;
  send(row, first);
  for (row += gridDim.x; row < a.row.rows; row += gridDim.x)
    send(row, load_16_if(end.has(row), x + end.element(row)));
  leave_next_generation(peers, now.number);

  Patience patience(peers);
  const char* arena = peers.arena[peers.rank];
  for (row = blockIdx.x; row < a.row.rows; row += gridDim.x) {
    end.load(row);
    const bool mine = end.has(row);
    float sum[V] = {};
#pragma unroll
    for (int group = 0; group < RANKS; group += kTogether) {
      WordPair line[kTogether][2];
      for (bool all = false; mine && !all;) {
#pragma unroll
        for (int r = 0; r < kTogether; ++r) {
          const char* from = arena + peers.layout.line_offset(now.number, group + r, row, pieces, place, 0);
          line[r][0] = load_words_system(from);
          line[r][1] = load_words_system(from + int64_t{pieces} * kPiece);
        }
        all = true;
        int missing = 0;
#pragma unroll
        for (int r = kTogether - 1; r >= 0; --r) {
          if (has_mark(line[r][0], now.number) && has_mark(line[r][1], now.number)) continue;
          all = false;
          missing = group + r;
        }
        if (!all && patience.over(missing)) break;
      }
#pragma unroll
      for (int r = 0; r < kTogether; ++r) {
        const uint4 raw = {static_cast<uint32_t>(line[r][0].first), static_cast<uint32_t>(line[r][0].second),
                           static_cast<uint32_t>(line[r][1].first), static_cast<uint32_t>(line[r][1].second)};
        if constexpr (THEN == Then::kGather) {
          if (mine) {
            T* to = static_cast<T*>(a.row.y) + (group + r) * a.count + end.element(row);
            *reinterpret_cast<uint4*>(to) = raw;
          }
        } else if (mine) {
          add_piece<T>(raw, group + r == 0, sum);
        }
      }
    }
    if constexpr (THEN != Then::kGather) {
      if (THEN == Then::kNorm && row != blockIdx.x) __syncthreads();  // `partial`
      end.store(row, pack<T>(sum), partial);
    }
  }
}

template <typename T, int RANKS, Then THEN>
void launch_kernel(const PeerArgs& a, cudaStream_t stream) {
  const auto kernel = one_shot_kernel<T, RANKS, THEN>;
  const int threads = round_up(a.row.d / kVec<T>, kWarp);
  const unsigned grid =
      resident_blocks(reinterpret_cast<const void*>(kernel), threads, a.peers.sharing, a.row.rows);
  launch(kernel,
         {.grid = dim3(grid), .block = dim3(static_cast<unsigned>(threads)), .dependent = a.row.dependent},
         stream, a);
}

template <typename T, Then THEN>
void launch_ranks(const PeerArgs& a, cudaStream_t stream) {
  switch (a.peers.layout.ranks) {
    case 2:
      return launch_kernel<T, 2, THEN>(a, stream);
    case 4:
      return launch_kernel<T, 4, THEN>(a, stream);
    default:
      return launch_kernel<T, 8, THEN>(a, stream);
  }
}

template <Then THEN>
void launch_type(const PeerArgs& a, cudaStream_t stream) {
  switch (a.row.dtype) {
    case DType::kF32:
      return launch_ranks<float, THEN>(a, stream);
    case DType::kF16:
      return launch_ranks<__half, THEN>(a, stream);
    default:
      return launch_ranks<__nv_bfloat16, THEN>(a, stream);
  }
}

}  // namespace

void launch_one_shot(const PeerArgs& args, bool norm, cudaStream_t stream) {
  norm ? launch_type<Then::kNorm>(args, stream) : launch_type<Then::kStore>(args, stream);
}
void launch_one_shot_gather(const PeerArgs& args, cudaStream_t stream) {
  launch_ranks<float, Then::kGather>(args, stream);
}

}  // namespace tandem::kernels
