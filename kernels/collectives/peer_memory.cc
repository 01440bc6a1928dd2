#include "kernels/collectives/peer_memory.h"

#include <algorithm>
#include <cstddef>
#include <string>

#include "harness/base/cuda_check.h"
#include "harness/base/error.h"

namespace tandem::kernels {
namespace {

/// Makes a device current and brings back the one that was.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device) {
    TANDEM_CUDA_CHECK(cudaGetDevice(&before_));
    TANDEM_CUDA_CHECK(cudaSetDevice(device));
  }
  ~CurrentDevice() { TANDEM_CUDA_WARN(cudaSetDevice(before_)); }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  int before_ = 0;
};

void enable_access(int from, int to) {
  if (from == to) return;
  if (!peer_access(from, to)) {
    throw DeviceError("devices " + std::to_string(from) + " and " + std::to_string(to) +
                      " cannot reach each other's memory");
  }
  const CurrentDevice current(from);
  const cudaError_t status = cudaDeviceEnablePeerAccess(to, 0);
  if (status == cudaErrorPeerAccessAlreadyEnabled) {
    cudaGetLastError();
    return;
  }
  TANDEM_CUDA_CHECK(status);
}

}  // namespace

PeerMemory::PeerMemory(int rank, int ranks, const PeerOptions& options) {
  constexpr int64_t kLeast = kMaxPeers * PeerLayout::kMaxRowBytes;
  for (const int64_t bytes : {options.oneshot_bytes, options.twoshot_bytes}) {
    if (bytes < kLeast || bytes % kPiece != 0) {
      throw UsageError("collective: limits of messages must be multiples of 16 bytes from " +
                       std::to_string(kLeast) + " on, not " + std::to_string(bytes));
    }
  }
  if (ranks != 2 && ranks != 4 && ranks != 8)
    throw UsageError("collective: ranks must be 2, 4 or 8, not " + std::to_string(ranks));
  TANDEM_CUDA_CHECK(cudaGetDevice(&device_));
  view_.rank = rank;
  view_.layout = {
      .ranks = ranks, .oneshot_bytes = options.oneshot_bytes, .twoshot_bytes = options.twoshot_bytes};
  view_.wait_ns = static_cast<uint64_t>(options.wait_s * 1e9);
  arena_ = DeviceBuffer(view_.layout.arena_bytes());
  view_.arena[rank] = arena_.data<char>();
  TANDEM_CUDA_CHECK(cudaMemset(arena_.data(), 0, static_cast<size_t>(arena_.bytes())));
  const PeerState state{.generation = options.first_generation,
                        .lost = 0,
                        .unused = {},
                        .arrived = 0,
                        .unused_too = 0,
                        .waited = 0};
  TANDEM_CUDA_CHECK(cudaMemcpy(arena_.data(), &state, sizeof(state), cudaMemcpyHostToDevice));
  TANDEM_CUDA_CHECK(cudaHostAlloc(reinterpret_cast<void**>(&view_.lost), sizeof(uint32_t),
                                  cudaHostAllocPortable | cudaHostAllocMapped));
  *view_.lost = 0;
}

PeerMemory::~PeerMemory() {
  close();
  if (view_.lost != nullptr) TANDEM_CUDA_WARN(cudaFreeHost(view_.lost));
}

cudaIpcMemHandle_t PeerMemory::handle() const {
  cudaIpcMemHandle_t handle{};
  TANDEM_CUDA_CHECK(cudaIpcGetMemHandle(&handle, arena_.data()));
  return handle;
}

void PeerMemory::open(std::span<const Other> others, int sharing) {
  if (static_cast<int>(others.size()) != view_.layout.ranks)
    throw Error("collective: an arena a rank is needed");
  const CurrentDevice current(device_);
  view_.sharing = sharing;
  for (int r = 0; r < view_.layout.ranks; ++r) {
    const Other& other = others[static_cast<size_t>(r)];
    if (r == view_.rank) continue;
    if (other.arena != nullptr) {
      enable_access(device_, other.device);
      view_.arena[r] = other.arena;
      continue;
    }
    void* arena = nullptr;
    TANDEM_CUDA_CHECK(cudaIpcOpenMemHandle(&arena, other.handle, cudaIpcMemLazyEnablePeerAccess));
    view_.arena[r] = static_cast<char*>(arena);
    by_handle_[static_cast<size_t>(r)] = true;
  }
}

void PeerMemory::close() {
  for (int r = 0; r < view_.layout.ranks; ++r) {
    if (r == view_.rank) continue;
    if (by_handle_[static_cast<size_t>(r)]) TANDEM_CUDA_WARN(cudaIpcCloseMemHandle(view_.arena[r]));
    by_handle_[static_cast<size_t>(r)] = false;
    view_.arena[r] = nullptr;
  }
}

uint64_t PeerMemory::waited(cudaStream_t stream) const {
  unsigned long long cycles = 0;
  TANDEM_CUDA_CHECK(cudaMemcpyAsync(&cycles, arena_.data<char>() + offsetof(PeerState, waited),
                                    sizeof(cycles), cudaMemcpyDeviceToHost, stream));
  TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream));
  return cycles;
}

std::optional<int> PeerMemory::lost() const {
  const uint32_t word = *static_cast<const volatile uint32_t*>(view_.lost);
  return word == 0 ? std::nullopt : std::optional(static_cast<int>(word) - 1);
}

std::vector<std::unique_ptr<PeerMemory>> join_local_peers(std::span<const int> devices,
                                                          const PeerOptions& options) {
  std::vector<std::unique_ptr<PeerMemory>> all;
  for (size_t r = 0; r < devices.size(); ++r) {
    const CurrentDevice current(devices[r]);
    all.push_back(
        std::make_unique<PeerMemory>(static_cast<int>(r), static_cast<int>(devices.size()), options));
  }
  std::vector<PeerMemory::Other> others;
  for (const auto& one : all)
    others.push_back({.arena = one->view().arena[one->view().rank], .device = one->device()});
  for (const auto& one : all)
    one->open(others, static_cast<int>(std::count(devices.begin(), devices.end(), one->device())));
  return all;
}

bool peer_access(int from, int to) {
  if (from == to) return true;
  int can = 0;
  TANDEM_CUDA_CHECK(cudaDeviceCanAccessPeer(&can, from, to));
  return can != 0;
}

}  // namespace tandem::kernels
