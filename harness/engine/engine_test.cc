#include "harness/engine/engine.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "harness/base/error.h"
#include "harness/base/sha256.h"
#include "harness/engine/planted.h"
#include "harness/weights/weights.h"

namespace tandem {
namespace {

// Breaks when presets, scales of seeded weights, sources or prefixes change here and not in scripts/peers/twin/model.py,
// whose test (reports/tests/test_hf_engine.py) holds the same hash: peers would then measure other models and inputs.
TEST(Engine, InputsOfEveryPresetAreThePeersToo) {
  std::vector<std::string> lines;
  for (const std::string& name : preset_names()) {
    const ModelConfig config = preset(name);
    for (const TensorSpec& laid : weight_layout(config).tensors) {
      const WholeTensor& t = laid.whole;
      lines.push_back(fmt::format("{} {} {} {} {} {:.9g} {:d}", name, t.name, t.rows, t.cols, t.exponent,
                                  t.base, static_cast<int>(t.outlier_rows)));
    }
    for (const char* lengths : {"full", "ragged:0.5", "ragged:0.83"}) {
      const TransformerBatch batch = source_batch(config, parse_lengths(lengths), 7, 33, kInputSeed);
      lines.push_back(fmt::format("{} {} {} {}", name, lengths, fmt::join(batch.lengths, " "),
                                  fmt::join(batch.ids, " ")));
      lines.push_back(
          fmt::format("{} prefix {}", name, fmt::join(decoder_prefix(config, 7, 40, kInputSeed), " ")));
    }
  }
  std::sort(lines.begin(), lines.end());
  EXPECT_EQ(sha256_hex(fmt::format("{}\n", fmt::join(lines, "\n"))),
            "496fee19c4a6e11b7344f4f8d7b6755a0e099a49564bfcb9ba45fc7656cc4585");
}

// Breaks when a case of suite_generate ends, or searches, by other rules than its axes say.
TEST(Engine, CasesDecodeAsTheirAxesSay) {
  const ModelConfig config = preset("tiny");
  Case c;
  c.tgt = 12;
  c.decode = "beam:4,length_penalty:0.6";
  GenerationConfig g = case_generation(c, config);
  EXPECT_TRUE(g.eos_ids.empty());
  EXPECT_EQ(g.max_length, 13);
  EXPECT_EQ(g.beams, 4);
  EXPECT_EQ(g.length_penalty, 0.6);
  EXPECT_EQ(g.decoder_start_id, config.decoder_start_id);
  c.stop = "eos";
  g = case_generation(c, config);
  EXPECT_EQ(g.eos_ids, std::vector<int32_t>{config.eos_id});
}

// Breaks when an engine on the CPU is asked for a card, or another engine than the reference is taken for the truth.
TEST(Engine, TraitsOfTheEnginesByName) {
  EXPECT_TRUE(engine_traits("reference").on_host && engine_traits("reference").is_truth);
  for (const char* name : {"cuda", "a-peer", ""}) {
    EXPECT_FALSE(engine_traits(name).on_host || engine_traits(name).is_truth) << name;
  }
}

// Breaks when a typing error in the self-test's environment passes for no allocation.
TEST(Planted, TheFirstAllocationIsASize) {
  EXPECT_EQ(planted_first_bytes(), 0);
  ::setenv("TANDEM_ALLOCATE_FIRST", "2097152", 1);
  EXPECT_EQ(planted_first_bytes(), 2097152);
  for (const char* bad : {"", "2M", "-1", "1e6", "1073741825", "99999999999999999999"}) {
    ::setenv("TANDEM_ALLOCATE_FIRST", bad, 1);
    EXPECT_THROW(planted_first_bytes(), UsageError) << bad;
  }
  ::unsetenv("TANDEM_ALLOCATE_FIRST");
  EXPECT_EQ(planted_delay_percent(), 0) << "these tests are of a build to release";
  EXPECT_EQ(planted_padding_bytes(), 0);
}

}  // namespace
}  // namespace tandem
