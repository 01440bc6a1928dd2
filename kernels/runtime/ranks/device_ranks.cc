#include "kernels/runtime/ranks/device_ranks.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "harness/base/cuda_check.h"
#include "harness/base/error.h"
#include "kernels/collectives/peer_reduce.h"

namespace tandem::kernels {
namespace {

/// What a rank tells the others of itself.
struct Introduction {
  std::array<char, 64> host = {};
  std::array<char, 16> uuid = {};  ///< of the device
  uint64_t process = 0;            ///< drawn once in each: two containers may count processes alike
  int32_t device = 0;              ///< its number in that process
  uint64_t arena = 0;              ///< address in that process
  int32_t has_handle = 0;
  cudaIpcMemHandle_t handle = {};
};

template <typename T>
std::vector<T> gathered(Communicator& control, const T& mine) {
  static_assert(std::is_trivially_copyable_v<T>);
  std::vector<T> all(static_cast<size_t>(control.size()));
  control.all_gather(&mine, all.data(), sizeof(T), nullptr);
  return all;
}

std::array<char, 16> uuid_of(int device) {
  cudaDeviceProp properties{};
  TANDEM_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
  std::array<char, 16> uuid{};
  std::memcpy(uuid.data(), properties.uuid.bytes, uuid.size());
  return uuid;
}

/// The number that a device has in this process.
std::optional<int> device_here(const std::array<char, 16>& uuid) {
  int count = 0;
  TANDEM_CUDA_CHECK(cudaGetDeviceCount(&count));
  for (int device = 0; device < count; ++device) {
    if (uuid_of(device) == uuid) return device;
  }
  return std::nullopt;
}

uint64_t this_process() {
  static const uint64_t drawn = [] {
    std::random_device device;
    return uint64_t{device()} << 32 | device();
  }();
  return drawn;
}

Introduction introduce(const PeerMemory& memory) {
  Introduction mine;
  ::gethostname(mine.host.data(), mine.host.size() - 1);
  mine.uuid = uuid_of(memory.device());
  mine.process = this_process();
  mine.device = memory.device();
  mine.arena = reinterpret_cast<uint64_t>(memory.view().arena[memory.view().rank]);
  try {
    mine.handle = memory.handle();
    mine.has_handle = 1;
  } catch (const CudaError&) {  // said where another process needs it
  }
  return mine;
}

/// Why `mine` cannot reach the memory of `other`; empty: it can.
std::string unreachable(const Introduction& mine, const Introduction& other) {
  if (mine.host != other.host) return "they are on two hosts";
  const std::optional<int> there = device_here(other.uuid);
  if (!there) return "a device is not visible to the other's process";
  if (mine.process != other.process && other.has_handle == 0)
    return "a device's memory has no handle for other processes";
  if (!peer_access(mine.device, *there)) return "devices cannot reach each other's memory";
  return {};
}

}  // namespace

DeviceRanks::DeviceRanks(Communicator& control, cudaStream_t stream, double wait_s)
    : control_(control), stream_(stream), wait_s_(wait_s), table_(CollectiveTable::guessed(control.size())) {
  join_peers();
}

/// Nobody frees what another has open, and NCCL's end waits for that of every rank: without them it is cut short.
DeviceRanks::~DeviceRanks() {
  TANDEM_CUDA_WARN(cudaStreamSynchronize(stream_));
  if (memory_) memory_->close();
  bool together = !memory_ || !memory_->lost();
  try {
    if (together) control_.barrier(nullptr);
  } catch (const Error&) {  // what broke the ranks has been said
    together = false;
  }
  if (nccl_ && !together) nccl_->abort();
}

std::string DeviceRanks::first_word(const std::string& mine) {
  std::array<char, 256> word{};
  mine.copy(word.data(), word.size() - 1);
  for (const auto& said : gathered(control_, word)) {
    if (said[0] != 0) return said.data();
  }
  return {};
}

void DeviceRanks::join_peers() {
  const int me = rank();
  std::string mine;
  if (size() != 2 && size() != 4 && size() != 8) {
    no_peers_ = fmt::format("the own kernels are for 2, 4 or 8 ranks, not {}", size());
    return;
  }
  memory_ = std::make_unique<PeerMemory>(me, size(), PeerOptions{.wait_s = wait_s_});
  const std::vector<Introduction> all = gathered(control_, introduce(*memory_));
  for (int r = 0; r < size() && mine.empty(); ++r) {
    if (r == me) continue;
    shares_device_ = shares_device_ || all[r].uuid == all[me].uuid;
    const std::string why = unreachable(all[me], all[r]);
    if (!why.empty()) mine = fmt::format("ranks {} and {}: {}", std::min(me, r), std::max(me, r), why);
  }
  no_peers_ = first_word(mine);
  if (no_peers_.empty()) {
    std::vector<PeerMemory::Other> others;
    int sharing = 0;
    for (const Introduction& other : all) {
      const bool here = other.process == all[me].process;
      if (here && other.uuid == all[me].uuid) ++sharing;
      others.push_back({.arena = here ? reinterpret_cast<char*>(other.arena) : nullptr,
                        .device = other.device,
                        .handle = other.handle});
    }
    try {
      memory_->open(others, sharing);
    } catch (const CudaError& e) {
      mine = fmt::format("rank {}: {}", me, e.what());
    }
    no_peers_ = first_word(mine);
  }
  if (no_peers_.empty()) no_peers_ = first_word(try_peers());
  if (no_peers_.empty()) return;
  memory_->close();
  control_.barrier(nullptr);
  memory_.reset();
}

/// A sum by each algorithm over memory that has been opened, whose result is known. Ranks may share a device: nothing here waits for
/// all of it, or frees what it holds, while another rank's kernel waits for this one's.
std::string DeviceRanks::try_peers() {
  constexpr int64_t kCount = 4096;
  const float all = static_cast<float>(size() * (size() + 1) / 2);
  const DeviceBuffer x = DeviceBuffer::of(std::vector<float>(kCount, static_cast<float>(rank() + 1)));
  const DeviceBuffer y(x.bytes());
  std::vector<float> got(kCount);
  std::string wrong;
  control_.barrier(nullptr);
  for (const PeerAlgorithm algorithm : {PeerAlgorithm::kOneShot, PeerAlgorithm::kTwoShot}) {
    launch_all_reduce(
        memory_->view(),
        {.algorithm = algorithm, .dtype = DType::kF32, .count = kCount, .x = x.data(), .y = y.data()},
        stream_);
    TANDEM_CUDA_CHECK(cudaMemcpyAsync(got.data(), y.data(), static_cast<size_t>(y.bytes()),
                                      cudaMemcpyDeviceToHost, stream_));
    TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream_));
    if (!wrong.empty()) continue;
    if (const auto lost = memory_->lost()) {
      wrong = fmt::format("ranks {} and {}: nothing came through peer memory", rank(), *lost);
    } else if (const auto other = std::ranges::find_if(got, [&](float v) { return v != all; });
               other != got.end()) {
      wrong = fmt::format("rank {}: peer memory gave {} for {}", rank(), *other, all);
    }
  }
  control_.barrier(nullptr);
  return wrong;
}

