#include "harness/weights/packed.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "harness/base/error.h"
#include "harness/base/testing/test_seed.h"

namespace tandem {
namespace {

ModelConfig odd_model() {
  ModelConfig c = preset("tiny");
  c.d_model = 40;
  c.encoder.d_ff = c.decoder.d_ff = 200;  // two groups of 128, the last one short
  c.vocab = 101;
  return c;
}

std::vector<uint32_t> drawn(const PackedPlane& plane, std::mt19937_64& rng) {
  std::vector<uint32_t> fields(static_cast<size_t>(plane.rows * plane.cols));
  const uint64_t mask = (uint64_t{1} << plane.bits) - 1;
  for (uint32_t& f : fields) f = static_cast<uint32_t>(rng() & mask);
  return fields;
}

/// Writes a plane cell by cell in random order.
void scatter(const PackedPlane& plane, const std::vector<uint32_t>& fields, std::vector<std::byte>& arena,
             std::mt19937_64& rng) {
  std::vector<int64_t> order(fields.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i);
  std::ranges::shuffle(order, rng);
  for (const int64_t i : order)
    pack(plane, {i / plane.cols, 1, i % plane.cols, 1}, {&fields[static_cast<size_t>(i)], 1}, arena);
}

// Breaks when a code, a scale or a mark of 2:4 lands beside its place or changes a neighbour: forms of 8 bits, 4 bits and
// 2:4, every tensor of a model in one arena, written in random order, read back whole and by rows.
TEST(Packed, CodesScalesAndMetadataRoundTrip) {
  std::mt19937_64 rng(test_seed());
  const ModelConfig c = odd_model();
  for (const Precision p :
       {Precision::kFp8, Precision::kInt8, Precision::kW8a16, Precision::kW4a16, Precision::kBf16}) {
    for (const bool two_of_four : {false, true}) {
      const WeightForm form{.precision = p, .sparsity = {.two_of_four = two_of_four}};
      const WeightLayout layout = weight_layout(c, form);
      std::vector<std::byte> arena(static_cast<size_t>(layout.bytes), std::byte{0xa5});
      std::vector<std::pair<PackedPlane, std::vector<uint32_t>>> planes;
      for (const TensorSpec& t : layout.tensors) {
        for (const PackedPlane& plane : {value_plane(t), scale_plane(t), metadata_plane(t)}) {
          if (plane.cols > 0) planes.emplace_back(plane, drawn(plane, rng));
        }
      }
      std::ranges::shuffle(planes, rng);
      for (const auto& [plane, fields] : planes) {
        if (fields.size() < 20000) {
          scatter(plane, fields, arena, rng);
        } else {
          pack(plane, {0, plane.rows, 0, plane.cols}, fields, arena);
        }
      }
      for (const auto& [plane, fields] : planes) {
        ASSERT_EQ(unpack(plane, {0, plane.rows, 0, plane.cols}, arena), fields) << form_text(form);
        const int64_t row = plane.rows / 2;
        const auto first = fields.begin() + row * plane.cols;
        EXPECT_EQ(unpack(plane, {row, 1, 0, plane.cols}, arena),
                  std::vector<uint32_t>(first, first + plane.cols));
      }
    }
  }
}

// The format is written down: kernels and a twin in another language must agree on every bit.
TEST(Packed, FirstFieldIsTheLowest) {
  std::vector<std::byte> arena(4);
  const std::vector<uint32_t> nibbles = {0x1, 0xf, 0x7};
  pack({.rows = 1, .cols = 3, .bits = 4}, {0, 1, 0, 3}, nibbles, arena);
  EXPECT_EQ(arena[0], std::byte{0xf1});
  EXPECT_EQ(arena[1], std::byte{0x07});
  const std::vector<uint32_t> marks = {3, 0, 1, 2};
  pack({.offset = 2, .rows = 1, .cols = 4, .bits = 2}, {0, 1, 0, 4}, marks, arena);
  EXPECT_EQ(arena[2], std::byte{0b10010011});
}

TEST(Packed, ARectangleOutsideThePlaneIsRefused) {
  std::vector<std::byte> arena(16);
  const PackedPlane plane{.rows = 2, .cols = 8, .bits = 8};
  EXPECT_THROW(unpack(plane, {1, 2, 0, 1}, arena), Error);
  EXPECT_THROW(unpack(plane, {0, 1, 7, 2}, arena), Error);
  EXPECT_THROW(pack(plane, {0, 1, 0, 2}, std::vector<uint32_t>{1}, arena), Error);
  EXPECT_THROW(unpack({.offset = 8, .rows = 2, .cols = 8, .bits = 8}, {0, 1, 0, 1}, arena), Error);
}

}  // namespace
}  // namespace tandem
