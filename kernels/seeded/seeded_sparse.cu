#include "kernels/seeded/seeded_sparse.h"

#include <algorithm>
#include <string>

#include "harness/base/error.h"
#include "harness/base/host_device.h"
#include "kernels/common/codes.cuh"
#include "kernels/common/launch.h"
#include "kernels/seeded/seeded_matrix.cuh"

namespace tandem::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int64_t kMaxBlocks = 8192;

/// Which two of four neighbours stay: the larger magnitudes, of equal ones the first.
struct Pair {
  int first;
  int second;
};
__device__ inline Pair larger_two(const float (&v)[4]) {
  int first = 0, second = -1;  // by magnitude
#pragma unroll
  for (int i = 1; i < 4; ++i) {
    const uint32_t bits = DeviceCut::magnitude(v[i]);
    const uint32_t best = DeviceCut::magnitude(first == 0 ? v[0] : first == 1 ? v[1] : v[2]);
    const uint32_t next = second < 0 ? 0
                                     : DeviceCut::magnitude(second == 0   ? v[0]
                                                            : second == 1 ? v[1]
                                                                          : v[2]);
    if (bits > best) {
      second = first;
      first = i;
    } else if (second < 0 || bits > next) {
      second = i;
    }
  }
  return first < second ? Pair{first, second} : Pair{second, first};
}
__device__ inline float pick(const float (&v)[4], int i) {
  return i == 0 ? v[0] : i == 1 ? v[1] : i == 2 ? v[2] : v[3];
}
__device__ inline void four(const SeededMatrix& m, int64_t row, int64_t group, int32_t scale, float (&v)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = m.values.at(m.index(row, 4 * group + i), scale);
}

/// Calls `each(row, unit)` for the units of all rows, neighbours in a warp.
template <typename Each>
__device__ inline void for_units(int64_t rows, int64_t units, Each&& each) {
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    for (int64_t unit = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; unit < units;
         unit += static_cast<int64_t>(gridDim.x) * kThreads) {
      each(row, unit);
    }
  }
}

/// Stored plain, zeros where nothing stays: [rows, cols].
template <typename T, bool kFours>
__global__ void __launch_bounds__(kThreads) masked_kernel(SeededMatrix m, DeviceCut cut, T* out) {
  if constexpr (kFours) {
    for_units(m.rows, m.cols / 4, [&](int64_t row, int64_t group) {
      float v[4];
      four(m, row, group, m.row_scale(row), v);
      const Pair stay = larger_two(v);
      for (int i = 0; i < 4; ++i) {
        out[row * m.cols + 4 * group + i] =
            from_float<T>(i == stay.first || i == stay.second ? pick(v, i) : 0.0f);
      }
    });
  } else {
    for_units(m.rows, m.cols, [&](int64_t row, int64_t col) {
      const int64_t index = m.index(row, col);
      const float v = m.values.at(index, m.row_scale(row));
      out[row * m.cols + col] = from_float<T>(cut.keeps(v, index) ? v : 0.0f);
    });
  }
}

/// Stored values of 2:4 as they are.
template <typename T>
struct PlainCode {
  T* out;  ///< [rows, cols / 2]
  __device__ void store(const SeededMatrix& m, int64_t row, int64_t group, float a, float b) const {
    T* const to = out + row * (m.cols / 2) + 2 * group;
    to[0] = from_float<T>(a);
    to[1] = from_float<T>(b);
  }
};
/// As codes of 8 bits with one scale a row.
template <DType Code>
struct ScaledCode {
  uint8_t* out;  ///< [rows, cols / 2]
  const float* scales;
  __device__ void store(const SeededMatrix& m, int64_t row, int64_t group, float a, float b) const {
    const uint32_t both = encode_2<Code>(Divider(scales[row]), a, b);
    out[row * (m.cols / 2) + 2 * group] = static_cast<uint8_t>(both);
    out[row * (m.cols / 2) + 2 * group + 1] = static_cast<uint8_t>(both >> 8);
  }
};

/// A byte of metadata a thread: two groups of four, of which the last of a row may be alone.
template <typename Code>
__global__ void __launch_bounds__(kThreads) fours_kernel(SeededMatrix m, Code code, uint8_t* metadata) {
  const int64_t groups = m.cols / 4;
  const int64_t bytes = (groups + 1) / 2;
  for_units(m.rows, bytes, [&](int64_t row, int64_t byte) {
    const int32_t scale = m.row_scale(row);
    uint32_t marks = 0;
    for (int i = 0; i < 2 && 2 * byte + i < groups; ++i) {
      float v[4];
      four(m, row, 2 * byte + i, scale, v);
      const Pair stay = larger_two(v);
      marks |= static_cast<uint32_t>(stay.first | stay.second << 2) << (4 * i);
      code.store(m, row, 2 * byte + i, pick(v, stay.first), pick(v, stay.second));
    }
    metadata[row * bytes + byte] = static_cast<uint8_t>(marks);
  });
}