const std::string& DeviceRanks::no_nccl() {
  if (no_nccl_) return *no_nccl_;
  std::string mine;
  nccl_available(&mine);
  std::string why = first_word(mine);
  if (why.empty() && shares_device_) why = "NCCL has one rank a device, and ranks share one";
  if (why.empty()) {
    NcclId id{};
    if (rank() == 0) id = make_nccl_id();
    control_.broadcast(id.data(), static_cast<int64_t>(id.size()), 0, nullptr);
    control_.barrier(nullptr);  // all are there before NCCL, which waits without end, is asked
    constexpr double kMeeting_s = 60;
    nccl_.emplace(rank(), size(), id, kMeeting_s);
  }
  no_nccl_ = why;
  return *no_nccl_;
}

NcclRank& DeviceRanks::nccl() {
  if (const std::string& why = no_nccl(); !why.empty())
    throw ImpossibleCase(fmt::format("allreduce: nccl: {}", why));
  return *nccl_;
}

CollectiveWay DeviceRanks::way(AllReduceChoice choice, int64_t bytes) {
  return way_of(choice, bytes, table_, no_peers_, [this] { return no_nccl(); });
}

namespace {
PeerAlgorithm algorithm_of(CollectiveWay way) {
  return way == CollectiveWay::kOneShot ? PeerAlgorithm::kOneShot : PeerAlgorithm::kTwoShot;
}
}  // namespace

