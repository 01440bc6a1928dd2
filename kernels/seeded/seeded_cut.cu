#include "kernels/seeded/seeded_cut.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "harness/base/error.h"
#include "harness/base/host_device.h"
#include "kernels/common/launch.h"
#include "kernels/seeded/seeded_matrix.cuh"

namespace tandem::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 1056;  // eight on each multiprocessor of the largest card that this runs on
/// The 31 bits of a magnitude in three digits, highest first.
constexpr std::array<int, 3> kDigitBits = {11, 10, 10};
constexpr int kBins = 1 << 11;

/// Counts the next digit of those magnitudes whose digits before are `prefix`.
struct Digit {
  uint32_t prefix;
  int above;  ///< bits of the prefix start here: those at `above` and higher
  int shift;
  uint32_t mask;
};

__global__ void __launch_bounds__(kThreads) histogram_kernel(SeededMatrix m, Digit d, uint32_t* bins) {
  __shared__ uint32_t counts[kBins];
  for (int i = static_cast<int>(threadIdx.x); i < kBins; i += kThreads) counts[i] = 0;
  __syncthreads();
  // A block a row: rows share their scale, and no index is divided.
  for (int64_t row = blockIdx.x; row < m.rows; row += gridDim.x) {
    const int32_t scale = m.row_scale(row);
    for (int64_t col = threadIdx.x; col < m.cols; col += kThreads) {
      const uint32_t bits = DeviceCut::magnitude(m.values.at(m.index(row, col), scale));
      if (d.above < 31 && bits >> d.above != d.prefix) continue;
      atomicAdd(&counts[(bits >> d.shift) & d.mask], 1u);
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kBins; i += kThreads) {
    if (counts[i] != 0) atomicAdd(&bins[i], counts[i]);
  }
}

/// Of each row: how many are larger than the threshold, how many equal to it, and how many are kept.
struct RowCounts {
  uint32_t* larger;  ///< [rows], or null
  uint32_t* equal;   ///< [rows], or null
  uint32_t* kept;    ///< [rows], or null
};

__global__ void __launch_bounds__(kThreads) row_counts_kernel(SeededMatrix m, DeviceCut cut, RowCounts to) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kThreads / kWarp);
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
       row < m.rows; row += warps) {
    const int32_t scale = m.row_scale(row);
    uint32_t larger = 0, equal = 0, kept = 0;
    for (int64_t col = lane; col < m.cols; col += kWarp) {
      const int64_t index = m.index(row, col);
      const float v = m.values.at(index, scale);
      const uint32_t bits = DeviceCut::magnitude(v);
      larger += bits > cut.threshold ? 1 : 0;
      equal += bits == cut.threshold ? 1 : 0;
      kept += cut.keeps(v, index) ? 1 : 0;
    }
    larger = __reduce_add_sync(0xffffffffu, larger);
    equal = __reduce_add_sync(0xffffffffu, equal);
    kept = __reduce_add_sync(0xffffffffu, kept);
    if (lane != 0) continue;
    if (to.larger != nullptr) to.larger[row] = larger;
    if (to.equal != nullptr) to.equal[row] = equal;
    if (to.kept != nullptr) to.kept[row] = kept;
  }
}

dim3 blocks(int64_t units) {
  return dim3(static_cast<unsigned>(std::clamp<int64_t>(units, 1, kMaxBlocks)));
}

class Pruner {
 public:
  Pruner(const WeightsSpec& spec, cudaStream_t stream) : spec_(spec), stream_(stream) {
    if (spec.checkpoint) throw UsageError("seeded pruning: checkpoint values do not come from a seed");
  }

  PrunedMatrix prune(const SparsitySpec& sparsity, const TensorSpec& of_model, const TensorSpec& here) {
    if (of_model.size() >= int64_t{1} << 32)
      throw UsageError("seeded pruning: " + of_model.name + " has 2^32 elements or more");
    reserve(std::max(of_model.rows, here.rows), std::max(of_model.cols, here.cols));
    const SeededMatrix whole = indices_->matrix(spec_, of_model, stream_);
    PrunedMatrix m{.cut = given_cut(sparsity), .size = of_model.size()};
    const int64_t removed = removed_weights(sparsity.unstructured, of_model.size());
    if (removed > 0) m.cut = cut_of(whole, of_model, removed);
    m.row_kept = kept(whole, m.cut);
    m.kept = std::accumulate(m.row_kept.begin(), m.row_kept.end(), int64_t{0});
    const bool part = here.row_runs != of_model.row_runs || here.col_runs != of_model.col_runs;
    if (part) m.row_kept = kept(indices_->matrix(spec_, here, stream_), m.cut);
    return m;
  }

