#include "kernels/runtime/structured/structured_products.h"

#include <algorithm>
#include <utility>

#include "kernels/sparse/unpack.h"

namespace tandem::kernels {

void StructuredProducts::add(int op, const GemmProblem& problem, const DenseWeight& weight) {
  StructuredGemm gemm = device_.structured_gemm(problem, weight.bias.data);
  const cudaStream_t stream = device_.stream();
  const MemoryBlock dense(memory_, tensor_bytes(problem.w, problem.n * problem.k));
  const MemoryBlock scratch(memory_, gemm.compress_scratch_bytes());
  MemoryBlock compressed(memory_, gemm.compressed_bytes());
  launch_unpack({.dtype = problem.w,
                 .rows = problem.n,
                 .cols = problem.k,
                 .values = weight.weight.data,
                 .metadata = static_cast<const uint8_t*>(weight.metadata),
                 .y = dense.data()},
                stream);
  gemm.compress(dense.data(), compressed.data(), scratch.data(), stream);
  device_.synchronize();  // before the dense matrix goes
  workspace_bytes_ = std::max(workspace_bytes_, gemm.workspace_bytes());
  bytes_ += compressed.bytes();
  products_.emplace(op, Product{std::move(gemm), std::move(compressed)});
}

void StructuredProducts::run(int op, GemmArgs args, cudaStream_t stream) const {
  const Product& product = products_.at(op);
  args.w = product.compressed.data();
  product.gemm.run(args, stream);
}

}  // namespace tandem::kernels
