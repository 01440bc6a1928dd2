#include <algorithm>
#include <string>

#include "harness/base/error.h"
#include "harness/base/host_device.h"
#include "kernels/common/device.cuh"
#include "kernels/common/launch.h"
#include "kernels/seeded/seeded_codes.h"
#include "kernels/seeded/seeded_fill.h"
#include "kernels/seeded/seeded_sparse.h"
#include "kernels/seeded/seeded_values.cuh"

namespace tandem::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 8192;

struct Fill {
  SeededValues values;
  bool whole_rows;  // consecutive in the tensor and in the output, so an index needs no row
  int64_t first_row;
  int64_t first_col;
  int64_t cols;
  int64_t ld;
  int64_t count;
};

template <typename T>
__global__ void __launch_bounds__(kThreads) seeded_fill_kernel(Fill p, T* out) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < p.count; i += step) {
    int64_t index = p.first_row * p.values.cols + i;
    int64_t to = i;
    int32_t scale = 1;
    if (p.values.outliers || !p.whole_rows) {
      // A 64-bit division costs more than the value itself, and no slice comes near 2^32 elements.
      const int64_t r =
          p.count >> 32 == 0 ? static_cast<uint32_t>(i) / static_cast<uint32_t>(p.cols) : i / p.cols;
      const int64_t row = p.first_row + r;
      index = row * p.values.cols + p.first_col + (i - r * p.cols);
      to = r * p.ld + (i - r * p.cols);
      scale = p.values.row_scale(row);
    }
    out[to] = from_float<T>(p.values.at(index, scale));
  }
}

template <typename T>
void launch_with(const Fill& fill, void* out, cudaStream_t stream) {
  const int64_t blocks = std::min(ceil_div(fill.count, kThreads), kMaxBlocks);
  launch(seeded_fill_kernel<T>, {.grid = dim3(static_cast<unsigned>(blocks)), .block = dim3(kThreads)},
         stream, fill, static_cast<T*>(out));
}

}  // namespace

void launch_seeded_slice(const SeededSliceParams& p, cudaStream_t stream) {
  if (p.spec == nullptr || p.tensor == nullptr || p.out == nullptr) {
    throw UsageError("seeded fill: spec, tensor and out must not be null");
  }
  const WholeTensor& t = *p.tensor;
  if (p.spec->checkpoint) throw UsageError("seeded fill: checkpoint values do not come from a seed");
  if (p.first_row < 0 || p.rows < 0 || p.first_row + p.rows > t.rows || p.first_col < 0 || p.cols < 0 ||
      p.first_col + p.cols > t.cols) {
    const auto range = [](int64_t first, int64_t count) {
      return std::to_string(first) + " + " + std::to_string(count);
    };
    throw UsageError("seeded fill: rows " + range(p.first_row, p.rows) + ", columns " +
                     range(p.first_col, p.cols) + " are outside " + t.name + " [" + std::to_string(t.rows) +
                     ", " + std::to_string(t.cols) + "]");
  }
  if (p.rows * p.cols == 0) return;
  const Fill fill{.values = SeededValues::of(*p.spec, t),
                  .whole_rows = p.cols == t.cols && (p.ld == 0 || p.ld == p.cols),
                  .first_row = p.first_row,
                  .first_col = p.first_col,
                  .cols = p.cols,
                  .ld = p.ld == 0 ? p.cols : p.ld,
                  .count = p.rows * p.cols};
  switch (p.dtype) {
    case DType::kF32:
      return launch_with<float>(fill, p.out, stream);
    case DType::kF16:
      return launch_with<__half>(fill, p.out, stream);
    case DType::kBF16:
      return launch_with<__nv_bfloat16>(fill, p.out, stream);
    default:
      throw UsageError("seeded fill: dtype must be f32, f16 or bf16");
  }
}

bool seeded_arena_fits(const WeightLayout& layout) {
  if (layout.expected || layout.form.calibration != Calibration::kNone) return false;
  return std::ranges::all_of(layout.tensors, [&](const TensorSpec& t) {
    if (seeded_sparse(layout.form, t)) return seeded_sparse_fits(layout.form, t);
    // Stored plain, a form's values are those of its codes.
    const bool own = own_storage(layout.form, t.use).scale_group == 0;
    return t.storage.plain() ? own : seeded_codes_fit(t);
  });
}

void launch_seeded_arena(const SeededArenaParams& p, cudaStream_t stream) {
  if (p.spec == nullptr || p.layout == nullptr || p.arena == nullptr)
    throw UsageError("seeded fill: spec, layout and arena must not be null");
  if (!seeded_arena_fits(*p.layout))
    throw UsageError("seeded fill: weights as " + form_text(p.layout->form) + " are made on the host");
  TANDEM_CUDA_CHECK(cudaMemsetAsync(p.arena, 0, static_cast<size_t>(p.layout->bytes), stream));
  launch_seeded_sparse({.spec = p.spec, .layout = p.layout, .arena = p.arena}, stream);
  for (const TensorSpec& t : p.layout->tensors) {
    if (seeded_sparse(p.layout->form, t)) continue;
    if (!t.storage.plain()) {
      launch_seeded_codes({.spec = p.spec, .tensor = &t, .arena = p.arena}, stream);
      continue;
    }
    int64_t row = 0;
    for (const IndexRun& rows : t.row_runs) {
      int64_t col = 0;
      for (const IndexRun& cols : t.col_runs) {
        const int64_t at =
            t.offset + t.storage.value_row_bytes(t.cols) * row + t.storage.value_row_bytes(col);
        launch_seeded_slice({.spec = p.spec,
                             .tensor = &t.whole,
                             .first_row = rows.first,
                             .rows = rows.count,
                             .first_col = cols.first,
                             .cols = cols.count,
                             .dtype = t.storage.dtype,
                             .out = static_cast<char*>(p.arena) + at,
                             .ld = t.cols},
                            stream);
        col += cols.count;
      }
      row += rows.count;
    }
  }
}

}  // namespace tandem::kernels
