// Dense products through cuBLASLt: search once, then run a fixed algorithm without allocating.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

#include "kernels/gemm/choices.h"
#include "kernels/gemm/problem.h"

namespace tandem::kernels {

/// One cuBLASLt handle for the device that is current when it is made. Not for use from two threads at once.
class CublasLt {
 public:
  CublasLt();
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  void* handle() const { return handle_; }
  const GemmPlace& place() const { return place_; }
  int device() const { return device_; }
  /// Of the device; 90 for 9.0.
  int compute_capability() const { return compute_capability_; }

 private:
  void* handle_ = nullptr;  // cublasLtHandle_t; kept opaque so that this header needs no cuBLAS
  int device_ = 0;
  int compute_capability_ = 0;
  GemmPlace place_;
};

struct GemmArgs {
  const void* x = nullptr;         ///< [m, k], rows ldx apart
  const void* w = nullptr;         ///< [n, k]
  const void* bias = nullptr;      ///< [n], GemmProblem::bias_type(); when the epilogue has a bias
  const void* residual = nullptr;  ///< [m, n], rows ldy apart; when the problem has one. May be y itself.
  void* y = nullptr;               ///< [m, n], rows ldy apart
  float alpha = 1.0f;              ///< scales the product, not the bias; 1 for operands of kI8
  void* workspace =
      nullptr;  ///< [workspace_bytes], 256-byte aligned; not shared by products that may overlap
  int64_t workspace_bytes = 0;      ///< at least Gemm::workspace_bytes()
  const float* x_scales = nullptr;  ///< [m], 16-byte aligned; for operands of kF8, see GemmProblem
  const float* w_scales = nullptr;  ///< [n], 16-byte aligned; the same
};

/// A problem bound to an algorithm. run() only launches: no allocation, no synchronisation, so it can be
/// captured into a CUDA graph. The handle must outlive it. Not for use from two threads at once.
class Gemm {
 public:
  /// Throws UsageError when the library refuses the choice (a file from another version, a changed problem).
  Gemm(const CublasLt& lt, const GemmProblem& problem, const GemmChoice& choice);
  ~Gemm();
  Gemm(Gemm&&) noexcept;
  Gemm& operator=(Gemm&&) noexcept;

  const GemmProblem& problem() const;
  const GemmChoice& choice() const;
  int64_t workspace_bytes() const { return choice().workspace_bytes; }
  /// Throws UsageError for a missing or misaligned pointer or too small a workspace, CudaError when the
  /// launch fails.
  void run(const GemmArgs& args, cudaStream_t stream);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct GemmSearch {
  int candidates = 40;                       ///< asked of the library for each workspace size
  int64_t max_workspace_bytes = 64ll << 20;  ///< sizes tried: 0, 4 MiB, 32 MiB and this, up to this
  int rounds = 9;                            ///< timed graph launches of a finalist
};

/// The largest workspace a choice of the default search can ask for.
inline constexpr int64_t kGemmWorkspaceBytes = 64ll << 20;

/// Times every candidate inside a CUDA graph with the weights cold in L2 and returns the fastest whose result
/// repeats bit for bit; a tie (within 1 %) goes to the smaller workspace, then to the library's own order.
/// Allocates its own buffers and synchronises; never call it inside a capture. Throws UsageError when the
/// library has no algorithm for the problem.
GemmChoice search(const CublasLt& lt, const GemmProblem& problem, cudaStream_t stream,
                  const GemmSearch& how = {});

/// The library's first suggestion within `max_workspace_bytes`, not timed.
GemmChoice suggested(const CublasLt& lt, const GemmProblem& problem,
                     int64_t max_workspace_bytes = kGemmWorkspaceBytes);

/// Does the library have any algorithm for the problem? An epilogue that it lacks for a type or an alignment can be run as
/// kernels/activation after a product without one.
bool has_algorithm(const CublasLt& lt, const GemmProblem& problem);

/// The choice for a problem from `choices`, searched and added (not saved) when missing and the mode allows
/// it.
GemmChoice choose(const CublasLt& lt, GemmChoices& choices, const GemmProblem& problem, cudaStream_t stream);

}  // namespace tandem::kernels
