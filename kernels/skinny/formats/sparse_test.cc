// Products with weights of which only some are stored, as their kernels and as double loops over all of them compute them.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "harness/base/error.h"
#include "kernels/common/timed_graph.h"
#include "kernels/skinny/product_test.h"

namespace tandem::kernels {
namespace {

constexpr SparseWeights kForms[] = {SparseWeights::kTwoOfFour, SparseWeights::kBitmap};

int k_step(SparseWeights form) {
  return form == SparseWeights::kTwoOfFour ? 16 : 8;
}
int max_rows(SparseWeights form) {
  return form == SparseWeights::kTwoOfFour ? kSkinnyMaxRows : kBitmapMaxRows;
}

// The chosen config of every kind of size: odd n, k that ends inside a unit, a quad's 64 k or a word of the bitmap, all
// epilogues and prologues. A value that meets the x of another k is an error of its own size.
TEST(SkinnySparse, AgreesWithDoubleLoops) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  const int rows[] = {1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64};
  const std::pair<int, int> sizes[] = {{1, 8},      {5, 40},      {13, 72},    {33, 104},   {50, 264},
                                       {129, 520},  {512, 512},   {1000, 776}, {768, 2088}, {1024, 1024},
                                       {65, 16384}, {3072, 1024}, {264, 4096}, {5003, 136}, {77, 8200},
                                       {200, 384},  {5003, 1152}};
  for (const SparseWeights form : kForms) {
    for (const auto& [n, k] : sizes) {
      for (int draw = 0; draw < 4; ++draw) {
        const int m = draw < 2 ? 1 : std::min(random.one_of(rows), max_rows(form));
        Product product = random_sparse(random, form, m, n, round_up(k, k_step(form)));
        product.check(nullptr, product.text());
      }
    }
  }
}

// Every config that a user may pick gives the same result, rows split over warps and blocks that walk several tiles included.
TEST(SkinnySparse, EveryConfigIsRight) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  const SkinnyCard card = skinny_card();
  const std::pair<int, int> sizes[] = {{37, 72},     {150, 520}, {264, 1032},
                                       {1064, 4104}, {72, 8200}, {320, 1280}};
  for (const SparseWeights form : kForms) {
    for (const auto& [n, k] : sizes) {
      for (int m : {1, 2, 8, 13}) {
        Product product = random_sparse(random, form, m, n, round_up(k, k_step(form)));
        for (const SkinnyConfig& c : all_configs(product.problem(), card)) {
          product.check(&c, product.text() + " " + config_text(c));
          if (HasFailure()) return;  // hundreds of lines help nobody
        }
      }
    }
  }
}

// The shapes of the models and of the targets, where grids are larger than the card and blocks walk several tiles.
TEST(SkinnySparse, LargeShapesAreRight) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  const std::pair<int, int> sizes[] = {{16384, 1024}, {1024, 16384}, {8192, 2048}};
  for (const SparseWeights form : kForms) {
    for (const auto& [n, k] : sizes) {
      for (int m : {1, 8, 16}) {
        Product product = random_sparse(random, form, m, n, k);
        product.check(nullptr, product.text());
      }
    }
  }
}

// Each weight alone: rows of x that are zero but for one element give a column of the weights. All pairs of a four and all
// nibbles of a bitmap, at every place of a unit: an index that is wrong shows as itself.
TEST(SkinnySparse, EveryWeightIsItself) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  const int n = 32;
  const int k = 640;  // a unit, and a part of the next
  for (const SparseWeights form : kForms) {
    for (int m : {1, 8, 16}) {
      const auto values = random.normal(int64_t{n} * k, DType::kBF16);
      const SparseMatrix matrix(form, values, random_matrix_kept(random, form, n, k), k);
      const DeviceBuffer w = DeviceBuffer::of(matrix.bytes);
      for (int first = 0; first < k; first += m) {
        std::vector<float> x(static_cast<size_t>(m) * k, 0.0f);
        for (int i = 0; i < m && first + i < k; ++i) x[i * k + first + i] = 1.0f;
        const DeviceTensor device_x(x, DType::kBF16);
        const DeviceTensor y(static_cast<int64_t>(m) * n, DType::kF32);
        SkinnyParams p{.m = m, .n = n, .k = k, .x = device_x.data(), .y = y.data(), .y_float = true};
        matrix.put(p, w.data());
        launch_skinny(p, nullptr);
        const std::vector<float> got = y.values();
        for (int i = 0; i < m && first + i < k; ++i) {
          for (int row = 0; row < n; ++row) {
            ASSERT_EQ(got[i * n + row], matrix.values[row * k + first + i])
                << (p.bitmap != nullptr ? "bitmap" : "2:4") << " m " << m << " k " << first + i << " row "
                << row;
          }
        }
      }
    }
  }
}

