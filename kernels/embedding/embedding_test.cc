#include "kernels/embedding/embedding.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "harness/base/error.h"
#include "kernels/common/device_test.h"
#include "kernels/common/timed_graph.h"

namespace tandem::kernels {
namespace {

struct Packed {
  std::vector<int32_t> offsets;
  std::vector<int32_t> ids;
  std::vector<int> positions;
};

Packed pack_random(RandomValues& random, int batch, int max_length, int vocab) {
  Packed p;
  p.offsets.push_back(0);
  for (int b = 0; b < batch; ++b) {
    const int length = static_cast<int>(random.between(1, max_length));
    for (int i = 0; i < length; ++i) {
      p.ids.push_back(static_cast<int32_t>(random.between(0, vocab - 1)));
      p.positions.push_back(i);
    }
    p.offsets.push_back(static_cast<int32_t>(p.ids.size()));
  }
  return p;
}

// Without it: a token takes another sequence's position, or scale, offset, types or alignment go wrong.
TEST(Embedding, RaggedBatchesMatchDouble) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  for (int i = 0; i < 120; ++i) {
    EmbeddingParams p;
    p.dtype = random.one_of(kFloatTypes);
    p.out_dtype = random.coin() ? p.dtype : DType::kF32;
    p.positions_dtype = random.coin() ? p.dtype : DType::kF32;
    p.d = static_cast<int>(random.coin() ? 8 * random.between(1, 300) : random.between(1, 700));
    p.vocab = static_cast<int>(random.between(1, 200));
    p.batch = static_cast<int>(random.between(1, 100));
    p.position_offset = static_cast<int>(random.between(0, 3));
    p.scale = random.coin() ? 1.0f : std::sqrt(static_cast<float>(p.d));
    const int max_length = static_cast<int>(random.between(1, 12));
    const bool with_positions = random.coin();
    const int64_t shift = random.coin() ? 0 : random.between(1, 9);
    const Packed packed = pack_random(random, p.batch, max_length, p.vocab);
    p.tokens = static_cast<int64_t>(packed.ids.size());
    p.position_rows = max_length + p.position_offset;

    const auto table = random.normal(static_cast<int64_t>(p.vocab) * p.d, p.dtype);
    const auto positions = random.normal(static_cast<int64_t>(p.position_rows) * p.d, p.positions_dtype);
    std::vector<double> want;
    for (int64_t t = 0; t < p.tokens; ++t) {
      for (int j = 0; j < p.d; ++j) {
        double v = static_cast<double>(table[static_cast<int64_t>(packed.ids[t]) * p.d + j]) * p.scale;
        if (with_positions)
          v += positions[static_cast<int64_t>(packed.positions[t] + p.position_offset) * p.d + j];
        want.push_back(v);
      }
    }
    const auto ids = DeviceBuffer::of(packed.ids);
    const auto offsets = DeviceBuffer::of(packed.offsets);
    const DeviceTensor device_table(table, p.dtype, shift);
    const DeviceTensor device_positions(positions, p.positions_dtype, shift);
    const DeviceTensor x(p.tokens * p.d, p.out_dtype, shift);
    p.ids = ids.data<int32_t>();
    p.offsets = offsets.data<int32_t>();
    p.table = device_table.data();
    p.positions = with_positions ? device_positions.data() : nullptr;
    p.x = x.data();
    launch_embedding(p, nullptr);
    expect_near(x.values(), want, 0.51 * epsilon(p.out_dtype), 2e-6 * p.scale,
                "table " + std::string(dtype_name(p.dtype)) + " d " + std::to_string(p.d) + " batch " +
                    std::to_string(p.batch) + " shift " + std::to_string(shift));
  }
}

// Without it: a rank of a split vocabulary would add its own row, or a position, to the rows of other ranks.
TEST(Embedding, SlicesAddUpToTheWholeTable) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  for (int i = 0; i < 40; ++i) {
    const DType dtype = random.one_of(kFloatTypes);
    const int d = static_cast<int>(random.between(1, 300));
    const int vocab = static_cast<int>(random.between(8, 200));
    const int degree = static_cast<int>(random.between(2, 8));
    const Packed packed = pack_random(random, 5, 9, vocab);
    const auto tokens = static_cast<int64_t>(packed.ids.size());
    const auto table = random.normal(static_cast<int64_t>(vocab) * d, dtype);
    const auto positions = random.normal(int64_t{9} * d, DType::kF32);
    const DeviceTensor device_table(table, dtype);
    const DeviceTensor device_positions(positions, DType::kF32);
    const auto ids = DeviceBuffer::of(packed.ids);
    const auto offsets = DeviceBuffer::of(packed.offsets);
    const auto embed = [&](int first, int rows) {
      const DeviceTensor x(tokens * d, dtype);
      launch_embedding(
          {.dtype = dtype,
           .out_dtype = dtype,
           .tokens = tokens,
           .d = d,
           .vocab = vocab,
           .ids = ids.data<int32_t>(),
           .table = static_cast<const char*>(device_table.data()) + tensor_bytes(dtype, int64_t{first} * d),
           .first_id = first,
           .table_rows = rows,
           .scale = 3,
           .positions = device_positions.data(),
           .position_rows = 9,
           .offsets = offsets.data<int32_t>(),
           .batch = 5,
           .x = x.data()},
          nullptr);
      return x.values();
    };
    const auto whole = embed(0, vocab);
    std::vector<float> sum(whole.size(), 0.0f);
    const int share = (vocab + degree - 1) / degree;
    for (int first = 0; first < vocab; first += share) {
      const auto part = embed(first, std::min(share, vocab - first));
      for (size_t j = 0; j < sum.size(); ++j) sum[j] += static_cast<float>(part[j]);
    }
    for (size_t j = 0; j < sum.size(); ++j)
      ASSERT_EQ(sum[j], static_cast<float>(whole[j])) << "vocab " << vocab << " degree " << degree;
  }
}