/// Codes of 8 bits stored whole, zeros where nothing stays: [rows, cols].
template <DType Code, bool kFours>
__global__ void __launch_bounds__(kThreads)
    masked_codes_kernel(SeededMatrix m, DeviceCut cut, const float* scales, uint8_t* out) {
  if constexpr (kFours) {
    for_units(m.rows, m.cols / 4, [&](int64_t row, int64_t group) {
      float v[4];
      four(m, row, group, m.row_scale(row), v);
      const Pair stay = larger_two(v);
      const Divider divide(scales[row]);
      for (int i = 0; i < 4; ++i) {
        const float kept = i == stay.first || i == stay.second ? pick(v, i) : 0.0f;
        out[row * m.cols + 4 * group + i] = static_cast<uint8_t>(encode_2<Code>(divide, kept, 0.0f));
      }
    });
  } else {
    for_units(m.rows, m.cols, [&](int64_t row, int64_t col) {
      const int64_t index = m.index(row, col);
      const float v = m.values.at(index, m.row_scale(row));
      const float kept = cut.keeps(v, index) ? v : 0.0f;
      out[row * m.cols + col] = static_cast<uint8_t>(encode_2<Code>(Divider(scales[row]), kept, 0.0f));
    });
  }
}

/// Scales of what a cut leaves of each row; of 2:4 it need not be told, for the largest magnitude always stays. A warp a row.
template <DType Code>
__global__ void __launch_bounds__(kThreads) row_scales_kernel(SeededMatrix m, DeviceCut cut, float* scales) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp; row < m.rows;
       row += static_cast<int64_t>(gridDim.x) * kWarps) {
    const int32_t scale = m.row_scale(row);
    uint32_t largest = 0;
    for (int64_t col = lane; col < m.cols; col += kWarp) {
      const int64_t index = m.index(row, col);
      const float v = m.values.at(index, scale);
      if (cut.keeps(v, index)) largest = max(largest, DeviceCut::magnitude(v));
    }
    largest = __reduce_max_sync(0xffffffffu, largest);
    if (lane == 0) scales[row] = scale_of(largest, Code);
  }
}

/// A row's words of the bitmap and its values: a warp a row, a word a step.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    bitmap_kernel(SeededMatrix m, DeviceCut cut, const uint32_t* starts, uint32_t* bitmap, T* values) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t words = (m.cols + kWarp - 1) / kWarp;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp; row < m.rows;
       row += static_cast<int64_t>(gridDim.x) * kWarps) {
    const int32_t scale = m.row_scale(row);
    T* to =
        values + static_cast<int64_t>(starts[row]) * (Storage::kRowStartBytes / static_cast<int>(sizeof(T)));
    for (int64_t word = 0; word < words; ++word) {
      const int64_t col = word * kWarp + lane;
      float v = 0;
      bool keep = false;
      if (col < m.cols) {
        const int64_t index = m.index(row, col);
        v = m.values.at(index, scale);
        keep = cut.keeps(v, index);
      }
      const uint32_t kept = __ballot_sync(0xffffffffu, keep);
      if (keep) to[__popc(kept & ((1u << lane) - 1))] = from_float<T>(v);
      to += __popc(kept);
      if (lane == 0) bitmap[row * words + word] = kept;
    }
  }
}

dim3 unit_grid(int64_t rows, int64_t units) {
  const int64_t across = std::clamp<int64_t>(ceil_div(units, kThreads), 1, kMaxBlocks);
  return {static_cast<unsigned>(across),
          static_cast<unsigned>(std::clamp<int64_t>(kMaxBlocks / across, 1, std::min<int64_t>(rows, 65535)))};
}
LaunchShape by_units(int64_t rows, int64_t units) {
  return {.grid = unit_grid(rows, units), .block = dim3(kThreads)};
}
LaunchShape by_rows(int64_t rows) {
  return {.grid = dim3(static_cast<unsigned>(std::clamp<int64_t>(ceil_div(rows, kWarps), 1, kMaxBlocks))),
          .block = dim3(kThreads)};
}

