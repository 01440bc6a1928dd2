// Products with 2:4 matrices through cuSPARSELt: the matrices as the library wants them, held for the operations of one plan.
#pragma once

#include <cstdint>
#include <map>

#include "harness/memory/memory_resource.h"
#include "harness/weights/weights.h"
#include "kernels/gemm/structured/structured_gemm.h"
#include "kernels/runtime/device.h"

namespace tandem::kernels {

class StructuredProducts {
 public:
  StructuredProducts(Device& device, MemoryResource& memory) : device_(device), memory_(memory) {}

  /// Finds the algorithm of an operation's product and compresses its matrix, which is read no more after that. Throws
  /// ImpossibleCase where the device has no such products, OutOfMemory.
  void add(int op, const GemmProblem& problem, const DenseWeight& weight);
  bool has(int op) const { return products_.contains(op); }
  /// args.w is the matrix's own.
  void run(int op, GemmArgs args, cudaStream_t stream) const;
  /// The largest that one of them needs.
  int64_t workspace_bytes() const { return workspace_bytes_; }
  /// Of the compressed matrices.
  int64_t bytes() const { return bytes_; }

 private:
  struct Product {
    StructuredGemm gemm;
    MemoryBlock compressed;
  };

  Device& device_;
  MemoryResource& memory_;
  std::map<int, Product> products_;
  int64_t workspace_bytes_ = 0;
  int64_t bytes_ = 0;
};

}  // namespace tandem::kernels
