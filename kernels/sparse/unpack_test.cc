#include "kernels/sparse/unpack.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "harness/base/error.h"
#include "kernels/common/device_test.h"
#include "kernels/common/timed_graph.h"

namespace tandem::kernels {
namespace {

/// A dense matrix of elements of `bytes` bytes, and what is stored of it.
struct Packed {
  std::vector<uint8_t> dense, values, metadata;
  std::vector<uint32_t> bitmap, starts;
};

using Element = std::vector<uint8_t>;

void append(std::vector<uint8_t>& to, const Element& element) {
  to.insert(to.end(), element.begin(), element.end());
}

Element random_element(int bytes, RandomValues& random) {
  Element e;
  for (int i = 0; i < bytes; ++i) e.push_back(static_cast<uint8_t>(random.between(0, 255)));
  return e;
}

Packed packed_fours(int64_t rows, int64_t cols, int bytes, RandomValues& random) {
  Packed p;
  const int64_t row_bytes = (cols / 2 + 3) / 4;
  p.metadata.assign(static_cast<size_t>(rows * row_bytes), 0);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t g = 0; g < cols / 4; ++g) {
      const int64_t a = random.between(0, 2), b = random.between(a + 1, 3);
      for (int64_t j = 0; j < 4; ++j) {
        const Element e =
            j == a || j == b ? random_element(bytes, random) : Element(static_cast<size_t>(bytes));
        append(p.dense, e);
        if (j == a || j == b) append(p.values, e);
      }
      p.metadata[static_cast<size_t>(r * row_bytes + g / 2)] |=
          static_cast<uint8_t>((a | b << 2) << (4 * (g % 2)));
    }
  }
  return p;
}

Packed packed_bitmap(int64_t rows, int64_t cols, int bytes, double kept, RandomValues& random) {
  Packed p;
  const int64_t words = (cols + 31) / 32;
  p.bitmap.assign(static_cast<size_t>(rows * words), 0);
  for (int64_t r = 0; r < rows; ++r) {
    p.starts.push_back(static_cast<uint32_t>(p.values.size() / 16));
    for (int64_t c = 0; c < cols; ++c) {
      const bool stays = static_cast<double>(random.between(0, 9999)) < 1e4 * kept;
      const Element e = stays ? random_element(bytes, random) : Element(static_cast<size_t>(bytes));
      append(p.dense, e);
      if (!stays) continue;
      append(p.values, e);
      p.bitmap[static_cast<size_t>(r * words + c / 32)] |= 1u << (c % 32);
    }
    p.values.resize((p.values.size() + 15) / 16 * 16, 0xee);
  }
  p.starts.push_back(static_cast<uint32_t>(p.values.size() / 16));
  if (p.values.empty()) p.values.resize(16);
  return p;
}

struct Shape {
  int64_t rows;
  int64_t cols;
};

void check(const Packed& p, DType dtype, const Shape& shape, bool bitmap) {
  const DeviceBuffer values = DeviceBuffer::of(p.values), metadata = DeviceBuffer::of(p.metadata);
  const DeviceBuffer words = DeviceBuffer::of(p.bitmap), starts = DeviceBuffer::of(p.starts);
  const DeviceTensor y(shape.rows * shape.cols, dtype);
  launch_unpack({.dtype = dtype,
                 .rows = shape.rows,
                 .cols = shape.cols,
                 .values = values.data(),
                 .metadata = bitmap ? nullptr : metadata.data<uint8_t>(),
                 .bitmap = bitmap ? words.data<uint32_t>() : nullptr,
                 .row_starts = starts.data<uint32_t>(),
                 .y = y.data()},
                nullptr);
  EXPECT_TRUE(y.bytes() == p.dense) << dtype_name(dtype) << " " << shape.rows << " x " << shape.cols
                                    << (bitmap ? " bitmap" : " 2:4");
}

constexpr DType kElements[] = {DType::kF32, DType::kBF16, DType::kF8};