// A race in the ring would show as bits that change from run to run.
TEST(SkinnySparse, SameBitsInEveryRun) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  const SkinnyCard card = skinny_card();
  for (const SparseWeights form : kForms) {
    for (int m : {1, 3, 8, 16}) {
      Product product = random_sparse(random, form, m, 5200, 1024);
      for (const SkinnyConfig& c : all_configs(product.problem(), card)) {
        if (random.between(0, 3) != 0) continue;
        const auto first = product.check(&c, product.text() + " " + config_text(c));
        for (int run = 0; run < 3; ++run) {
          EXPECT_EQ(product.check(&c, product.text()), first) << product.text() << " " << config_text(c);
        }
      }
    }
  }
}

// Dependent launch starts a kernel before the previous one has ended: reading x too early, or a ring that is filled after the
// wait is mistaken for one filled before it, would give other bits than the same products one by one.
TEST(SkinnySparse, DependentChainInAGraphEqualsOneByOne) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  cudaStream_t stream = nullptr;
  TANDEM_CUDA_CHECK(cudaStreamCreate(&stream));
  const int d = 1024;
  for (const SparseWeights form : kForms) {
    for (int m : {1, 4, 16}) {
      std::vector<SparseMatrix> matrices;
      std::vector<DeviceBuffer> device;
      for (int i = 0; i < 8; ++i) {
        const auto w =
            random.normal(int64_t{d} * d, DType::kBF16, 0, 1.5f / std::sqrt(static_cast<float>(d)));
        matrices.emplace_back(form, w, random_matrix_kept(random, form, d, d), d);
        device.push_back(DeviceBuffer::of(matrices.back().bytes));
      }
      const DeviceTensor start(random.normal(int64_t{m} * d, DType::kBF16), DType::kBF16);
      const DeviceTensor first(int64_t{m} * d, DType::kBF16);
      const DeviceTensor second(int64_t{m} * d, DType::kBF16);
      const auto run = [&](cudaStream_t on, bool dependent, const std::function<void()>& between) {
        const void* x = start.data();
        for (size_t i = 0; i < device.size(); ++i) {
          void* y = i % 2 == 0 ? first.data() : second.data();
          SkinnyParams p{.m = m, .n = d, .k = d, .x = x, .y = y, .dependent = dependent};
          matrices[i].put(p, device[i].data());
          launch_skinny(p, on);
          between();
          x = y;
        }
      };
      run(stream, false, [&] { TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream)); });
      const auto want = second.bytes();
      for (float v : second.values()) ASSERT_TRUE(std::isfinite(v));
      TimedGraph graph(stream, [&](cudaStream_t s) { run(s, true, [] {}); });
      for (int replay = 0; replay < 20; ++replay) {
        graph.launch();
        ASSERT_EQ(second.bytes(), want) << "m " << m << " replay " << replay;
      }
    }
  }
  TANDEM_CUDA_CHECK(cudaStreamDestroy(stream));
}

// Wrong arguments must be refused with the field's name before anything is launched; no device is needed for that.
TEST(SkinnySparse, RefusesWhatItCannotDo) {
  alignas(16) static unsigned char memory[64];
  const auto* words = reinterpret_cast<const uint32_t*>(memory);
  const SkinnyParams good{.m = 1, .n = 8, .k = 64, .x = memory, .w = memory + 16, .y = memory + 32};
  const auto expect_refused = [&](const char* field, auto change) {
    SkinnyParams p = good;
    change(p);
    try {
      launch_skinny(p, nullptr);
      ADD_FAILURE() << field << " was accepted";
    } catch (const UsageError& error) {
      EXPECT_NE(std::string(error.what()).find(field), std::string::npos) << error.what();
    }
  };
  expect_refused("bitmap", [&](auto& p) {
    p.metadata = memory;
    p.bitmap = p.row_starts = words;
  });
  expect_refused("row_starts", [&](auto& p) { p.bitmap = words; });
  expect_refused("row_starts", [&](auto& p) { p.row_starts = words; });
  expect_refused("metadata", [&](auto& p) {
    p.metadata = memory + 4;
    p.k = 128;
  });
  expect_refused("bitmap", [&](auto& p) {
    p.bitmap = reinterpret_cast<const uint32_t*>(memory + 2);
    p.row_starts = words;
  });
  expect_refused("metadata", [&](auto& p) {
    p.metadata = memory;
    p.dtype = DType::kF32;
  });
  expect_refused("k must", [&](auto& p) {
    p.metadata = memory;
    p.k = 24;
  });
  expect_refused("m must", [&](auto& p) {
    p.bitmap = p.row_starts = words;
    p.m = 17;
  });
}

}  // namespace
}  // namespace tandem::kernels
