// How a search finds the fastest algorithm of a library: on operands of its own, cold in L2, in turns. Internal to the
// searches.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "kernels/common/device_buffer.h"
#include "kernels/gemm/gemm.h"

namespace tandem::kernels {

/// Operands of one problem, the weights so often that a rotation through them finds none in L2.
class SearchOperands {
 public:
  struct Weights {
    int64_t bytes = 0;
    /// Makes a copy's content.
    std::function<void(void* w)> fill = {};
  };
  SearchOperands(int device, const GemmProblem& problem, const Weights& weights, int64_t workspace_bytes,
                 cudaStream_t stream);

  int copies() const { return copies_; }
  GemmArgs args(int turn) const;
  /// Of y as the last product left it; waits for it.
  uint64_t digest_of_y(cudaStream_t stream) const;
  void clear_digest(cudaStream_t stream) const;

 private:
  GemmProblem problem_;
  int64_t w_stride_ = 0;
  int copies_ = 1;
  DeviceBuffer w_, x_, y_, residual_, bias_, x_scales_, w_scales_, workspace_, digest_;
};

/// Enqueues a product.
using Launch = std::function<void(const GemmArgs& args, cudaStream_t stream)>;

struct Race {
  const GemmProblem& problem;
  std::vector<GemmChoice> choices;  ///< smaller workspaces first, then the library's own order
  /// The product with a choice; throws Error where the library refuses it.
  std::function<Launch(const GemmChoice& choice)> bind;
  const SearchOperands& operands;
  int rounds = 9;
  std::string nothing_found;  ///< how the message begins when none of them runs
};
/// The fastest whose result repeats bit for bit; a tie (within 1 %) goes to the smaller workspace, then to the order of
/// `choices`. Throws UsageError when there is none.
GemmChoice fastest(const Race& race, cudaStream_t stream);

}  // namespace tandem::kernels