// Without it: an element of 2:4 lands in another column, or a lone group at a row's end is lost.
TEST(Unpack, TwoOfFour) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  for (const DType dtype : kElements) {
    for (const Shape shape : {Shape{1, 4}, {3, 8}, {7, 12}, {33, 100}, {5, 1028}, {200, 2048}})
      check(packed_fours(shape.rows, shape.cols, static_cast<int>(dtype_bytes(dtype)), random), dtype, shape,
            false);
  }
}

// Without it: values after a bitmap's word are shifted, a row starts in its neighbour's padding, or an empty row takes another's.
TEST(Unpack, Bitmap) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  for (const DType dtype : kElements) {
    for (const Shape shape : {Shape{1, 1}, {3, 31}, {9, 32}, {17, 33}, {5, 1100}, {120, 2048}}) {
      for (const double kept : {0.0, 0.05, 0.5, 1.0})
        check(packed_bitmap(shape.rows, shape.cols, static_cast<int>(dtype_bytes(dtype)), kept, random),
              dtype, shape, true);
    }
  }
}

// What a product pays whose matrix is made dense first.
TEST(Unpack, Rate) {
  TANDEM_NEEDS_DEVICE();
  if (std::getenv("TANDEM_BENCH") == nullptr) GTEST_SKIP() << "TANDEM_BENCH is not set";
  RandomValues random(test_seed());
  cudaStream_t stream = nullptr;
  TANDEM_CUDA_CHECK(cudaStreamCreate(&stream));
  for (const bool bitmap : {false, true}) {
    const Shape shape{4096, 4096};
    const Packed p = bitmap ? packed_bitmap(shape.rows, shape.cols, 2, 0.5, random)
                            : packed_fours(shape.rows, shape.cols, 2, random);
    const DeviceBuffer values = DeviceBuffer::of(p.values), metadata = DeviceBuffer::of(p.metadata);
    const DeviceBuffer words = DeviceBuffer::of(p.bitmap), starts = DeviceBuffer::of(p.starts);
    const DeviceTensor y(shape.rows * shape.cols, DType::kBF16);
    const UnpackParams params{.dtype = DType::kBF16,
                              .rows = shape.rows,
                              .cols = shape.cols,
                              .values = values.data(),
                              .metadata = bitmap ? nullptr : metadata.data<uint8_t>(),
                              .bitmap = bitmap ? words.data<uint32_t>() : nullptr,
                              .row_starts = starts.data<uint32_t>(),
                              .y = y.data()};
    launch_unpack(params, stream);
    TimedGraph graph(stream, [&](cudaStream_t s) {
      for (int i = 0; i < 20; ++i) launch_unpack(params, s);
    });
    graph.time_us();
    const double us = graph.time_us() / 20;
    const auto bytes = static_cast<double>(values.bytes() + metadata.bytes() + words.bytes() +
                                           starts.bytes() + 2 * shape.rows * shape.cols);
    std::printf("unpack %s 4096 x 4096 bf16: %.1f us, %.2f TB/s\n", bitmap ? "bitmap 0.5" : "2:4", us,
                bytes / us * 1e-6);
  }
  TANDEM_CUDA_CHECK(cudaStreamDestroy(stream));
}

// Without it: a matrix that no kernel here unpacks is read as another.
TEST(Unpack, RefusesWrongParameters) {
  const uint8_t metadata = 0;
  const uint32_t words[2] = {};
  int y = 0;
  const UnpackParams fours{.rows = 1, .cols = 4, .values = &y, .metadata = &metadata, .y = &y};
  const auto refused = [](UnpackParams p, auto change) {
    change(p);
    EXPECT_THROW(launch_unpack(p, nullptr), UsageError);
  };
  refused(fours, [](UnpackParams& p) { p.cols = 6; });
  refused(fours, [](UnpackParams& p) { p.metadata = nullptr; });
  refused(fours, [&](UnpackParams& p) { p.bitmap = words; });
  refused(fours, [](UnpackParams& p) { p.y = nullptr; });
  refused(fours, [](UnpackParams& p) { p.dtype = DType::kI4; });
  refused(fours, [&](UnpackParams& p) {
    p.metadata = nullptr;
    p.bitmap = words;
  });
}

}  // namespace
}  // namespace tandem::kernels
