// NCCL, loaded when it is first asked for: nothing of it is needed to build. NVLink multicast stays off (NCCL_NVLS_ENABLE=0 unless
// the environment says otherwise before the first call): on shared hosts it can put the switch out of service for everyone.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "harness/base/tensor.h"

namespace tandem::kernels {

/// What ranks of one communicator have in common; rank 0 makes it and the others are told.
using NcclId = std::array<char, 128>;

/// Where libnccl.so.2 may be, in the order tried: TANDEM_NCCL alone if set, the loader's own search, then the packages of each
/// python3 on PATH.
std::vector<std::string> nccl_paths();
/// Is there a library that can be loaded? Says why not in `reason`.
bool nccl_available(std::string* reason = nullptr);
/// "2.28.9". Throws DeviceError without a library.
std::string nccl_version();
/// Throws DeviceError without a library, CudaError when NCCL refuses.
NcclId make_nccl_id();

/// One rank of a communicator of NCCL's, on the device that was current when it was made. Calls enqueue work on a stream and may be
/// captured, after each has run once uncaptured. Sums are in NCCL's order, the same bits on every rank.
class NcclRank {
 public:
  /// Meets the other ranks, which are threads or processes that do the same. Throws Error when they have not come after `wait_s`
  /// seconds: the process is then of no further use, because NCCL cannot be called off. DeviceError, CudaError as above.
  NcclRank(int rank, int ranks, const NcclId& id, double wait_s);
  /// All ranks of one thread, rank r on devices[r]; the current device stays. Their calls belong between the two of an NcclGroup.
  static std::vector<NcclRank> local(std::span<const int> devices);
  ~NcclRank();
  NcclRank(NcclRank&& other) noexcept;
  NcclRank& operator=(NcclRank&&) = delete;

  /// y [count] = x [count] summed over the ranks; y may be x. dtype: kF32, kF16 or kBF16.
  void all_reduce(const void* x, void* y, int64_t count, DType dtype, cudaStream_t stream) const;
  /// y [ranks, bytes]: x [bytes] of every rank; x may be its own place in y.
  void all_gather(const void* x, void* y, int64_t bytes, cudaStream_t stream) const;
  void broadcast(void* data, int64_t bytes, int root, cudaStream_t stream) const;
  /// Throws CudaError for what went wrong behind the host's back.
  void check() const;
  /// Ends what is under way on the device; the rank is of no use any more. For when another rank is lost.
  void abort() noexcept;

 private:
  NcclRank() = default;
  void* comm_ = nullptr;
};

/// Calls of several ranks by one thread: enqueued together when the last NcclGroup ends.
class NcclGroup {
 public:
  NcclGroup();
  /// Enqueues. Throws CudaError.
  void end();
  ~NcclGroup();
  NcclGroup(const NcclGroup&) = delete;
  NcclGroup& operator=(const NcclGroup&) = delete;

 private:
  bool open_ = true;
};

}  // namespace tandem::kernels