/// Calls `f` with a value of the element type that a float dtype has on the card.
template <typename F>
void for_float(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kF16:
      return f(__half{});
    case DType::kBF16:
      return f(__nv_bfloat16{});
    default:
      return f(float{});
  }
}
bool is_float(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

/// The places of one tensor's parts.
struct Parts {
  char* base;
  const TensorSpec& t;
  template <typename T>
  T* at(int64_t offset) const {
    return reinterpret_cast<T*>(base + offset);
  }
};

template <DType Code>
void launch_codes(const SeededMatrix& m, const Parts& p, bool fours, cudaStream_t stream) {
  auto* const scales = p.at<float>(p.t.scale_offset);
  auto* const codes = p.at<uint8_t>(p.t.offset);
  const DeviceCut cut = DeviceCut::of(p.t.cut.value_or(MatrixCut{}));
  launch(row_scales_kernel<Code>, by_rows(m.rows), stream, m, cut, scales);
  if (p.t.storage.two_of_four) {
    launch(fours_kernel<ScaledCode<Code>>, by_units(m.rows, (m.cols / 4 + 1) / 2), stream, m,
           ScaledCode<Code>{codes, scales}, p.at<uint8_t>(p.t.metadata_offset));
  } else {
    launch(fours ? masked_codes_kernel<Code, true> : masked_codes_kernel<Code, false>,
           by_units(m.rows, fours ? m.cols / 4 : m.cols), stream, m, cut, scales, codes);
  }
}

void launch_fours(const SeededMatrix& m, const Parts& p, cudaStream_t stream) {
  for_float(p.t.storage.dtype, [&](auto like) {
    using T = decltype(like);
    launch(fours_kernel<PlainCode<T>>, by_units(m.rows, (m.cols / 4 + 1) / 2), stream, m,
           PlainCode<T>{p.at<T>(p.t.offset)}, p.at<uint8_t>(p.t.metadata_offset));
  });
}

void launch_bitmap(const SeededMatrix& m, const Parts& p, cudaStream_t stream) {
  auto* const starts = p.at<uint32_t>(p.t.starts_offset);
  TANDEM_CUDA_CHECK(cudaMemcpyAsync(starts, p.t.row_starts.data(), p.t.row_starts.size() * sizeof(uint32_t),
                                    cudaMemcpyHostToDevice, stream));
  for_float(p.t.storage.dtype, [&](auto like) {
    using T = decltype(like);
    launch(bitmap_kernel<T>, by_rows(m.rows), stream, m, DeviceCut::of(*p.t.cut), starts,
           p.at<uint32_t>(p.t.bitmap_offset), p.at<T>(p.t.group_offset));
  });
}

void launch_masked(const SeededMatrix& m, const Parts& p, bool fours, cudaStream_t stream) {
  for_float(p.t.storage.dtype, [&](auto like) {
    using T = decltype(like);
    launch(fours ? masked_kernel<T, true> : masked_kernel<T, false>,
           by_units(m.rows, fours ? m.cols / 4 : m.cols), stream, m,
           DeviceCut::of(p.t.cut.value_or(MatrixCut{})), p.at<T>(p.t.offset));
  });
}

}  // namespace

bool seeded_sparse(const WeightForm& form, const TensorSpec& t) {
  return t.cut.has_value() || (form.sparsity.two_of_four && t.use == TensorUse::kProduct);
}

bool seeded_sparse_fits(const WeightForm& form, const TensorSpec& t) {
  const Storage own = own_storage(form, t.use);
  if (own.scale_group == 0) return is_float(t.storage.dtype);
  // Whole rows of the model are here, so that their scales are; plain values of codes are the host's.
  return !t.storage.bitmap && t.storage.scale_group == Storage::kWholeRow &&
         t.storage.scale_dtype == DType::kF32 && t.model_cols == t.col_runs &&
         (t.storage.dtype == DType::kF8 || t.storage.dtype == DType::kI8);
}

void launch_seeded_sparse(const SeededSparseParams& p, cudaStream_t stream) {
  if (p.spec == nullptr || p.layout == nullptr || p.arena == nullptr)
    throw UsageError("seeded sparse: spec, layout and arena must not be null");
  if (p.spec->checkpoint) throw UsageError("seeded sparse: checkpoint values do not come from a seed");
  const WeightForm& form = p.layout->form;
  int64_t rows = 0, cols = 0;
  for (const TensorSpec& t : p.layout->tensors) {
    if (!seeded_sparse(form, t)) continue;
    if (!seeded_sparse_fits(form, t)) throw UsageError("seeded sparse: " + t.name + " is made on the host");
    rows = std::max(rows, t.rows);
    cols = std::max(cols, t.cols);
  }
  if (rows * cols == 0) return;
  const MatrixIndices indices(rows, cols);
  for (const TensorSpec& t : p.layout->tensors) {
    if (!seeded_sparse(form, t)) continue;
    const SeededMatrix m = indices.matrix(*p.spec, t, stream);
    const Parts parts{static_cast<char*>(p.arena), t};
    if (t.storage.dtype == DType::kF8) {
      launch_codes<DType::kF8>(m, parts, form.sparsity.two_of_four, stream);
    } else if (t.storage.dtype == DType::kI8) {
      launch_codes<DType::kI8>(m, parts, form.sparsity.two_of_four, stream);
    } else if (t.storage.two_of_four) {
      launch_fours(m, parts, stream);
    } else if (t.storage.bitmap) {
      launch_bitmap(m, parts, stream);
    } else {
      launch_masked(m, parts, form.sparsity.two_of_four, stream);
    }
  }
  TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream));  // before the indices go
}

}  // namespace tandem::kernels
