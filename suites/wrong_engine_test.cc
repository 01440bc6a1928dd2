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

enum class Wrong { kNothing, kMask, kHead, kScale, kStale, kNan, kOtherScale, kNoScale, kCacheScale };

const char* name_of(Wrong wrong) {
  const char* names[] = {
      "nothing", "an off-by-one mask",   "a dropped head",         "a wrong scale",      "stale K/V",
      "NaN",     "scales of other rows", "dropped scales of rows", "stale scales of K/V"};
  return names[static_cast<int>(wrong)];
}

/// The scale of one head of one token: of its largest magnitude, whatever the type of codes makes of it.
float head_scale(const float* head, int head_dim) {
  float largest = 0;
  for (int i = 0; i < head_dim; ++i) largest = std::max(largest, std::abs(head[i]));
  return largest;
}

/// One decode step for which the last append was lost in every layer: its keys and values are those of the token before. Or
/// each token has the scales of the one before.
class StaleStep : public Workload {
 public:
  StaleStep(std::shared_ptr<const LoadedModel> model, const TransformerBatch& source, int tgt, bool scales)
      : model_(std::move(model)),
        tgt_(tgt),
        prefix_(decoder_prefix(model_->config, source.size(), tgt, kInputSeed)) {
    const DecoderWeight& w = model_->weights.decoder;
    const Numerics& numerics = model_->numerics;
    const Matrix encoded = encoder_forward(model_->config, model_->weights.encoder, source, numerics);
    state_ = start_decoder(model_->config, w, source, encoded, tgt, numerics);
    for (int t = 0; t + 1 < tgt; ++t) append_tokens(model_->config, w, state_, token_column(prefix_, tgt, t));
    for (LayerCache& layer : state_.layers) {
      for (int b = 0; b < source.size(); ++b) {
        const int64_t row = int64_t{b} * tgt + tgt - 2;
        for (Matrix* cache : {&layer.self_k, &layer.self_v}) {
          if (scales) {
            for (int64_t r = row; r > int64_t{b} * tgt; --r)
              take_scales(cache->row(r - 1), cache->row(r), cache->cols);
          } else {
            std::copy_n(cache->row(row - 1), cache->cols, cache->row(row));
          }
        }
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
  void take_scales(const float* from, float* to, int64_t cols) const {
    const int head_dim = model_->config.head_dim;
    for (int64_t head = 0; head < cols; head += head_dim) {
      const float factor = head_scale(from + head, head_dim) / head_scale(to + head, head_dim);
      for (int i = 0; i < head_dim; ++i) to[head + i] *= factor;
    }
  }

  std::shared_ptr<const LoadedModel> model_;
  int tgt_;
  std::vector<int32_t> prefix_;
  DecoderState state_;
  Matrix logits_;
};

/// The reference's own operations with one thing wrong, under the name of another engine. In 16 bits and fewer its activations
/// are bf16, as an honest engine's are.
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
      if (wrong_ == Wrong::kOtherScale && out) shift_scales(values, t.cols);
      if (wrong_ == Wrong::kNoScale && out) drop_scales(values, t.cols);
      if (wrong_ == Wrong::kHead && out) drop_head(config, values);
      if (wrong_ == Wrong::kNan && out) values[5] = std::numeric_limits<float>::quiet_NaN();
    }
    if (wrong_ == Wrong::kScale) model->config.attention_scale = 1;  // 1 / sqrt(head_dim) was forgotten
    model->compute_as(c, activation_dtype(c.precision) == DType::kF32 ? Inputs::kOwn : Inputs::kRounded);
    model_ = std::move(model);
  }

  std::unique_ptr<Workload> prepare(const Case& c, const TransformerBatch& batch) override {
    const TransformerBatch source = masked(batch);
    if (c.suite == Suite::kEncoder) return encoder_workload(model_, source);
    if (c.suite == Suite::kGenerate) return generate_workload(model_, source, c.tgt, false);
    if (wrong_ == Wrong::kStale || wrong_ == Wrong::kCacheScale)
      return std::make_unique<StaleStep>(model_, source, c.tgt, wrong_ == Wrong::kCacheScale);
    return decoder_workload(model_, source, c.tgt);
  }

