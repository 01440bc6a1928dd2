// The vocabulary head with quantised weights.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "kernels/skinny/formats/codes_test.h"

namespace tandem::kernels {
namespace {

/// Runs every config (or the chosen one) and compares logits with double loops over the same codes, and ids with the logits.
void check_head(RandomValues& random, const CodesFormat& f, int m, int vocab, int k, bool every_config) {
  if (f.weights == DType::kI4 || !f.runs(m)) return;  // 4 bits: refused
  std::optional<Norm> norm;
  if (!f.x_codes && skinny_norm_supports(m, k) && random.coin())
    norm = random.coin() ? Norm::kLayer : Norm::kRms;
  const float scale = random.coin() ? 1.0f : 0.3f;
  const std::vector<float> x = random.normal(static_cast<int64_t>(m) * k, DType::kBF16, 0.5f);
  const std::vector<float> bias = random.normal(vocab, DType::kBF16, 0, 0.3f);
  const std::vector<float> gamma = random.normal(k, DType::kBF16, 1, 0.2f);
  const QuantisedRows w(
      random.normal(static_cast<int64_t>(vocab) * k, DType::kBF16, 0, 1 / std::sqrt(static_cast<float>(k))),
      k, f.weights);
  std::vector<float> multiplied = x;
  for (int i = 0; i < m; ++i) {
    float* row = &multiplied[static_cast<size_t>(i) * k];
    double mean = 0;
    double squares = 0;
    for (int j = 0; j < k; ++j) mean += row[j];
    mean = norm == Norm::kLayer ? mean / k : 0;
    for (int j = 0; j < k; ++j) squares += (row[j] - mean) * (row[j] - mean);
    for (int j = 0; j < k; ++j) {
      if (norm)
        row[j] = rounded(static_cast<float>((row[j] - mean) / std::sqrt(squares / k + 1e-5) * gamma[j]),
                         DType::kBF16);
    }
  }
  const QuantisedRows x_codes = f.inputs ? QuantisedRows(multiplied, k, *f.inputs) : QuantisedRows();
  const Rows rows = f.inputs ? x_codes.rows : Rows::plain(multiplied, k);
  std::vector<double> want = products(rows, w.rows, m, vocab);
  for (size_t i = 0; i < want.size(); ++i) want[i] = want[i] * scale + bias[i % vocab];

  const DeviceTensor device_x(x, DType::kBF16);
  const DeviceTensor device_bias(bias, DType::kBF16);
  const DeviceTensor device_gamma(gamma, DType::kBF16);
  const DeviceTensor device_scales(w.scales, DType::kF32);
  const DeviceBuffer codes = DeviceBuffer::of(w.codes);
  const DeviceBuffer device_x_codes = f.x_codes ? DeviceBuffer::of(x_codes.codes) : DeviceBuffer();
  const DeviceTensor device_x_scales(f.x_codes ? x_codes.scales : std::vector<float>{}, DType::kF32);
  const DeviceBuffer ids(4 * m);
  DeviceBuffer workspace(head_workspace_bytes(m));
  TANDEM_CUDA_CHECK(cudaMemset(workspace.data(), 0, static_cast<size_t>(workspace.bytes())));
  const auto run = [&](const SkinnyConfig* config, const std::string& what) {
    const DeviceTensor logits(static_cast<int64_t>(m) * vocab, DType::kF32);
    launch_head_argmax({.w_dtype = f.weights,
                        .m = m,
                        .vocab = vocab,
                        .k = k,
                        .x = f.x_codes ? device_x_codes.data() : device_x.data(),
                        .w = codes.data(),
                        .scales = device_scales.data(),
                        .input_dtype = f.inputs,
                        .x_scales = f.x_codes ? static_cast<const float*>(device_x_scales.data()) : nullptr,
                        .bias = device_bias.data(),
                        .scale = scale,
                        .norm = norm,
                        .gamma = norm ? device_gamma.data() : nullptr,
                        .next_ids = ids.data<int32_t>(),
                        .logits = static_cast<float*>(logits.data()),
                        .workspace = workspace.data(),
                        .config = config},
                       nullptr);
    const std::vector<float> got = logits.values();
    // A normalised value may round to another bf16 than the truth's; where that is the row's largest, all of its codes move.
    // Codes of e4m3 on warpgroup tensor cores: see Product::tolerance().
    const double alone = f.x_codes && f.weights == DType::kF8 ? 1e-3 : 2e-5;
    EXPECT_LE(relative_l2(got, want), !norm ? alone : f.inputs ? 6e-2 : 1e-2) << what;
    const auto chosen = ids.to_host<int32_t>();
    for (int i = 0; i < m; ++i) {
      const float* row = &got[static_cast<size_t>(i) * vocab];
      EXPECT_EQ(chosen[i], std::max_element(row, row + vocab) - row) << what << " row " << i;
    }
  };
  const std::string what = fmt::format("{} m {} vocab {} k {}{}", f.text(), m, vocab, k, norm ? " norm" : "");
  if (!every_config) return run(nullptr, what);
  for (const SkinnyConfig& c : all_configs({.w_dtype = f.weights,
                               .input_dtype = f.inputs,
                               .m = m,
                               .n = vocab,
                               .k = k,
                               .norm = norm.has_value(),
                               .head = true,
                               .x_codes = f.x_codes},
                                           skinny_card())) {
    run(&c, what + " " + config_text(c));
    if (testing::Test::HasFailure()) return;
  }
}

// Odd vocabularies, every row count, norms, bias and scale. A row scale of another tile would give another logit.
TEST(HeadCodes, AgreesWithDoubleLoops) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  const std::pair<int, int> sizes[] = {{1, 16}, {9, 48}, {333, 272}, {5003, 512}, {32000, 1024}};
  for (const CodesFormat& f : kCodesFormats) {
    for (const auto& [vocab, k] : sizes) {
      for (int m : {1, 2, 4, 8, 9, 16, 33, 64}) {
        if (vocab >= 32000 && random.between(0, 2) != 0) continue;
        check_head(random, f, m, vocab, k, false);
      }
    }
  }
}

// Every config gives the same choice.
TEST(HeadCodes, EveryConfigIsRight) {
  TANDEM_NEEDS_DEVICE();
  RandomValues random(test_seed());
  for (const CodesFormat& f : kCodesFormats) {
    for (int m : {1, 4, 7, 16, 32, 64}) {
      check_head(random, f, m, 1003, 528, true);
      check_head(random, f, m, 20011, 144, true);  // several tiles a block
      if (HasFailure()) return;
    }
  }
}

// The head's weights have a scale a row: 4-bit ones, with a scale a group, are refused by name.
TEST(HeadCodes, RefusesFourBits) {
  alignas(16) static unsigned char memory[64];
  const HeadParams params{.w_dtype = DType::kI4,
                          .m = 1,
                          .vocab = 8,
                          .k = 32,
                          .x = memory,
                          .w = memory,
                          .scales = memory,
                          .next_ids = reinterpret_cast<int32_t*>(memory),
                          .workspace = memory};
  expect_refused("w_dtype", [&] { launch_head_argmax(params, nullptr); });
}

}  // namespace
}  // namespace tandem::kernels
