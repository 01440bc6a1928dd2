// Products with 2:4 weights through cuSPARSELt: search once, then run a fixed algorithm without allocating.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/gemm/gemm.h"

namespace tandem::kernels {

/// cuSPARSELt for the device that is current when it is made. Not for use from two threads at once.
class StructuredLt {
 public:
  /// Throws DeviceError where there is no such library, another version than the one that it is declared after, or a card
  /// that it does not support.
  StructuredLt();
  ~StructuredLt();
  StructuredLt(const StructuredLt&) = delete;
  StructuredLt& operator=(const StructuredLt&) = delete;

  /// The card, and the library's version in the place of cuBLAS's.
  const GemmPlace& place() const { return place_; }
  int device() const { return device_; }

  struct Native;
  const Native& native() const { return *native_; }

 private:
  std::unique_ptr<Native> native_;
  int device_ = 0;
  GemmPlace place_;
};

/// Why there are no structured products on the current device; empty when there are.
std::string structured_lacks();
/// Which file the library was read from, for the record; empty where there is none.
std::string structured_library();

/// A problem with two_of_four bound to an algorithm and to a bias. run() only launches. The handle must outlive it.
class StructuredGemm {
 public:
  /// `bias` [n] as in GemmArgs; null where the epilogue has none. Throws UsageError where the library refuses.
  StructuredGemm(const StructuredLt& lt, const GemmProblem& problem, const GemmChoice& choice,
                 const void* bias);
  ~StructuredGemm();
  StructuredGemm(StructuredGemm&&) noexcept;
  StructuredGemm& operator=(StructuredGemm&&) noexcept;

  const GemmProblem& problem() const;
  const GemmChoice& choice() const;
  int64_t workspace_bytes() const { return choice().workspace_bytes; }
  /// Of a matrix as the library multiplies it, and what making it takes besides.
  int64_t compressed_bytes() const;
  int64_t compress_scratch_bytes() const;
  /// dense [n, k] with at least two zeros in every four neighbours of a row, which is not checked -> compressed.
  void compress(const void* dense, void* compressed, void* scratch, cudaStream_t stream) const;
  /// args.w: what compress() made. Throws UsageError for a missing or misaligned pointer, a workspace too small, or another
  /// bias than the bound one; CudaError when the launch fails.
  void run(const GemmArgs& args, cudaStream_t stream) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The library's algorithms that the problem can run with, in its order.
std::vector<GemmChoice> structured_candidates(const StructuredLt& lt, const GemmProblem& problem);
/// As search() of dense products, with weights cold in L2.
GemmChoice search(const StructuredLt& lt, const GemmProblem& problem, cudaStream_t stream,
                  const GemmSearch& how = {});
/// As choose() of dense products.
GemmChoice choose(const StructuredLt& lt, GemmChoices& choices, const GemmProblem& problem,
                  cudaStream_t stream);

}  // namespace tandem::kernels