  Output forced_logits(const TransformerBatch& batch, std::span<const int32_t> tokens, int steps) override {
    Matrix m = reference::forced_logits(model_->config, model_->weights, masked(batch), tokens, steps,
                                        model_->numerics);
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

  /// Each row takes the scale of the row after it.
  static void shift_scales(std::span<float> values, int64_t cols) {
    const auto width = static_cast<int>(cols);
    const float first = head_scale(values.data(), width);
    for (size_t row = 0; row < values.size(); row += cols) {
      const bool last = row + cols == values.size();
      const float next = last ? first : head_scale(values.data() + row + cols, width);
      const float factor = next / head_scale(values.data() + row, width);
      for (int64_t i = 0; i < cols; ++i) values[row + i] *= factor;
    }
  }

  /// Codes are taken for values, each row's largest being as large as that of 8-bit integers.
  static void drop_scales(std::span<float> values, int64_t cols) {
    for (size_t row = 0; row < values.size(); row += cols) {
      const float scale = head_scale(values.data() + row, static_cast<int>(cols)) / 127;
      for (int64_t i = 0; i < cols; ++i) values[row + i] /= scale;
    }
  }

  Wrong wrong_;
  std::shared_ptr<const LoadedModel> model_;
};

struct Form {
  Precision precision;
  const char* kv = "same";
};

Record measured(Wrong wrong, Suite suite, const Form& form) {
  const EngineRegistry registry = {
      .make = [wrong](const std::string& name, const EngineOptions&) -> std::unique_ptr<Engine> {
        if (name == "reference") return std::make_unique<ReferenceEngine>();
        return std::make_unique<WrongEngine>(wrong);
      },
      .device_usable = [](int, std::string*) { return true; },
      .l2_bytes = [](int) { return std::optional<double>(); }};
  const WorkerOptions options;  // named: g++ 12 warns of an unnamed one
  Worker worker(registry, options);
  Case c;
  c.suite = suite;
  c.model = "tiny";
  c.batch = 3;
  c.src = 9;
  c.tgt = 6;
  c.precision = form.precision;
  c.kv = form.kv;
  c.engine = "cuda";
  c.weights = "seed:" + std::to_string(test_seed() % 1000);
  c = canonical(c);
  return worker.measure_case(c, worker.validate_case(c));
}

/// What a form can have wrong. In e4m3 two right computations of a model as small as this one differ by a tenth and more: what
/// changes it by no more than twice that shows in the other forms, and in the tests of the kernels.
std::vector<Wrong> faults_of(const Form& form) {
  std::vector<Wrong> faults = {Wrong::kHead, Wrong::kNan};
  const DType kv = kv_dtype(form.precision, parse_kv(form.kv));
  const bool e4m3 = form.precision == Precision::kFp8 || kv == DType::kF8;
  const Storage weights = own_storage({.precision = form.precision}, TensorUse::kProduct);
  if (form.precision != Precision::kFp8) faults.push_back(Wrong::kStale);
  if (!e4m3) faults.insert(faults.end(), {Wrong::kMask, Wrong::kScale});
  if (weights.scale_group == Storage::kWholeRow) {
    faults.push_back(Wrong::kNoScale);
    if (!e4m3) faults.push_back(Wrong::kOtherScale);
  }
  if (kv == DType::kI8) faults.push_back(Wrong::kCacheScale);
  return faults;
}

class WrongEngineTest : public testing::TestWithParam<Form> {};

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
  for (const Wrong wrong : faults_of(GetParam())) {
    for (const Suite suite : kModelSuites) {
      // The step alone has these.
      if ((wrong == Wrong::kStale || wrong == Wrong::kCacheScale) && suite != Suite::kDecoder) continue;
      const Record r = measured(wrong, suite, GetParam());
      EXPECT_EQ(r.status, Status::kInvalid) << name_of(wrong) << " in " << suite_name(suite);
      EXPECT_FALSE(r.summary) << name_of(wrong) << " in " << suite_name(suite) << " got a time";
      EXPECT_FALSE(r.samples);
      EXPECT_FALSE(r.reason.value_or("").empty());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Precisions, WrongEngineTest,
                         testing::Values(Form{Precision::kFp32}, Form{Precision::kBf16},
                                         Form{Precision::kW8a16}, Form{Precision::kW4a16},
                                         Form{Precision::kFp8}, Form{Precision::kInt8},
                                         Form{Precision::kBf16, "fp8"}, Form{Precision::kBf16, "int8"}));

}  // namespace
}  // namespace tandem::reference
