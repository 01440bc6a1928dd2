#include "kernels/runtime/device.h"

#include <fmt/format.h>

#include <cstdio>

#include <utility>
#include <vector>

#include "harness/base/cuda_check.h"
#include "harness/base/error.h"
#include "harness/engine/planted.h"
#include "harness/memory/gpu_resource.h"
#include "kernels/common/arch.h"
#include "kernels/limits/delay.h"
#include "kernels/runtime/ranks/measured_ways.h"

namespace tandem::kernels {
namespace {

/// Makes it current. Throws DeviceError with why_unusable().
cudaDeviceProp open_device(int device) {
  if (const std::string why = why_unusable(device); !why.empty()) throw DeviceError("device: " + why);
  TANDEM_CUDA_CHECK(cudaSetDevice(device));
  cudaDeviceProp properties{};
  TANDEM_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
  return properties;
}

std::unique_ptr<GemmChoices> open_choices(const CudaEngineOptions& options) {
  if (options.choices_path.empty()) return std::make_unique<GemmChoices>();
  const auto mode = options.choices_read_only ? GemmChoices::Mode::kReadOnly : GemmChoices::Mode::kSearch;
  return std::make_unique<GemmChoices>(options.choices_path, mode);
}

}  // namespace

Device::Device(const CudaEngineOptions& options)
    : options_(options),
      gpu_(make_gpu_resource(options.device)),
      level2_(*gpu_),
      metered_gpu_(*gpu_, meter_),
      metered_level2_(level2_, meter_) {
  const cudaDeviceProp properties = open_device(options.device);
  if (const int64_t first = planted_first_bytes(); first > 0) first_ = MemoryBlock(*gpu_, first);
  dependent_launch_ = current_arch().dependent_launch;
  l2_bytes_ = properties.l2CacheSize;
  total_bytes_ = static_cast<int64_t>(properties.totalGlobalMem);
  TANDEM_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  if (options.tensor != nullptr && options.tensor->size() > 1) {
    TANDEM_CUDA_CHECK(cudaEventCreateWithFlags(&all_done_, cudaEventDisableTiming));
    TANDEM_CUDA_CHECK(cudaMalloc(reinterpret_cast<void**>(&meeting_), (kMaxPeers + 1) * sizeof(uint32_t)));
    ranks_ = std::make_unique<DeviceRanks>(*options.tensor, stream_);
    dependent_launch_ = dependent_launch_ && !ranks_->shares_device();
    if (ranks_->rank() == 0 && !ranks_->no_peers().empty())
      std::fprintf(stderr, "tandem: ranks sum by NCCL: %s\n", ranks_->no_peers().c_str());
  }
  lt_ = std::make_unique<CublasLt>();
  choices_ = open_choices(options);
}

Device::~Device() {
  ranks_.reset();
  if (meeting_ != nullptr) TANDEM_CUDA_WARN(cudaFree(meeting_));
  if (all_done_ != nullptr) TANDEM_CUDA_WARN(cudaEventDestroy(all_done_));
  if (stream_ != nullptr) TANDEM_CUDA_WARN(cudaStreamDestroy(stream_));
}

void Device::activate() const {
  TANDEM_CUDA_CHECK(cudaSetDevice(options_.device));
}

void Device::synchronize() const {
  if (!ranks_) {
    TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream_));
    return;
  }
  TANDEM_CUDA_CHECK(cudaEventRecord(all_done_, stream_));
  ranks_->wait(all_done_);
}

void Device::wait(cudaEvent_t event) const {
  if (ranks_) return ranks_->wait(event);
  TANDEM_CUDA_CHECK(cudaEventSynchronize(event));
}

TensorSlice Device::slice() const {
  if (!ranks_) return {};
  return {.degree = ranks_->size(), .rank = ranks_->rank()};
}

void Device::use_all_reduce(AllReduceChoice choice) {
  all_reduce_ = choice;
  if (!ranks_) return;
  if (choice == AllReduceChoice::kAuto && !ways_known_) {
    const std::string path = options_.run_dir.empty() ? "" : options_.run_dir + "/allreduce-choices.json";
    ranks_->use(measured_ways(*ranks_, *options_.tensor, stream_, path,
                              options_.search_choices && !options_.choices_read_only));
    ways_known_ = true;
  }
  ranks_->way(choice, 0);
}

void Device::line_up() {
  if (!ranks_) return;
  constexpr int64_t kEnqueued_ns = 30'000;  // until then the host has enqueued what follows
  launch_delay({.ns = kEnqueued_ns}, stream_);
  ranks_->all_gather(meeting_ + kMaxPeers, meeting_, sizeof(uint32_t), false, false);
}

int64_t Device::free_bytes() const {
  size_t free = 0;
  size_t total = 0;
  TANDEM_CUDA_CHECK(cudaMemGetInfo(&free, &total));
  const MemoryStats held = level2_.stats();
  return static_cast<int64_t>(free) + held.reserved_bytes - held.current_bytes;
}

Gemm Device::gemm(const GemmProblem& problem) {
  const bool known = choices_->find(lt_->place(), problem).has_value();
  if (!options_.search_choices || (suggest_ && !known)) return Gemm(*lt_, problem, suggested(*lt_, problem));
  // A search allocates operands of its own: it must find the room that the cache keeps.
  if (!known && choices_->mode() == GemmChoices::Mode::kSearch) level2_.trim();
  return Gemm(*lt_, problem, choose(*lt_, *choices_, problem, stream_));
}

const StructuredLt* Device::structured() {
  if (!std::exchange(looked_for_structured_, true)) {
    activate();
    if (structured_lacks().empty()) structured_ = std::make_unique<StructuredLt>();
  }
  return structured_.get();
}

StructuredGemm Device::structured_gemm(const GemmProblem& problem, const void* bias) {
  const StructuredLt* const lt = structured();
  if (lt == nullptr) throw ImpossibleCase(fmt::format("sparsity: {}", structured_lacks()));
  if (!options_.search_choices) {
    const std::vector<GemmChoice> all = structured_candidates(*lt, problem);
    if (all.empty()) throw UsageError("cuSPARSELt has no algorithm for product " + problem_text(problem));
    return StructuredGemm(*lt, problem, all.front(), bias);
  }
  if (choices_->mode() == GemmChoices::Mode::kSearch && !choices_->find(lt->place(), problem)) level2_.trim();
  return StructuredGemm(*lt, problem, choose(*lt, *choices_, problem, stream_), bias);
}

}  // namespace tandem::kernels
