// One trip: a rank writes its message into every arena, its own too, and sums what lies in its own once all of it has come.
#include "kernels/collectives/peer_launch.h"
#include "kernels/collectives/peer_rows.cuh"
#include "kernels/common/launch.h"

namespace tandem::kernels {
namespace {

constexpr int kThreads = PeerLayout::kMaxRowPieces;
constexpr int kGatherThreads = 128;

/// Bytes of two words with the generation in their upper halves.
__device__ inline WordPair marked(uint32_t a, uint32_t b, uint32_t generation) {
  const uint64_t mark = static_cast<uint64_t>(generation) << 32;
  return {mark | a, mark | b};
}
__device__ inline bool has_mark(const WordPair& v, uint32_t generation) {
  return v.first >> 32 == generation && v.second >> 32 == generation;
}

template <typename T, int RANKS, bool NORM>
__global__ void __launch_bounds__(kThreads) one_shot_kernel(const __grid_constant__ PeerArgs a) {
  constexpr int V = kVec<T>;
  constexpr int kTogether = RANKS == 2 ? 2 : 4;  // ranks whose lines are awaited together: registers
  __shared__ float partial[3][kWarp];
  const PeerView& peers = a.peers;
  const int place = static_cast<int>(threadIdx.x);
  const int pieces = a.row.d / V;
  RowEnd<T, NORM> end(a);
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
  WaitMeter meter = wait_meter(peers);
  const char* arena = peers.arena[peers.rank];
  for (row = blockIdx.x; row < a.row.rows; row += gridDim.x) {
    end.load(row);
    const bool mine = end.has(row);
    float sum[V] = {};
#pragma unroll
    for (int group = 0; group < RANKS; group += kTogether) {
      WordPair line[kTogether][2];
      begin_wait(meter);
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
      end_wait(meter);
#pragma unroll
      for (int r = 0; r < kTogether; ++r) {
        const uint4 raw = {static_cast<uint32_t>(line[r][0].first), static_cast<uint32_t>(line[r][0].second),
                           static_cast<uint32_t>(line[r][1].first), static_cast<uint32_t>(line[r][1].second)};
        if (mine) add_piece<T>(raw, group + r == 0, sum);
      }
    }
    if (NORM && row != blockIdx.x) __syncthreads();  // `partial`
    end.store(row, pack<T>(sum), partial);
  }
  leave_waited(peers, meter);
}

/// Words of four bytes, each in a word of eight with the generation: shares of any length, which are short ones.
__global__ void __launch_bounds__(kGatherThreads) gather_kernel(const __grid_constant__ PeerArgs a) {
  const PeerView& peers = a.peers;
  const int ranks = peers.layout.ranks;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kGatherThreads + threadIdx.x;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kGatherThreads;
  const auto* x = static_cast<const uint32_t*>(a.row.x);
  touch_params(a);
  pdl_launch_dependents();
  pdl_wait();

  const Generation now = load_generation(peers);
  if (now.lost != 0) return;
  const uint64_t mark = static_cast<uint64_t>(now.number) << 32;
  const int64_t sent = peers.layout.slot_offset(now.number, peers.rank);
  for (int64_t i = first; i < a.count; i += step) {
    const uint64_t word = mark | x[i];
    for (int r = 0; r < ranks; ++r)
      store_word_system(peers.arena[(peers.rank + 1 + r) % ranks] + sent + 8 * i, word);
  }
  leave_next_generation(peers, now.number);

  Patience patience(peers);
  WaitMeter meter = wait_meter(peers);
  auto* y = static_cast<uint32_t*>(a.row.y);
  begin_wait(meter);
  for (int64_t i = first; i < a.count; i += step) {
    for (int r = 0; r < ranks; ++r) {
      const char* from = peers.arena[peers.rank] + peers.layout.slot_offset(now.number, r) + 8 * i;
      uint64_t word = load_word_system(from);
      while (word >> 32 != now.number && !patience.over(r)) word = load_word_system(from);
      y[r * a.count + i] = static_cast<uint32_t>(word);
    }
  }
  end_wait(meter);
  leave_waited(peers, meter);
}

template <typename T, int RANKS>
void launch_kernel(const PeerArgs& a, bool norm, cudaStream_t stream) {
  const auto kernel = norm ? one_shot_kernel<T, RANKS, true> : one_shot_kernel<T, RANKS, false>;
  const int threads = round_up(a.row.d / kVec<T>, kWarp);
  const unsigned grid =
      resident_blocks(reinterpret_cast<const void*>(kernel), threads, a.peers.sharing, a.row.rows);
  launch(kernel,
         {.grid = dim3(grid), .block = dim3(static_cast<unsigned>(threads)), .dependent = a.row.dependent},
         stream, a);
}

template <typename T>
void launch_type(const PeerArgs& a, bool norm, cudaStream_t stream) {
  switch (a.peers.layout.ranks) {
    case 2:
      return launch_kernel<T, 2>(a, norm, stream);
    case 4:
      return launch_kernel<T, 4>(a, norm, stream);
    default:
      return launch_kernel<T, 8>(a, norm, stream);
  }
}

}  // namespace

void launch_one_shot(const PeerArgs& args, bool norm, cudaStream_t stream) {
  switch (args.row.dtype) {
    case DType::kF32:
      return launch_type<float>(args, norm, stream);
    case DType::kF16:
      return launch_type<__half>(args, norm, stream);
    default:
      return launch_type<__nv_bfloat16>(args, norm, stream);
  }
}

void launch_gather(const PeerArgs& args, cudaStream_t stream) {
  const unsigned grid = resident_blocks(reinterpret_cast<const void*>(gather_kernel), kGatherThreads,
                                        args.peers.sharing, ceil_div(args.count, int64_t{kGatherThreads}));
  launch(gather_kernel, {.grid = dim3(grid), .block = dim3(kGatherThreads), .dependent = args.row.dependent},
         stream, args);
}

}  // namespace tandem::kernels
