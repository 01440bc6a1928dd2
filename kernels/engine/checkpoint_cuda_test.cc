// Checkpoint folders on the card: the bytes that arrive, transformers' encoder output, logits and tokens, and the same
// tokens alone and in a batch.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <set>
#include <vector>

#include "harness/base/cuda_check.h"
#include "harness/memory/level1_cache.h"
#include "harness/sweep/files.h"
#include "harness/weights/testing/checkpoint_writer.h"
#include "harness/weights/values/checkpoint.h"
#include "kernels/engine/engine_test_util.h"
#include "kernels/runtime/device_model.h"

namespace tandem::kernels {
namespace {

using nlohmann::json;

constexpr double kTolerance = 1e-5;

class CheckpointOnTheCard : public ::testing::TestWithParam<std::string> {
 protected:
  CheckpointOnTheCard() : fixture_(tandem::testing::checkpoint_fixture(GetParam())) {
    tandem::testing::write_checkpoint(folder_.path() / "m", fixture_);
  }
  std::string model() const { return (folder_.path() / "m").string(); }

  Case case_for(Suite suite, const TransformerBatch& batch, int tgt) const {
    Case c;
    c.suite = suite;
    c.model = model();
    c.weights = "checkpoint";
    c.batch = batch.size();
    c.src = batch.longest;
    c.tgt = tgt;
    c.precision = Precision::kFp32;
    c.stop = "eos";
    return c;
  }

