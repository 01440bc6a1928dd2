#include "kernels/collectives/nccl.h"

#include <dlfcn.h>
#include <glob.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <sstream>
#include <thread>
#include <utility>

#include "harness/base/cuda_check.h"
#include "harness/base/error.h"

namespace tandem::kernels {
namespace {

// Types and values of nccl.h (2.x), which is not needed to build.
constexpr int kSuccess = 0;
constexpr int kSum = 0;
constexpr int kInt8 = 0;
using Comm = void*;
struct UniqueId {
  char internal[128];
};

struct Functions {
  int (*get_version)(int*) = nullptr;
  int (*get_unique_id)(UniqueId*) = nullptr;
  int (*init_rank)(Comm*, int, UniqueId, int) = nullptr;
  int (*destroy)(Comm) = nullptr;
  int (*abort)(Comm) = nullptr;
  int (*async_error)(Comm, int*) = nullptr;
  const char* (*error_string)(int) = nullptr;
  const char* (*last_error)(Comm) = nullptr;
  int (*group_start)() = nullptr;
  int (*group_end)() = nullptr;
  int (*all_reduce)(const void*, void*, size_t, int, int, Comm, cudaStream_t) = nullptr;
  int (*all_gather)(const void*, void*, size_t, int, Comm, cudaStream_t) = nullptr;
  int (*broadcast)(const void*, void*, size_t, int, int, Comm, cudaStream_t) = nullptr;
};

struct Library {
  Functions f;
  std::string missing;  ///< why it cannot be used; empty: it can
};

void add_matches(const std::string& pattern, std::vector<std::string>& paths) {
  glob_t found{};
  if (::glob(pattern.c_str(), 0, nullptr, &found) == 0) {
    for (size_t i = 0; i < found.gl_pathc; ++i) paths.emplace_back(found.gl_pathv[i]);
  }
  ::globfree(&found);
}

template <typename F>
void load(void* handle, const char* symbol, F& function, std::string& missing) {
  function = reinterpret_cast<F>(::dlsym(handle, symbol));
  if (function == nullptr && missing.empty()) missing = std::string("libnccl.so.2 has no ") + symbol;
}

Library open_library() {
  Library library;
  ::setenv("NCCL_NVLS_ENABLE", "0", /*overwrite=*/0);
  void* handle = nullptr;
  for (const std::string& path : nccl_paths()) {
    if ((handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) != nullptr) break;
    const char* why = ::dlerror();
    if (library.missing.empty()) library.missing = why != nullptr ? why : "libnccl.so.2 cannot be loaded";
  }
  if (handle == nullptr) return library;
  library.missing.clear();
  Functions& f = library.f;
  const auto take = [&](const char* symbol, auto& function) {
    load(handle, symbol, function, library.missing);
  };
  take("ncclGetVersion", f.get_version);
  take("ncclGetUniqueId", f.get_unique_id);
  take("ncclCommInitRank", f.init_rank);
  take("ncclCommDestroy", f.destroy);
  take("ncclCommAbort", f.abort);
  take("ncclCommGetAsyncError", f.async_error);
  take("ncclGetErrorString", f.error_string);
  take("ncclGetLastError", f.last_error);
  take("ncclGroupStart", f.group_start);
  take("ncclGroupEnd", f.group_end);
  take("ncclAllReduce", f.all_reduce);
  take("ncclAllGather", f.all_gather);
  take("ncclBroadcast", f.broadcast);
  return library;
}

const Library& the_library() {
  static const Library library = open_library();
  return library;
}
const Functions& nccl() {
  const Library& library = the_library();
  if (!library.missing.empty()) throw DeviceError("NCCL: " + library.missing);
  return library.f;
}

void must(int status, const char* call, Comm comm = nullptr) {
  if (status == kSuccess) return;
  const Functions& f = nccl();
  throw CudaError(std::string(call) + ": " + f.error_string(status) + ": " + f.last_error(comm), status);
}
void warn(int status, const char* call) noexcept {
  if (status != kSuccess) std::fprintf(stderr, "tandem: %s: status %d\n", call, status);
}

int nccl_type(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return 6;
    case DType::kF32:
      return 7;
    case DType::kBF16:
      return 9;
    default:
      throw UsageError("collective: dtype must be f32, f16 or bf16");
  }
}

}  // namespace

std::vector<std::string> nccl_paths() {
  if (const char* given = std::getenv("TANDEM_NCCL"); given != nullptr && *given != 0) return {given};
  std::vector<std::string> paths = {"libnccl.so.2"};
  std::istringstream folders(std::getenv("PATH") != nullptr ? std::getenv("PATH") : "");
  for (std::string folder; std::getline(folders, folder, ':');) {
    std::vector<std::string> python;
    add_matches(folder + "/python3", python);
    if (python.empty()) continue;
    for (const char* packages : {"site-packages", "dist-packages"})
      add_matches(folder + "/../lib/python3*/" + packages + "/nvidia/nccl/lib/libnccl.so.2", paths);
  }
  return paths;
}