 private:
  void reserve(int64_t rows, int64_t cols) {
    if (rows <= rows_ && cols <= cols_) return;
    TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream_));  // what was enqueued reads the buffers that go
    rows_ = std::max(rows, rows_);
    cols_ = std::max(cols, cols_);
    indices_.emplace(rows_, cols_);
    bins_ = DeviceBuffer(kBins * static_cast<int64_t>(sizeof(uint32_t)));
    counts_ = DeviceBuffer(2 * rows_ * static_cast<int64_t>(sizeof(uint32_t)));
  }

  std::vector<uint32_t> download(const uint32_t* from, int64_t count) const {
    std::vector<uint32_t> host(static_cast<size_t>(count));
    TANDEM_CUDA_CHECK(
        cudaMemcpyAsync(host.data(), from, host.size() * sizeof(uint32_t), cudaMemcpyDeviceToHost, stream_));
    TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream_));
    return host;
  }

  void count_rows(const SeededMatrix& m, const MatrixCut& cut, const RowCounts& to) const {
    launch(row_counts_kernel, {.grid = blocks(ceil_div(m.rows, kThreads / kWarp)), .block = dim3(kThreads)},
           stream_, m, DeviceCut::of(cut), to);
  }

  std::vector<uint32_t> kept(const SeededMatrix& m, const MatrixCut& cut) const {
    auto* const counts = counts_.data<uint32_t>();
    count_rows(m, cut, {.larger = nullptr, .equal = nullptr, .kept = counts});
    return download(counts, m.rows);
  }

  /// The magnitude of the (removed + 1)-th smallest, digit by digit.
  uint32_t threshold(const SeededMatrix& m, int64_t removed) const {
    uint32_t prefix = 0;
    int above = 31;
    int64_t below = removed;  // of those with this prefix so many go
    for (const int bits : kDigitBits) {
      const int shift = above - bits;
      TANDEM_CUDA_CHECK(cudaMemsetAsync(bins_.data(), 0, static_cast<size_t>(bins_.bytes()), stream_));
      launch(histogram_kernel, {.grid = blocks(m.rows), .block = dim3(kThreads)}, stream_, m,
             Digit{.prefix = prefix, .above = above, .shift = shift, .mask = (1u << bits) - 1},
             bins_.data<uint32_t>());
      const std::vector<uint32_t> counts = download(bins_.data<uint32_t>(), int64_t{1} << bits);
      uint32_t digit = 0;
      while (below >= counts[digit]) below -= counts[digit++];
      prefix = prefix << bits | digit;
      above = shift;
    }
    return prefix;
  }

  MatrixCut cut_of(const SeededMatrix& m, const TensorSpec& t, int64_t removed) const {
    MatrixCut cut{.threshold = threshold(m, removed)};
    auto* const counts = counts_.data<uint32_t>();
    count_rows(m, cut, {.larger = counts, .equal = counts + m.rows, .kept = nullptr});
    const std::vector<uint32_t> both = download(counts, 2 * m.rows);
    const auto equal = both.begin() + m.rows;
    int64_t ties = t.size() - removed - std::accumulate(both.begin(), equal, int64_t{0});
    size_t row = 0;
    while (ties > equal[static_cast<int64_t>(row)]) ties -= equal[static_cast<int64_t>(row++)];
    // The rest of the way is one row long.
    std::vector<float> values(static_cast<size_t>(t.cols));
    read_values(SeededSource(spec_), t, {static_cast<int64_t>(row), 1, 0, t.cols}, values);
    for (size_t col = 0; col < values.size(); ++col) {
      if (magnitude_bits(values[col]) != cut.threshold || --ties != 0) continue;
      cut.last_tie = at(t.row_runs, row) * t.whole.cols + at(t.col_runs, col);
      return cut;
    }
    throw Error("seeded pruning: " + t.name + " has no weight at its own threshold");
  }

  static int64_t at(const IndexRuns& runs, size_t i) {
    auto left = static_cast<int64_t>(i);
    for (const IndexRun& run : runs) {
      if (left < run.count) return run.first + left;
      left -= run.count;
    }
    throw Error("seeded pruning: an index is outside its runs");
  }

  WeightsSpec spec_;
  cudaStream_t stream_;
  int64_t rows_ = 0, cols_ = 0;
  std::optional<MatrixIndices> indices_;
  DeviceBuffer bins_, counts_;
};

}  // namespace

MatrixPruner seeded_pruner(const WeightsSpec& spec, cudaStream_t stream) {
  const auto pruner = std::make_shared<Pruner>(spec, stream);
  return [pruner](const SparsitySpec& sparsity, const TensorSpec& of_model, const TensorSpec& here) {
    return pruner->prune(sparsity, of_model, here);
  };
}

}  // namespace tandem::kernels