  tandem::testing::TestFolder folder_;
  json fixture_;
};

// Breaks when a tensor is rounded, placed or padded in another way than the reader does it, or when the cache gives one
// precision's or one model's bytes for another's.
TEST_P(CheckpointOnTheCard, BytesArrive) {
  TANDEM_NEED_DEVICE();
  const std::string run_dir = (folder_.path() / "run").string();
  std::filesystem::create_directories(run_dir);
  const Checkpoint checkpoint(model());
  ModelConfig witness = checkpoint.config();
  witness.encoder.layers = witness.decoder.layers = 1;
  Device device({.search_choices = false, .run_dir = run_dir});
  device.activate();
  for (const ModelConfig& config : {checkpoint.config(), witness}) {
    for (const Precision precision : {Precision::kFp32, Precision::kFp16, Precision::kBf16}) {
      for (const bool level1 : {true, true, false}) {
        const DeviceModel on_card = load_device_model(device, device.memory("level2"),
                                                      {.config = config,
                                                       .weights = {.checkpoint = true},
                                                       .precision = precision,
                                                       .form = {.precision = precision},
                                                       .folder = model(),
                                                       .content = content_sha256(model()),
                                                       .level1 = level1});
        std::vector<std::byte> want(on_card.weight_bytes()), got(on_card.weight_bytes());
        materialise(checkpoint, on_card.layout, {.host = want});
        TANDEM_CUDA_CHECK(cudaMemcpy(got.data(), on_card.arena.data(), got.size(), cudaMemcpyDeviceToHost));
        EXPECT_TRUE(got == want) << precision_name(precision) << " level1 " << level1;
      }
    }
  }
  Level1Cache::remove({.run_dir = run_dir});
}

// An engine that reads a checkpoint as another model computes other numbers than transformers.
TEST_P(CheckpointOnTheCard, EncoderAndLogitsAreTransformers) {
  TANDEM_NEED_DEVICE();
  CudaEngine engine({.search_choices = false});
  const ModelConfig config = load_model(model());
  bool loaded = false;
  for (const json& forced : fixture_["forced"]) {
    const TransformerBatch source = pack(config, {forced["source"].get<std::vector<int32_t>>()});
    const auto target = forced["target"].get<std::vector<int32_t>>();
    const int steps = static_cast<int>(target.size());
    const Case c = case_for(Suite::kEncoder, source, steps);
    if (!loaded) engine.load(c, config, {.precision = Precision::kFp32});
    loaded = true;
    const auto encoder = engine.prepare(c, source);
    encoder->repeat();
    const auto want_encoded = forced["encoder_output"].get<std::vector<float>>();
    const Comparison encoded = compare(encoder->output().values, want_encoded, config.d_model);
    EXPECT_TRUE(encoded.within(kTolerance)) << encoded.relative_l2 << " " << encoded.where;
    const Output logits = engine.forced_logits(source, target, steps);
    const auto want_logits = forced["logits"].get<std::vector<float>>();
    const Comparison decoded = compare(logits.values, want_logits, config.vocab);
    EXPECT_TRUE(decoded.within(kTolerance)) << decoded.relative_l2 << " " << decoded.where;
  }
}

/// Tokens of each source up to its first eos.
std::vector<std::vector<int32_t>> greedy(CudaEngine& engine, const Case& c, const TransformerBatch& batch,
                                         int eos) {
  const auto workload = engine.prepare(c, batch);
  workload->repeat();
  const Output out = workload->output();
  std::vector<std::vector<int32_t>> sequences;
  for (int b = 0; b < batch.size(); ++b) {
    const auto first = out.tokens.begin() + static_cast<ptrdiff_t>(b) * c.tgt;
    const auto end = std::find(first, first + c.tgt, eos);
    sequences.emplace_back(first, end == first + c.tgt ? end : end + 1);
  }
  return sequences;
}

/// Does the reference choose each of these tokens by more than `margin` over the next?
bool decided(const ModelConfig& config, const ModelWeights& w, const std::vector<int32_t>& source,
             const std::vector<int32_t>& tokens, double margin) {
  std::vector<int32_t> inputs = {config.decoder_start_id};
  inputs.insert(inputs.end(), tokens.begin(), tokens.end() - 1);
  const reference::Matrix logits =
      reference::forced_logits(config, w, pack(config, {source}), inputs, static_cast<int>(inputs.size()));
  for (int64_t t = 0; t < logits.rows; ++t) {
    std::vector<float> row(logits.row(t), logits.row(t) + logits.cols);
    std::nth_element(row.begin(), row.begin() + 1, row.end(), std::greater<>());
    if (row[0] - row[1] < margin) return false;
  }
  return true;
}

// Breaks when any token of a sequence in a ragged batch of 16 is another than the reference's (whose greedy tokens are
// transformers'), or than the same sequence's alone.
TEST_P(CheckpointOnTheCard, GreedyTokensInABatchAndAlone) {
  TANDEM_NEED_DEVICE();
  constexpr int kTgt = 24;
  constexpr size_t kBatch = 16, kAlone = 4;
  constexpr double kMargin = 1e-3;  // far above fp32's rounding of logits of size ten
  const Checkpoint checkpoint(model());
  const ModelConfig& config = checkpoint.config();
  const HostWeights host = host_weights(config, checkpoint);
  const ModelWeights weights = host.weights();
  const auto all = tandem::testing::fixture_sources(GetParam(), fixture_);

  CudaEngine engine({.search_choices = false});
  engine.load(case_for(Suite::kGenerate, pack(config, {all[0]}), kTgt), config,
              {.precision = Precision::kFp32});
  int compared = 0;
  for (size_t first = 0; first + kBatch <= 3 * kBatch; first += kBatch) {
    const std::vector<std::vector<int32_t>> some(all.begin() + first, all.begin() + first + kBatch);
    const TransformerBatch batch = pack(config, some);
    const auto got = greedy(engine, case_for(Suite::kGenerate, batch, kTgt), batch, config.eos_id);
    const reference::Generated want =
        reference::greedy_generate(config, weights, batch, {.max_tokens = kTgt, .stop_at_eos = true});
    for (size_t b = 0; b < kBatch; ++b) {
      const auto begin = want.tokens.begin() + static_cast<ptrdiff_t>(b) * kTgt;
      const std::vector<int32_t> tokens(begin, begin + want.lengths[b]);
      if (!decided(config, weights, some[b], tokens, kMargin)) continue;
      ++compared;
      EXPECT_EQ(got[b], tokens) << "sequence " << first + b;
      if (b >= kAlone) continue;
      const TransformerBatch one = pack(config, {some[b]});
      EXPECT_EQ(greedy(engine, case_for(Suite::kGenerate, one, kTgt), one, config.eos_id).front(), tokens)
          << "sequence " << first + b << " alone";
    }
  }
  EXPECT_GE(compared, 30);
}

INSTANTIATE_TEST_SUITE_P(All, CheckpointOnTheCard,
                         ::testing::ValuesIn(tandem::testing::checkpoint_variants()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace tandem::kernels
