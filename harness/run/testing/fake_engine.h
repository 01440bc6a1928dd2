// An engine for tests: computes a plain function of its inputs, wrong in the way it is told to be.
#pragma once

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "harness/base/error.h"
#include "harness/base/random.h"
#include "harness/engine/engine.h"

namespace tandem::testing {

enum class Fault {
  kNone,
  kScale,
  kNan,
  kToken,
  kOutOfMemory,
  kTooLarge,  ///< says so before it is loaded
  kUnstable,
  kImpossible,
  kBroken,
  kSelfCheck,
  kSearch,
  kNearSearch,
  kLossy,        ///< a lossy form costs a little
  kLossyText,    ///< a lossy form takes another token at step 2
  kNoDense,      ///< cannot hold the dense fp32 model
  kRounding,     ///< three times as wrong as rounding makes the reference
  kTooWrong,     ///< five times
  kCannotRound,  ///< the reference takes its inputs in one way only
};

class FakeEngine : public Engine {
 public:
  /// `mean_mhz`: what each mark of its clock says; 0: nothing.
  FakeEngine(std::string name, Fault fault, double mean_mhz = 0)
      : name_(std::move(name)), fault_(fault), mean_mhz_(mean_mhz) {}

  std::string_view name() const override { return name_; }
  void check_supported(const Case& c) const override {
    if (fault_ == Fault::kNoDense && !is_lossy(c)) throw OutOfMemory(int64_t{1} << 41, "GPU memory");
    if (fault_ == Fault::kImpossible) throw ImpossibleCase("precision: 'bf16' is not for this engine");
    if (fault_ == Fault::kTooLarge) throw OutOfMemory(int64_t{1} << 50, "GPU memory");
    if (fault_ == Fault::kBroken) throw UsageError("model: the file is damaged");
  }
  void load(const Case& c, const ModelConfig& config, const WeightForm&) override {
    if (fault_ == Fault::kOutOfMemory) throw OutOfMemory(int64_t{1} << 40, "GPU memory");
    lossy_ = is_lossy(c);
    config_ = config;
    ++loads;
  }
  double load_us() const override { return 5; }
  std::optional<int64_t> weights_bytes() const override { return 2048; }

  std::unique_ptr<Workload> prepare(const Case& c, const TransformerBatch& batch) override {
    return std::make_unique<Work>(*this, c, batch);
  }

  Output forced_logits(const TransformerBatch& batch, std::span<const int32_t> tokens, int steps) override {
    Output out;
    out.rows = int64_t{steps} * batch.size();
    out.cols = config_.vocab;
    for (int t = 0; t < steps; ++t) {
      for (int b = 0; b < batch.size(); ++b)
        append_logits(tokens[static_cast<size_t>(b) * steps + t], t, out.values);
    }
    return out;
  }

  /// A made-up sequence a source; two faults change those from the second source on, one with a score that differs little.
  std::vector<std::vector<Sequence>> decode(const TransformerBatch& batch, const GenerationConfig& g,
                                            std::span<const uint64_t>) override {
    std::vector<std::vector<Sequence>> out;
    for (int b = 0; b < batch.size(); ++b) {
      Sequence s{.tokens = {b + 1, 2, g.beams}, .score = -2};
      const bool other = b > 0 && (fault_ == Fault::kSearch || fault_ == Fault::kNearSearch);
      if (other) s = {.tokens = {b + 1, 3, g.beams}, .score = fault_ == Fault::kSearch ? -2.1 : -2.00001};
      out.push_back({s});
    }
    return out;
  }

  std::optional<CheckResult> self_check(const Case&, const TransformerBatch&) override {
    return CheckResult{"a second way", fault_ == Fault::kSelfCheck ? 1.0 : 0.0, 1e-5, "row 0"};
  }

  bool take(Inputs inputs) override {
    inputs_ = inputs;
    return name_ == "reference" && fault_ != Fault::kCannotRound;
  }

  OpWorkload prepare_op(const Case& c, const ModelConfig&) override {
    OpWorkload op;
    op.workload = std::make_unique<Work>(*this, c, TransformerBatch{});
    op.bytes_read = 1e6;
    if (c.suite == Suite::kCollectives) op.link_bytes = 9e4;
    op.fraction_kept = 0.5;
    op.check = [this] { return CheckResult{"sum", fault_ == Fault::kNan ? NAN : 0.0, 1e-6, "element 3"}; };
    return op;
  }