// Without it: a captured decode step would repeat the position that it was captured at.
TEST(Embedding, ReplayedGraphFollowsTheCounter) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  const int batch = static_cast<int>(random.between(1, 70));
  constexpr int kD = 64;
  constexpr int kRows = 10;
  const auto table = random.normal(5 * kD, DType::kBF16);
  const auto positions = random.normal(kRows * kD, DType::kF32);
  const DeviceTensor device_table(table, DType::kBF16);
  const DeviceTensor device_positions(positions, DType::kF32);
  const DeviceTensor x(static_cast<int64_t>(batch) * kD, DType::kBF16);
  const DeviceBuffer ids(batch * static_cast<int64_t>(sizeof(int32_t)));
  const DeviceBuffer step(sizeof(int32_t));
  for (bool dependent : {false, true}) {
    const EmbeddingParams p{.tokens = batch,
                            .d = kD,
                            .vocab = 5,
                            .ids = ids.data<int32_t>(),
                            .table = device_table.data(),
                            .scale = 8,
                            .positions = device_positions.data(),
                            .position_rows = kRows,
                            .position_offset = 2,
                            .step = step.data<int32_t>(),
                            .x = x.data(),
                            .dependent = dependent};
    cudaStream_t stream = nullptr;
    TANDEM_CUDA_CHECK(cudaStreamCreate(&stream));
    {
      std::vector<int32_t> zero(static_cast<size_t>(batch), 0);
      const int32_t first = 0;
      TANDEM_CUDA_CHECK(cudaMemcpy(ids.data(), zero.data(), zero.size() * 4, cudaMemcpyHostToDevice));
      TANDEM_CUDA_CHECK(cudaMemcpy(step.data(), &first, 4, cudaMemcpyHostToDevice));
      launch_embedding(p, stream);
      TimedGraph graph(stream, [&](cudaStream_t s) { launch_embedding(p, s); });
      for (int32_t position : {0, 5, 7}) {
        std::vector<int32_t> host_ids;
        std::vector<double> want;
        for (int b = 0; b < batch; ++b) {
          host_ids.push_back(static_cast<int32_t>(random.between(0, 4)));
          for (int j = 0; j < kD; ++j) {
            want.push_back(table[host_ids.back() * kD + j] * 8.0 + positions[(position + 2) * kD + j]);
          }
        }
        TANDEM_CUDA_CHECK(
            cudaMemcpy(ids.data(), host_ids.data(), host_ids.size() * 4, cudaMemcpyHostToDevice));
        TANDEM_CUDA_CHECK(cudaMemcpy(step.data(), &position, 4, cudaMemcpyHostToDevice));
        graph.launch();
        TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream));
        expect_near(x.values(), want, 0.51 * epsilon(DType::kBF16), 1e-5,
                    "position " + std::to_string(position));
      }
    }
    TANDEM_CUDA_CHECK(cudaStreamDestroy(stream));
  }
}

