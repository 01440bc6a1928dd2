#include "kernels/collectives/peer_reduce.h"

#include <algorithm>
#include <string>

#include "harness/base/error.h"
#include "kernels/collectives/peer_args.h"

namespace tandem::kernels {
namespace {

[[noreturn]] void refuse(const std::string& what) {
  throw UsageError("collective: " + what);
}

void check_peers(const PeerView& p) {
  const int ranks = p.layout.ranks;
  if (ranks != 2 && ranks != 4 && ranks != 8) refuse("ranks must be 2, 4 or 8, not " + std::to_string(ranks));
  if (p.rank < 0 || p.rank >= ranks) refuse("rank must be in 0 .. ranks - 1, not " + std::to_string(p.rank));
  if (p.sharing < 1) refuse("sharing must be 1 or more, not " + std::to_string(p.sharing));
  for (int r = 0; r < ranks; ++r) {
    if (p.arena[r] == nullptr) refuse("the arena of rank " + std::to_string(r) + " is not there");
  }
}
void check_dtype(DType t) {
  if (t != DType::kF32 && t != DType::kF16 && t != DType::kBF16) refuse("dtype must be f32, f16 or bf16");
}
void check_aligned(const char* name, const void* p) {
  if (reinterpret_cast<uintptr_t>(p) % kPiece != 0) refuse(std::string(name) + " must be a multiple of 16");
}
void check_buffers(const void* x, const void* y) {
  if (x == nullptr || y == nullptr) refuse("x and y must not be null");
  check_aligned("x", x);
  check_aligned("y", y);
}

int64_t limit_bytes(const PeerLayout& layout, PeerAlgorithm algorithm) {
  return algorithm == PeerAlgorithm::kOneShot ? layout.oneshot_bytes : layout.twoshot_bytes;
}

/// Two trips need a row for each rank, so that no rank begins another collective before all have come to this one.
void launch_part(const PeerArgs& args, PeerAlgorithm algorithm, bool norm, cudaStream_t stream) {
  const bool two = algorithm == PeerAlgorithm::kTwoShot && args.row.rows >= args.peers.layout.ranks;
  two ? launch_two_shot(args, norm, stream) : launch_one_shot(args, norm, stream);
}

const void* moved(const void* p, DType t, int64_t elements) {
  return p == nullptr ? nullptr : static_cast<const char*>(p) + tensor_bytes(t, elements);
}
void* moved(void* p, DType t, int64_t elements) {
  return p == nullptr ? nullptr : static_cast<char*>(p) + tensor_bytes(t, elements);
}

}  // namespace

void launch_all_reduce(const PeerView& peers, const AllReduceParams& p, cudaStream_t stream) {
  check_peers(peers);
  check_dtype(p.dtype);
  const int64_t bytes = tensor_bytes(p.dtype, p.count);
  if (p.count < 0 || bytes % kPiece != 0)
    refuse("count must be 0 or more elements of a multiple of 16 bytes together, not " +
           std::to_string(p.count));
  if (p.count == 0) return;
  check_buffers(p.x, p.y);
  const int pieces = plain_row_pieces(bytes / kPiece);
  const int d = static_cast<int>(pieces * kPiece / dtype_bytes(p.dtype));
  const int64_t rows_at_once = limit_bytes(peers.layout, p.algorithm) / (int64_t{pieces} * kPiece);
  if (rows_at_once < 1) refuse("the layout has no room for a row");
  for (int64_t first = 0; first < p.count; first += rows_at_once * d) {
    const int64_t count = std::min(p.count - first, rows_at_once * d);
    launch_part({.peers = peers,
                 .row = {.dtype = p.dtype,
                         .x_dtype = p.dtype,
                         .stream_dtype = p.dtype,
                         .rows = ceil_div(count, static_cast<int64_t>(d)),
                         .d = d,
                         .x = moved(p.x, p.dtype, first),
                         .y = moved(p.y, p.dtype, first),
                         .dependent = p.dependent},
                 .count = count},
                p.algorithm, false, stream);
  }
}

bool all_reduce_norm_fits(DType dtype, int d) {
  const int64_t bytes = tensor_bytes(dtype, d);
  return bytes % kPiece == 0 && bytes <= PeerLayout::kMaxRowBytes;
}

void launch_all_reduce_norm(const PeerView& peers, PeerAlgorithm algorithm, const NormParams& norm,
                            cudaStream_t stream) {
  check_peers(peers);
  check_norm(norm);
  if (norm.x_dtype != norm.dtype) refuse("x_dtype must be dtype");
  if (!all_reduce_norm_fits(norm.dtype, norm.d)) {
    refuse("d must be elements of a multiple of 16 bytes together, at most " +
           std::to_string(PeerLayout::kMaxRowBytes) + ", not " + std::to_string(norm.d));
  }
  if (!norm_vectors_fit(norm)) refuse("every pointer must be a multiple of 16");
  const int64_t rows_at_once = limit_bytes(peers.layout, algorithm) / tensor_bytes(norm.dtype, norm.d);
  if (norm.rows > 0 && rows_at_once < 1) refuse("the layout has no room for a row");
  for (int64_t first = 0; first < norm.rows; first += rows_at_once) {
    PeerArgs args{.peers = peers, .row = norm, .count = 0};
    NormParams& part = args.row;
    part.rows = std::min(norm.rows - first, rows_at_once);
    args.count = part.rows * norm.d;
    const int64_t elements = first * norm.d;
    part.x = moved(norm.x, norm.x_dtype, elements);
    part.residual = moved(norm.residual, norm.stream_dtype, elements);
    part.sum = moved(norm.sum, norm.stream_dtype, elements);
    part.y = moved(norm.y, norm.dtype, elements);
    part.codes = moved(norm.codes, norm.code_dtype, elements);
    if (norm.scales != nullptr) part.scales = norm.scales + first;
    launch_part(args, algorithm, true, stream);
  }
}

void launch_all_gather(const PeerView& peers, const void* x, int64_t bytes, void* y, bool dependent,
                       cudaStream_t stream) {
  check_peers(peers);
  if (bytes < 0 || bytes % 4 != 0 || bytes > peers.layout.oneshot_bytes) {
    refuse("bytes must be a multiple of 4, at most " + std::to_string(peers.layout.oneshot_bytes) + ", not " +
           std::to_string(bytes));
  }
  if (bytes == 0) return;
  if (x == nullptr || y == nullptr) refuse("x and y must not be null");
  if (reinterpret_cast<uintptr_t>(x) % 4 != 0 || reinterpret_cast<uintptr_t>(y) % 4 != 0)
    refuse("x and y must be multiples of 4");
  launch_gather({.peers = peers, .row = {.x = x, .y = y, .dependent = dependent}, .count = bytes / 4},
                stream);
}

}  // namespace tandem::kernels