  /// What rounding its inputs, and leaving them unquantised, changes in the reference, relative.
  static constexpr float kRoundingChange = 0x1p-10f, kQuantisingChange = 1.75f * 0x1p-10f;

  int loads = 0;

 private:
  /// Logits that depend on the last token and the step; random, so that the arg-max is unique.
  void append_logits(int32_t token, int step, std::vector<float>& out) const {
    for (int v = 0; v < config_.vocab; ++v) {
      const uint64_t index = (static_cast<uint64_t>(token) << 40) + (static_cast<uint64_t>(step) << 20) + v;
      float logit = static_cast<float>(centred_sum(7, index)) * power_of_two(-16);
      if (fault_ == Fault::kScale) logit *= 1.5f;
      if (fault_ == Fault::kLossy && lossy_ && v == 3) logit += 1e-5f;
      if (fault_ == Fault::kLossyText && lossy_ && step == 2 && v == 5) logit += 100;
      if (fault_ == Fault::kNan && v == 3) logit = NAN;
      if (inputs_ == Inputs::kRounded) logit *= 1 + kRoundingChange;
      if (inputs_ == Inputs::kUnquantised) logit *= 1 + kQuantisingChange;
      if (fault_ == Fault::kRounding && lossy_) logit *= 1 + 3 * kRoundingChange;
      if (fault_ == Fault::kTooWrong && lossy_) logit *= 1 + 5 * kRoundingChange;
      out.push_back(logit);
    }
  }

  static int32_t arg_max(const float* row, int n) {
    int best = 0;
    for (int i = 1; i < n; ++i) best = row[i] > row[best] ? i : best;
    return best;
  }

  class Work : public Workload {
   public:
    Work(FakeEngine& engine, Case c, TransformerBatch batch)
        : engine_(engine), c_(std::move(c)), batch_(std::move(batch)) {}
    Repetition repeat() override {
      ++runs_;
      Repetition r{.total_us = 1000, .step_us = {}, .first_token_us = {}};
      if (c_.suite == Suite::kGenerate) r.step_us = 10;
      return r;
    }
    std::optional<double> mark_clock() override {
      return engine_.mean_mhz_ > 0 ? std::optional(engine_.mean_mhz_) : std::nullopt;
    }
    std::vector<float> inter_token_us() override {
      if (c_.suite != Suite::kGenerate) return {};
      std::vector<float> times(static_cast<size_t>(c_.tgt) - 1, 10.0f);
      times.back() = 30;
      return times;
    }
    Output output() override {
      Output out;
      if (c_.suite == Suite::kGenerate) {
        for (int b = 0; b < c_.batch; ++b) {
          int32_t token = engine_.config_.decoder_start_id;
          for (int t = 0; t < c_.tgt; ++t) {
            std::vector<float> row;
            engine_.append_logits(token, t, row);
            token = arg_max(row.data(), engine_.config_.vocab);
            if (engine_.fault_ == Fault::kToken && t == 2) token = (token + 1) % engine_.config_.vocab;
            out.tokens.push_back(token);
          }
        }
      } else {
        for (int b = 0; b < c_.batch; ++b) engine_.append_logits(b, 0, out.values);
        out.rows = c_.batch;
        out.cols = engine_.config_.vocab;
        for (int b = 0; b < c_.batch; ++b) {
          out.tokens.push_back(arg_max(out.values.data() + b * out.cols, engine_.config_.vocab));
        }
      }
      if (engine_.fault_ == Fault::kUnstable && runs_ > 1 && !out.values.empty()) out.values[0] += 1e-7f;
      return out;
    }
    int64_t peak_bytes() const override { return 4096; }
    std::vector<std::string> kernels() const override { return {"decoder head: fake"}; }

   private:
    FakeEngine& engine_;
    Case c_;
    TransformerBatch batch_;
    int runs_ = 0;
  };

  std::string name_;
  Fault fault_;
  double mean_mhz_;
  ModelConfig config_;
  bool lossy_ = false;
  Inputs inputs_ = Inputs::kOwn;
};

}  // namespace tandem::testing
