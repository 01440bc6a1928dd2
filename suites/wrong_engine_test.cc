// Engines that are wrong as kernels go wrong, through the whole path of a worker: none of them gets a time.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "harness/base/testing/test_seed.h"
#include "harness/run/worker.h"
#include "harness/weights/materialise.h"
#include "harness/weights/values/seeded.h"
#include "reference/engine/reference_engine.h"
#include "reference/engine/workloads.h"
#include "reference/model/decoder.h"
#include "reference/model/encoder.h"
#include "reference/model/generate.h"

namespace tandem::reference {
namespace {

enum class Wrong { kNothing, kMask, kHead, kScale, kStale, kNan };

const char* name_of(Wrong wrong) {
  const char* names[] = {"nothing",       "an off-by-one mask", "a dropped head",
                         "a wrong scale", "stale K/V",          "NaN"};
  return names[static_cast<int>(wrong)];
}

/// One decode step for which the last append was lost in every layer: its keys and values are those of the token before.
class StaleStep : public Workload {
 public:
  StaleStep(std::shared_ptr<const LoadedModel> model, const TransformerBatch& source, int tgt)
      : model_(std::move(model)),
        tgt_(tgt),
        prefix_(decoder_prefix(model_->config, source.size(), tgt, kInputSeed)) {
    const DecoderWeight& w = model_->weights.decoder;
    state_ = start_decoder(model_->config, w, source,
                           encoder_forward(model_->config, model_->weights.encoder, source), tgt);
    for (int t = 0; t + 1 < tgt; ++t) append_tokens(model_->config, w, state_, token_column(prefix_, tgt, t));
    for (LayerCache& layer : state_.layers) {
      for (int b = 0; b < source.size(); ++b) {
        const int64_t row = int64_t{b} * tgt + tgt - 2;
        std::copy_n(layer.self_k.row(row - 1), layer.self_k.cols, layer.self_k.row(row));
        std::copy_n(layer.self_v.row(row - 1), layer.self_v.cols, layer.self_v.row(row));
      }
    }
  }
  Repetition repeat() override {
    state_.length = tgt_ - 1;
    logits_ =
        decoder_step(model_->config, model_->weights.decoder, state_, token_column(prefix_, tgt_, tgt_ - 1));
    return {.total_us = 1000, .step_us = {}, .first_token_us = {}};
  }
  Output output() override {
    Output out{.values = logits_.values, .rows = logits_.rows, .cols = logits_.cols, .tokens = {}};
    for (int64_t r = 0; r < out.rows; ++r) {
      const auto row = out.values.begin() + r * out.cols;
      out.tokens.push_back(static_cast<int32_t>(std::max_element(row, row + out.cols) - row));
    }
    return out;
  }
  int64_t peak_bytes() const override { return 0; }

 private:
  std::shared_ptr<const LoadedModel> model_;
  int tgt_;
  std::vector<int32_t> prefix_;
  DecoderState state_;
  Matrix logits_;
};

/// The reference's own operations with one thing wrong, under the name of another engine.
class WrongEngine : public Engine {
 public:
  explicit WrongEngine(Wrong wrong) : wrong_(wrong) {}
  std::string_view name() const override { return "cuda"; }
  void check_supported(const Case&) const override {}
  double load_us() const override { return 1; }

  void load(const Case& c, const ModelConfig& config, const WeightForm& form) override {
    auto model = std::make_shared<LoadedModel>();
    model->config = config;
    model->host = host_weights(config, parse_weights(c.weights), form);
    for (const TensorSpec& t : model->host.layout.tensors) {
      const std::span<float> values = model->host.tensor(t.name);
      const bool out = t.name.ends_with("layers.0.self.out.weight");
      if (wrong_ == Wrong::kHead && out) drop_head(config, values);
      if (wrong_ == Wrong::kNan && out) values[5] = std::numeric_limits<float>::quiet_NaN();
    }
    if (wrong_ == Wrong::kScale) model->config.attention_scale = 1;  // 1 / sqrt(head_dim) was forgotten
    model->weights = model->host.weights();
    model_ = std::move(model);
  }