bool DeviceRanks::all_reduce(AllReduceChoice choice, const void* x, void* y, int64_t count, DType dtype,
                             bool dependent) {
  const CollectiveWay way = this->way(choice, tensor_bytes(dtype, count));
  if (way == CollectiveWay::kNccl) {
    nccl().all_reduce(x, y, count, dtype, stream_);
    ++library_calls_;
    return false;
  }
  launch_all_reduce(memory_->view(),
                    {.algorithm = algorithm_of(way),
                     .dtype = dtype,
                     .count = count,
                     .x = x,
                     .y = y,
                     .dependent = dependent && !shares_device_},
                    stream_);
  return true;
}

bool DeviceRanks::all_reduce_norm(AllReduceChoice choice, const NormParams& norm, void* sum) {
  const CollectiveWay way = this->way(choice, tensor_bytes(norm.dtype, norm.rows * norm.d));
  NormParams p = norm;
  p.dependent = norm.dependent && !shares_device_;
  if (way != CollectiveWay::kNccl && p.x_dtype == p.dtype && all_reduce_norm_fits(p.dtype, p.d) &&
      norm_vectors_fit(p)) {
    launch_all_reduce_norm(memory_->view(), algorithm_of(way), p, stream_);
    return true;
  }
  const bool own = all_reduce(choice, norm.x, sum, norm.rows * norm.d, norm.x_dtype, norm.dependent);
  p.x = sum;
  p.dependent = p.dependent && own;
  launch_norm(p, stream_);
  return true;
}

std::optional<uint64_t> DeviceRanks::waited_cycles() const {
  if (!memory_) return std::nullopt;
  return memory_->waited(stream_);
}

bool DeviceRanks::all_gather(const void* x, void* y, int64_t bytes, bool dependent, bool counted) {
  if (no_peers_.empty() && bytes % 4 == 0 && bytes <= memory_->view().layout.oneshot_bytes) {
    PeerView view = memory_->view();
    view.counted = counted;
    launch_all_gather(view, x, bytes, y, dependent && !shares_device_, stream_);
    return true;
  }
  nccl().all_gather(x, y, bytes, stream_);
  ++library_calls_;
  return false;
}

void DeviceRanks::check() const {
  if (!memory_) return;
  if (const auto lost = memory_->lost())
    throw RankLost(*lost, fmt::format("did not come to a collective within {} s", wait_s_));
}

void DeviceRanks::wait(cudaEvent_t event) {
  if (!nccl_) {
    TANDEM_CUDA_CHECK(cudaEventSynchronize(event));  // the own kernels end by themselves
    return check();
  }
  const auto start = std::chrono::steady_clock::now();
  // The own kernels' limit, and time for work that is no waiting.
  constexpr double kWork_s = 5;
  const auto limit = std::chrono::duration<double>(wait_s_ + kWork_s);
  for (cudaError_t status = cudaEventQuery(event); status != cudaSuccess; status = cudaEventQuery(event)) {
    if (status != cudaErrorNotReady) TANDEM_CUDA_CHECK(status);
    if (std::chrono::steady_clock::now() - start > limit) {
      nccl_->abort();
      control_.barrier(nullptr);  // throws RankLost naming who is gone
      throw Error(
          fmt::format("ranks: no end of a collective after {} s, and no rank is gone", limit.count()));
    }
    std::this_thread::yield();
  }
  check();
}

}  // namespace tandem::kernels