// Without it: a bad id or a step past the table reads somebody else's memory and looks like an answer.
TEST(Embedding, OutsideIsNan) {
  TANDEM_NEEDS_DEVICE();
  const DeviceTensor table(std::vector<float>(4 * 8, 1.0f), DType::kF32);
  const DeviceTensor positions(std::vector<float>(2 * 8, 2.0f), DType::kF32);
  const auto ids = DeviceBuffer::of(std::vector<int32_t>{3, 4, -1, 0});
  const auto offsets = DeviceBuffer::of(std::vector<int32_t>{0, 3, 4});
  const DeviceTensor x(4 * 8, DType::kF32);
  launch_embedding({.dtype = DType::kF32,
                    .out_dtype = DType::kF32,
                    .tokens = 4,
                    .d = 8,
                    .vocab = 4,
                    .ids = ids.data<int32_t>(),
                    .table = table.data(),
                    .positions = positions.data(),
                    .position_rows = 2,
                    .offsets = offsets.data<int32_t>(),
                    .batch = 2,
                    .x = x.data()},
                   nullptr);
  const auto got = x.values();
  for (int j = 0; j < 8; ++j) {
    EXPECT_EQ(got[j], 3.0f);
    EXPECT_TRUE(std::isnan(got[8 + j])) << "id 4 of 4";
    EXPECT_TRUE(std::isnan(got[16 + j])) << "id -1";
    EXPECT_EQ(got[24 + j], 3.0f);
  }
  const auto late = DeviceBuffer::of(std::vector<int32_t>{2});
  const auto good_ids = DeviceBuffer::of(std::vector<int32_t>{1});
  launch_embedding({.dtype = DType::kF32,
                    .out_dtype = DType::kF32,
                    .tokens = 1,
                    .d = 8,
                    .vocab = 4,
                    .ids = good_ids.data<int32_t>(),
                    .table = table.data(),
                    .positions = positions.data(),
                    .position_rows = 2,
                    .step = late.data<int32_t>(),
                    .x = x.data()},
                   nullptr);
  EXPECT_TRUE(std::isnan(x.values()[0])) << "position 2 of 2";
}

// Without it: wrong parameters reach the device.
TEST(Embedding, RefusesWrongParameters) {
  int32_t dummy = 0;
  const EmbeddingParams good{.tokens = 1,
                             .d = 8,
                             .vocab = 4,
                             .ids = &dummy,
                             .table = &dummy,
                             .positions = &dummy,
                             .position_rows = 1,
                             .step = &dummy,
                             .x = &dummy};
  const auto refused = [&](auto change) {
    EmbeddingParams p = good;
    change(p);
    EXPECT_THROW(launch_embedding(p, nullptr), UsageError);
  };
  refused([](EmbeddingParams& p) { p.dtype = DType::kI32; });
  refused([](EmbeddingParams& p) { p.out_dtype = DType::kF16; });
  refused([](EmbeddingParams& p) { p.positions_dtype = DType::kF16; });
  refused([](EmbeddingParams& p) { p.step = nullptr; });
  refused([](EmbeddingParams& p) { p.offsets = p.step; });
  refused([](EmbeddingParams& p) { p.ids = nullptr; });
  refused([](EmbeddingParams& p) { p.d = 0; });
}

}  // namespace
}  // namespace tandem::kernels
