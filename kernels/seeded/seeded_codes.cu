#include "kernels/seeded/seeded_codes.h"

#include <algorithm>
#include <string>

#include "harness/base/error.h"
#include "harness/base/host_device.h"
#include "kernels/common/codes.cuh"
#include "kernels/common/launch.h"
#include "kernels/seeded/seeded_values.cuh"

namespace tandem::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 8192;

/// Rows that are neighbours here and in the whole tensor, and the groups of a row.
struct Groups {
  int64_t first_row;  ///< of the whole tensor
  int64_t rows;
  int64_t groups;       ///< of a row, here
  int64_t first_group;  ///< of the whole row
  int64_t width;        ///< values of a group; the whole row's last one may be short
  void* scales;         ///< [rows, groups]
};

/// A warp a group.
template <DType Code>
__global__ void __launch_bounds__(kThreads) seeded_scales_kernel(SeededValues values, Groups p) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kThreads / kWarp);
  for (int64_t unit = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
       unit < p.rows * p.groups; unit += warps) {
    const int64_t r = unit / p.groups;
    const int64_t first = (p.first_group + unit - r * p.groups) * p.width;
    const int64_t last = min(first + p.width, values.cols);
    const int64_t row = p.first_row + r;
    const int32_t row_scale = values.row_scale(row);
    uint32_t largest = 0;
    for (int64_t col = first + lane; col < last; col += kWarp) {
      largest = max(largest, magnitude_bits(values.at(row * values.cols + col, row_scale)));
    }
    largest = __reduce_max_sync(0xffffffffu, largest);
    const float scale = scale_of(largest, Code);
    if (lane != 0) continue;
    if constexpr (Code == DType::kI4) {
      static_cast<__nv_bfloat16*>(p.scales)[unit] = from_float<__nv_bfloat16>(scale);
    } else {
      static_cast<float*>(p.scales)[unit] = scale;
    }
  }
}

/// A run of columns of such rows.
struct Run {
  Groups rows;
  int64_t first_col;  ///< of the whole tensor
  int64_t cols;
  uint8_t* codes;     ///< of the first row's first column here
  int64_t row_bytes;  ///< from row to row
};

/// A byte a thread: a code, or two of four bits, of which the last of a row may be alone.
template <DType Code>
__global__ void __launch_bounds__(kThreads) seeded_codes_kernel(SeededValues values, Run p) {
  constexpr int kPerByte = Code == DType::kI4 ? 2 : 1;
  const auto bytes = static_cast<uint32_t>(ceil_div<int64_t, int64_t>(p.cols, kPerByte));
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  const int64_t count = p.rows.rows * bytes;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step) {
    const int64_t r = count >> 32 == 0 ? static_cast<uint32_t>(i) / bytes : i / bytes;
    const int64_t byte = i - r * bytes;
    const int64_t row = p.rows.first_row + r;
    const int32_t row_scale = values.row_scale(row);
    const int64_t index = row * values.cols + p.first_col + byte * kPerByte;
    uint32_t bits = 0;
    if constexpr (Code == DType::kI4) {
      const int64_t group = byte * kPerByte / p.rows.width;
      const Divider divide(
          to_float(static_cast<const __nv_bfloat16*>(p.rows.scales)[r * p.rows.groups + group]));
      if (divide.any()) {
        for (int64_t j = 0; j < min(int64_t{kPerByte}, p.cols - byte * kPerByte); ++j) {
          const float code = fminf(fmaxf(divide(values.at(index + j, row_scale)), -8.0f), 7.0f);
          // The sum with 1.5 * 2^23 has the integer, rounded to nearest even, in its low bits.
          bits |= (__float_as_uint(code + 12582912.0f) & 15u) << (4 * j);
        }
      }
    } else {
      const Divider divide(static_cast<const float*>(p.rows.scales)[r]);
      bits = encode_2<Code>(divide, values.at(index, row_scale), 0.0f) & 0xffu;
    }
    p.codes[r * p.row_bytes + byte] = static_cast<uint8_t>(bits);
  }
}

template <DType Code>
void launch_rows(const SeededValues& values, const TensorSpec& t, const IndexRun& run, int64_t row,
                 void* arena, cudaStream_t stream) {
  const bool whole = t.storage.scale_group == Storage::kWholeRow;
  char* base = static_cast<char*>(arena);
  const Groups rows{.first_row = run.first,
                    .rows = run.count,
                    .groups = t.storage.scales_per_row(t.cols),
                    .first_group = whole ? 0 : t.col_runs.front().first / t.storage.scale_group,
                    .width = whole ? t.whole.cols : t.storage.scale_group,
                    .scales = base + t.scale_offset + row * t.storage.scale_row_bytes(t.cols)};
  const auto blocks = [](int64_t count) {
    return dim3(static_cast<unsigned>(std::min(ceil_div(count, kThreads), kMaxBlocks)));
  };
  launch(seeded_scales_kernel<Code>,
         {.grid = blocks(rows.rows * rows.groups * kWarp), .block = dim3(kThreads)}, stream, values, rows);
  const int64_t row_bytes = t.storage.value_row_bytes(t.cols);
  int64_t col = 0;
  for (const IndexRun& cols : t.col_runs) {
    const Run part{.rows = rows,
                   .first_col = cols.first,
                   .cols = cols.count,
                   .codes = reinterpret_cast<uint8_t*>(base) + t.offset + row * row_bytes +
                            t.storage.value_row_bytes(col),
                   .row_bytes = row_bytes};
    launch(seeded_codes_kernel<Code>,
           {.grid = blocks(rows.rows * t.storage.value_row_bytes(cols.count)), .block = dim3(kThreads)},
           stream, values, part);
    col += cols.count;
  }
}

}  // namespace

bool seeded_codes_fit(const TensorSpec& t) {
  const Storage& s = t.storage;
  if (s.two_of_four || s.bitmap || t.cut || s.scale_group == 0) return false;
  // Scales are of the columns that the smaller model has; these kernels take the whole model's.
  if (t.model_cols != IndexRuns{{0, t.whole.cols}}) return false;
  if (s.scale_group == Storage::kWholeRow) {
    return (s.dtype == DType::kF8 || s.dtype == DType::kI8) && s.scale_dtype == DType::kF32;
  }
  return s.dtype == DType::kI4 && s.scale_dtype == DType::kBF16 && t.col_runs.size() == 1 &&
         t.col_runs.front().first % s.scale_group == 0 && t.col_runs.front().count == t.cols;
}

void launch_seeded_codes(const SeededCodesParams& p, cudaStream_t stream) {
  if (p.spec == nullptr || p.tensor == nullptr || p.arena == nullptr)
    throw UsageError("seeded codes: spec, tensor and arena must not be null");
  const TensorSpec& t = *p.tensor;
  if (p.spec->checkpoint) throw UsageError("seeded codes: checkpoint values do not come from a seed");
  if (!seeded_codes_fit(t)) throw UsageError("seeded codes: " + t.name + " is made on the host");
  const SeededValues values = SeededValues::of(*p.spec, t.whole);
  int64_t row = 0;
  for (const IndexRun& rows : t.row_runs) {
    if (rows.count == 0) continue;
    switch (t.storage.dtype) {
      case DType::kF8:
        launch_rows<DType::kF8>(values, t, rows, row, p.arena, stream);
        break;
      case DType::kI8:
        launch_rows<DType::kI8>(values, t, rows, row, p.arena, stream);
        break;
      default:
        launch_rows<DType::kI4>(values, t, rows, row, p.arena, stream);
        break;
    }
    row += rows.count;
  }
}

}  // namespace tandem::kernels
