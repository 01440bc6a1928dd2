#include "kernels/decoding/select.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "harness/base/testing/test_seed.h"
#include "kernels/common/device_buffer.h"
#include "kernels/common/device_test.h"

namespace tandem::kernels {
namespace {

struct SelectResult {
  std::vector<int32_t> ids, tokens, finished;
  int32_t position = 0;
  int32_t running = 0;
  std::vector<float> biased;
};

SelectResult select(const std::vector<float>& logits, int rows, int vocab, int stride,
                    const std::vector<float>& bias, std::vector<int32_t> finished, bool eos) {
  const auto device_logits = DeviceBuffer::of(logits);
  const auto device_bias = DeviceBuffer::of(bias);
  const auto device_finished = DeviceBuffer::of(finished);
  const auto ids = DeviceBuffer::of(std::vector<int32_t>(rows, -7));
  const auto tokens = DeviceBuffer::of(std::vector<int32_t>(rows * 3, -7));
  const auto position = DeviceBuffer::of(std::vector<int32_t>{1});
  const auto running = DeviceBuffer::of(std::vector<int32_t>{-7});
  const auto arrived = DeviceBuffer::of(std::vector<int32_t>{0});
  const DeviceBuffer biased(tensor_bytes(DType::kF32, static_cast<int64_t>(rows) * vocab));
  launch_select({.rows = rows,
                 .vocab = vocab,
                 .logits = device_logits.data<float>(),
                 .logits_stride = stride,
                 .bias_dtype = DType::kF32,
                 .bias = bias.empty() ? nullptr : device_bias.data(),
                 .biased = biased.data<float>(),
                 .next_ids = ids.data<int32_t>(),
                 .tokens = tokens.data<int32_t>(),
                 .tokens_stride = 3,
                 .position = position.data<int32_t>(),
                 .stop_at_eos = eos,
                 .eos_id = 5,
                 .pad_id = 2,
                 .finished = device_finished.data<int32_t>(),
                 .running = running.data<int32_t>(),
                 .arrived = arrived.data<int32_t>()},
                nullptr);
  EXPECT_EQ(arrived.to_host<int32_t>()[0], 0);
  return {ids.to_host<int32_t>(),         tokens.to_host<int32_t>(),     device_finished.to_host<int32_t>(),
          position.to_host<int32_t>()[0], running.to_host<int32_t>()[0], biased.to_host<float>()};
}

// A tie, a NaN, a tail of the row or the bookkeeping that the selection gets wrong.
TEST(Select, ChoosesAndKeepsBooks) {
  TANDEM_NEEDS_DEVICE();
  std::mt19937 rng(static_cast<unsigned>(test_seed()));
  std::normal_distribution<float> normal;
  for (const int vocab : {1, 7, 131, 513, 32003}) {
    const int rows = 66;
    const int stride = (vocab + 7) / 8 * 8;
    std::vector<float> logits(static_cast<size_t>(rows) * stride, 1e30f);  // padding must not win
    std::vector<float> bias(vocab);
    for (float& b : bias) b = normal(rng);
    for (int r = 0; r < rows; ++r) {
      for (int i = 0; i < vocab; ++i) logits[r * stride + i] = normal(rng);
    }
    std::vector<int32_t> finished(rows, 0);
    finished[3] = 1;
    const SelectResult got = select(logits, rows, vocab, stride, bias, finished, true);
    int running = 0;
    for (int r = 0; r < rows; ++r) {
      int best = 0;
      for (int i = 0; i < vocab; ++i) {
        ASSERT_EQ(got.biased[static_cast<size_t>(r) * vocab + i], logits[r * stride + i] + bias[i]);
        if (logits[r * stride + i] + bias[i] > logits[r * stride + best] + bias[best]) best = i;
      }
      const int want = r == 3 ? 2 : best;
      EXPECT_EQ(got.ids[r], want) << "vocab " << vocab << " row " << r;
      EXPECT_EQ(got.tokens[r * 3 + 1], want);
      EXPECT_EQ(got.tokens[r * 3], -7);
      EXPECT_EQ(got.finished[r], r == 3 || want == 5 ? 1 : 0);
      running += got.finished[r] == 0 ? 1 : 0;
    }
    EXPECT_EQ(got.position, 2);
    EXPECT_EQ(got.running, running);
  }
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float low = -std::numeric_limits<float>::infinity();
  const SelectResult odd =
      select({nan, 3, 3, nan, low, low, low, low, nan, nan, nan, nan}, 3, 4, 4, {}, {0, 0, 0}, false);
  EXPECT_EQ(odd.ids, (std::vector<int32_t>{1, 0, 0}))
      << "lowest of equals, NaN never, nothing but NaN gives 0";
  EXPECT_EQ(odd.running, 3);
}

// The choice from slices of the vocabulary is another than from all of it: a tie across ranks, an id without its offset, a
// bias of another rank, the bookkeeping.
TEST(Select, RanksPickWhatOneWouldSelect) {
  TANDEM_NEEDS_DEVICE();
  std::mt19937 rng(static_cast<unsigned>(test_seed()));
  std::uniform_int_distribution<int> coarse(0, 60);  // ties
  for (const int degree : {1, 2, 4, 8}) {
    for (const int vocab : {16, 131, 32003}) {
      for (const int rows : {1, 66, 300}) {
        const int share = (vocab + degree - 1) / degree;
        std::vector<float> logits(static_cast<size_t>(rows) * vocab), bias(vocab);
        for (float& v : logits) v = static_cast<float>(coarse(rng));
        for (float& b : bias) b = static_cast<float>(coarse(rng) % 3);
        std::vector<int32_t> finished(rows, 0);
        finished[0] = 1;
        const SelectResult want = select(logits, rows, vocab, vocab, bias, finished, true);

        const auto device_logits = DeviceBuffer::of(logits);
        const auto device_bias = DeviceBuffer::of(bias);
        const auto candidates = DeviceBuffer::of(std::vector<int32_t>(size_t{2} * degree * rows, -7));
        for (int rank = 0; rank < degree; ++rank) {
          const int first = rank * share;
          auto* mine = candidates.data<int32_t>() + int64_t{2} * rank * rows;
          launch_select({.rows = rows,
                         .vocab = std::min(share, vocab - first),
                         .logits = device_logits.data<float>() + first,
                         .logits_stride = vocab,
                         .bias_dtype = DType::kF32,
                         .bias = device_bias.data<float>() + first,
                         .id_offset = first,
                         .best_logits = reinterpret_cast<float*>(mine),
                         .next_ids = mine + rows},
                        nullptr);
        }
        const auto ids = DeviceBuffer::of(std::vector<int32_t>(rows, -7));
        const auto tokens = DeviceBuffer::of(std::vector<int32_t>(rows * 3, -7));
        const auto position = DeviceBuffer::of(std::vector<int32_t>{1});
        const auto running = DeviceBuffer::of(std::vector<int32_t>{-7});
        const auto device_finished = DeviceBuffer::of(finished);
        launch_pick({.rows = rows,
                     .degree = degree,
                     .candidates = candidates.data<int32_t>(),
                     .next_ids = ids.data<int32_t>(),
                     .tokens = tokens.data<int32_t>(),
                     .tokens_stride = 3,
                     .position = position.data<int32_t>(),
                     .stop_at_eos = true,
                     .eos_id = 5,
                     .pad_id = 2,
                     .finished = device_finished.data<int32_t>(),
                     .running = running.data<int32_t>()},
                    nullptr);
        EXPECT_EQ(ids.to_host<int32_t>(), want.ids) << "degree " << degree << " vocab " << vocab;
        EXPECT_EQ(tokens.to_host<int32_t>(), want.tokens);
        EXPECT_EQ(device_finished.to_host<int32_t>(), want.finished);
        EXPECT_EQ(position.to_host<int32_t>()[0], want.position);
        EXPECT_EQ(running.to_host<int32_t>()[0], want.running);
      }
    }
  }
}

}  // namespace
}  // namespace tandem::kernels