  std::unique_ptr<Workload> prepare(const Case& c, const TransformerBatch& batch) override {
    const TransformerBatch source = masked(batch);
    if (c.suite == Suite::kEncoder) return encoder_workload(model_, source);
    if (c.suite == Suite::kGenerate) return generate_workload(model_, source, c.tgt, false);
    if (wrong_ == Wrong::kStale) return std::make_unique<StaleStep>(model_, source, c.tgt);
    return decoder_workload(model_, source, c.tgt);
  }

  Output forced_logits(const TransformerBatch& batch, std::span<const int32_t> tokens, int steps) override {
    Matrix m = reference::forced_logits(model_->config, model_->weights, masked(batch), tokens, steps);
    return {.values = std::move(m.values), .rows = m.rows, .cols = m.cols, .tokens = {}};
  }

  OpWorkload prepare_op(const Case&, const ModelConfig&) override { return {}; }

 private:
  /// Every sequence sees one token less than it has.
  TransformerBatch masked(TransformerBatch batch) const {
    if (wrong_ == Wrong::kMask) {
      for (int32_t& length : batch.lengths) length = std::max(1, length - 1);
    }
    return batch;
  }
  /// The columns of the output projection that take head 1's values.
  static void drop_head(const ModelConfig& config, std::span<float> out) {
    const int64_t inner = static_cast<int64_t>(out.size()) / config.d_model;
    for (int64_t row = 0; row < config.d_model; ++row) {
      std::fill_n(out.begin() + row * inner + config.head_dim, config.head_dim, 0.0f);
    }
  }

  Wrong wrong_;
  std::shared_ptr<const LoadedModel> model_;
};

Record measured(Wrong wrong, Suite suite, Precision precision) {
  const EngineRegistry registry = {
      .make = [wrong](const std::string& name, const EngineOptions&) -> std::unique_ptr<Engine> {
        if (name == "reference") return std::make_unique<ReferenceEngine>();
        return std::make_unique<WrongEngine>(wrong);
      },
      .device_usable = [](int, std::string*) { return true; },
      .l2_bytes = [](int) { return std::optional<double>(); }};
  Worker worker(registry, {});
  Case c;
  c.suite = suite;
  c.model = "tiny";
  c.batch = 3;
  c.src = 9;
  c.tgt = 6;
  c.precision = precision;
  c.engine = "cuda";
  c.weights = "seed:" + std::to_string(test_seed() % 1000);
  c = canonical(c);
  return worker.measure_case(c, worker.validate_case(c));
}

class WrongEngineTest : public testing::TestWithParam<Precision> {};

// Breaks when the five refusals below would refuse anything.
TEST_P(WrongEngineTest, NothingWrongIsTimed) {
  ::setenv("TANDEM_SAMPLE_SECONDS", "0:0.01", 1);
  for (const Suite suite : kModelSuites) {
    const Record r = measured(Wrong::kNothing, suite, GetParam());
    EXPECT_EQ(r.status, Status::kOk) << suite_name(suite) << ": " << r.reason.value_or("");
    EXPECT_TRUE(r.summary);
  }
}

// Breaks when a wrong kernel gets a time.
TEST_P(WrongEngineTest, NothingThatIsWrongGetsATime) {
  for (const Wrong wrong : {Wrong::kMask, Wrong::kHead, Wrong::kScale, Wrong::kStale, Wrong::kNan}) {
    for (const Suite suite : kModelSuites) {
      if (wrong == Wrong::kStale && suite != Suite::kDecoder) continue;  // the step alone has it
      const Record r = measured(wrong, suite, GetParam());
      EXPECT_EQ(r.status, Status::kInvalid) << name_of(wrong) << " in " << suite_name(suite);
      EXPECT_FALSE(r.summary) << name_of(wrong) << " in " << suite_name(suite) << " got a time";
      EXPECT_FALSE(r.samples);
      EXPECT_FALSE(r.reason.value_or("").empty());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Precisions, WrongEngineTest, testing::Values(Precision::kFp32, Precision::kBf16));

}  // namespace
}  // namespace tandem::reference
