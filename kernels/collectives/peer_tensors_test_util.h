// Tensors of ranks and the sums that tests expect.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "kernels/collectives/peer_test_util.h"
#include "kernels/common/device_test.h"

namespace tandem::kernels {

inline constexpr PeerAlgorithm kAlgorithms[] = {PeerAlgorithm::kOneShot, PeerAlgorithm::kTwoShot};
/// Small enough for messages of several parts.
inline constexpr PeerOptions kSmall{.oneshot_bytes = 64 << 10, .twoshot_bytes = 128 << 10, .wait_s = 5};

inline const char* name(PeerAlgorithm a) {
  return a == PeerAlgorithm::kOneShot ? "one-shot" : "two-shot";
}

/// Calls `test` with 2, 4 and 8 ranks in every way they can be laid over the devices here.
template <typename Test>
void for_all_ranks(const PeerOptions& options, const Test& test) {
  for (const int ranks : {2, 4, 8}) {
    for (const std::vector<int>& devices : placements(ranks)) {
      const LocalRanks all(devices, options);
      test(all);
      if (::testing::Test::HasFailure()) return;
    }
  }
}

/// A tensor a rank, on its device.
using Tensors = std::vector<std::unique_ptr<DeviceTensor>>;
inline Tensors tensors(const LocalRanks& all, const std::vector<std::vector<float>>& values, DType dtype) {
  Tensors t(static_cast<size_t>(all.size()));
  all.each([&](int r) { t[r] = std::make_unique<DeviceTensor>(values[r], dtype); });
  return t;
}
inline Tensors poisoned(const LocalRanks& all, int64_t count, DType dtype) {
  Tensors t(static_cast<size_t>(all.size()));
  all.each([&](int r) {
    t[r] = std::make_unique<DeviceTensor>(count, dtype);
    TANDEM_CUDA_CHECK(cudaDeviceSynchronize());  // the ranks' streams do not wait for the poison
  });
  return t;
}
inline std::vector<uint8_t> bytes(const LocalRanks& all, const Tensors& t, int rank) {
  std::vector<uint8_t> b;
  all.each([&](int r) {
    if (r == rank) b = t[r]->bytes();
  });
  return b;
}

/// In fp32 and rank order, rounded once: what the collectives promise, bit for bit.
inline std::vector<float> host_sum(const std::vector<std::vector<float>>& x, DType dtype) {
  std::vector<float> sum = x[0];
  for (size_t r = 1; r < x.size(); ++r) {
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += x[r][i];
  }
  for (float& v : sum) v = rounded(v, dtype);
  return sum;
}
inline std::vector<std::vector<float>> values_of_ranks(int ranks, int64_t count, DType dtype,
                                                       RandomValues& random) {
  std::vector<std::vector<float>> x;
  for (int r = 0; r < ranks; ++r) x.push_back(random.normal(count, dtype, 0.1f * static_cast<float>(r)));
  return x;
}
inline void expect_everywhere(const LocalRanks& all, const Tensors& got, const std::vector<uint8_t>& want,
                              const std::string& what) {
  for (int r = 0; r < all.size(); ++r)
    EXPECT_TRUE(bytes(all, got, r) == want) << what << ", " << all.text() << ": rank " << r;
}

}  // namespace tandem::kernels
