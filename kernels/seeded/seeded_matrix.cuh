// The elements of one matrix of a layout, wherever the runs of its rows and columns lie in the whole tensor.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

#include "harness/base/cuda_check.h"
#include "harness/weights/layout.h"
#include "kernels/common/device.cuh"
#include "kernels/common/device_buffer.h"
#include "kernels/seeded/seeded_values.cuh"

namespace tandem::kernels {

struct SeededMatrix {
  SeededValues values;
  const int32_t* row_at;  ///< [rows]: of the whole tensor
  const int32_t* col_at;  ///< [cols]
  int64_t rows;
  int64_t cols;

  __device__ int64_t index(int64_t row, int64_t col) const {
    return static_cast<int64_t>(row_at[row]) * values.cols + col_at[col];
  }
  __device__ int32_t row_scale(int64_t row) const { return values.row_scale(row_at[row]); }
};

/// MatrixCut and magnitude_bits of harness/weights/pruning, on the card.
struct DeviceCut {
  uint32_t threshold;
  int64_t last_tie;

  static DeviceCut of(const MatrixCut& cut) { return {cut.threshold, cut.last_tie}; }
  __device__ static uint32_t magnitude(float v) { return __float_as_uint(v) & 0x7fffffffu; }
  __device__ bool keeps(float v, int64_t index) const {
    const uint32_t bits = magnitude(v);
    return bits > threshold || (bits == threshold && index <= last_tie);
  }
};

/// Indices of a matrix's rows and columns on the card, for one matrix after the other in stream order.
class MatrixIndices {
 public:
  MatrixIndices(int64_t most_rows, int64_t most_cols)
      : rows_(most_rows * static_cast<int64_t>(sizeof(int32_t))),
        cols_(most_cols * static_cast<int64_t>(sizeof(int32_t))) {}

  SeededMatrix matrix(const WeightsSpec& spec, const TensorSpec& t, cudaStream_t stream) const {
    upload(t.row_runs, rows_, stream);
    upload(t.col_runs, cols_, stream);
    return {.values = SeededValues::of(spec, t.whole),
            .row_at = rows_.data<int32_t>(),
            .col_at = cols_.data<int32_t>(),
            .rows = count(t.row_runs),
            .cols = count(t.col_runs)};
  }

 private:
  static int64_t count(const IndexRuns& runs) {
    int64_t n = 0;
    for (const IndexRun& run : runs) n += run.count;
    return n;
  }
  static void upload(const IndexRuns& runs, const DeviceBuffer& to, cudaStream_t stream) {
    std::vector<int32_t> all;
    for (const IndexRun& run : runs) {
      for (int64_t i = 0; i < run.count; ++i) all.push_back(static_cast<int32_t>(run.first + i));
    }
    // From pageable memory: copied out of `all` before the call returns.
    TANDEM_CUDA_CHECK(
        cudaMemcpyAsync(to.data(), all.data(), all.size() * sizeof(int32_t), cudaMemcpyHostToDevice, stream));
  }

  DeviceBuffer rows_, cols_;
};

}  // namespace tandem::kernels