bool nccl_available(std::string* reason) {
  const Library& library = the_library();
  if (reason != nullptr) *reason = library.missing;
  return library.missing.empty();
}

std::string nccl_version() {
  int v = 0;
  must(nccl().get_version(&v), "ncclGetVersion");
  return std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + "." + std::to_string(v % 100);
}

NcclId make_nccl_id() {
  UniqueId id{};
  must(nccl().get_unique_id(&id), "ncclGetUniqueId");
  return std::to_array(id.internal);
}

NcclRank::NcclRank(int rank, int ranks, const NcclId& id, double wait_s) {
  const Functions& f = nccl();
  UniqueId unique{};
  std::copy(id.begin(), id.end(), unique.internal);
  int device = 0;
  TANDEM_CUDA_CHECK(cudaGetDevice(&device));
  // NCCL waits for the other ranks without end: in a thread that can be left behind.
  struct Meeting {
    std::promise<int> status;
    Comm comm = nullptr;
  };
  auto meeting = std::make_shared<Meeting>();
  std::future<int> done = meeting->status.get_future();
  std::thread([meeting, &f, unique, rank, ranks, device] {
    const cudaError_t set = cudaSetDevice(device);
    meeting->status.set_value(set == cudaSuccess ? f.init_rank(&meeting->comm, ranks, unique, rank) : -1);
  }).detach();
  if (done.wait_for(std::chrono::duration<double>(wait_s)) != std::future_status::ready) {
    throw Error("NCCL: not all of " + std::to_string(ranks) + " ranks have come within " +
                std::to_string(static_cast<int>(wait_s)) + " s");
  }
  must(done.get(), "ncclCommInitRank");
  comm_ = meeting->comm;
}

std::vector<NcclRank> NcclRank::local(std::span<const int> devices) {
  const Functions& f = nccl();
  const NcclId id = make_nccl_id();
  UniqueId unique{};
  std::copy(id.begin(), id.end(), unique.internal);
  int before = 0;
  TANDEM_CUDA_CHECK(cudaGetDevice(&before));
  std::vector<Comm> comms(devices.size());
  {
    NcclGroup group;
    for (size_t r = 0; r < devices.size(); ++r) {
      TANDEM_CUDA_CHECK(cudaSetDevice(devices[r]));
      must(f.init_rank(&comms[r], static_cast<int>(devices.size()), unique, static_cast<int>(r)),
           "ncclCommInitRank");
    }
    group.end();
  }
  TANDEM_CUDA_CHECK(cudaSetDevice(before));
  std::vector<NcclRank> ranks;
  for (Comm comm : comms) {
    ranks.push_back(NcclRank());
    ranks.back().comm_ = comm;
  }
  return ranks;
}

NcclRank::~NcclRank() {
  if (comm_ != nullptr) warn(nccl().destroy(comm_), "ncclCommDestroy");
}
NcclRank::NcclRank(NcclRank&& other) noexcept : comm_(std::exchange(other.comm_, nullptr)) {}

void NcclRank::all_reduce(const void* x, void* y, int64_t count, DType dtype, cudaStream_t stream) const {
  must(nccl().all_reduce(x, y, static_cast<size_t>(count), nccl_type(dtype), kSum, comm_, stream),
       "ncclAllReduce", comm_);
}
void NcclRank::all_gather(const void* x, void* y, int64_t bytes, cudaStream_t stream) const {
  must(nccl().all_gather(x, y, static_cast<size_t>(bytes), kInt8, comm_, stream), "ncclAllGather", comm_);
}
void NcclRank::broadcast(void* data, int64_t bytes, int root, cudaStream_t stream) const {
  must(nccl().broadcast(data, data, static_cast<size_t>(bytes), kInt8, root, comm_, stream), "ncclBroadcast",
       comm_);
}
void NcclRank::check() const {
  int status = 0;
  must(nccl().async_error(comm_, &status), "ncclCommGetAsyncError", comm_);
  must(status, "NCCL's background work", comm_);
}
void NcclRank::abort() noexcept {
  if (comm_ != nullptr) warn(nccl().abort(std::exchange(comm_, nullptr)), "ncclCommAbort");
}

NcclGroup::NcclGroup() {
  must(nccl().group_start(), "ncclGroupStart");
}
void NcclGroup::end() {
  open_ = false;
  must(nccl().group_end(), "ncclGroupEnd");
}
NcclGroup::~NcclGroup() {
  if (open_) warn(nccl().group_end(), "ncclGroupEnd");
}

}  // namespace tandem::kernels
