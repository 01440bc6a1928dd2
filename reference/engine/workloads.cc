#include "reference/engine/workloads.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "harness/base/error.h"
#include "reference/engine/extra_work.h"
#include "reference/model/decode.h"
#include "reference/model/decoder.h"
#include "reference/model/encoder.h"
#include "reference/model/generate.h"
#include "reference/model/next_token.h"
#include "reference/ops/ranks.h"

namespace tandem::reference {
namespace {

class Stopwatch {
 public:
  double us() const {
    return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

class ReferenceWorkload : public Workload {
 public:
  ReferenceWorkload(std::shared_ptr<const LoadedModel> model, TransformerBatch source)
      : model_(std::move(model)), source_(std::move(source)) {}

  Output output() override {
    if (!computed_) throw Error("output asked for before the first repetition");
    return output_;
  }

  bool plant(double amount) override {
    extra_.set(amount);
    return true;
  }

  /// Peak resident memory of the whole process: a CPU engine has no memory of its own.
  int64_t peak_bytes() const override {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return static_cast<int64_t>(usage.ru_maxrss) * 1024;
  }

 protected:
  const ModelConfig& config() const { return model_->config; }
  const ModelWeights& weights() const { return model_->weights; }
  const Numerics& numerics() const { return model_->numerics; }
  void keep(Output output) {
    output_ = std::move(output);
    computed_ = true;
  }
  /// The time of a pass at its end, and of what is planted in it.
  double passed_us(const Stopwatch& watch) {
    extra_.run();
    return watch.us();
  }
  /// Spent in exchanges with other ranks since the last call; absent where there are none.
  std::optional<double> exchanged_us() {
    if (!model_->ranks) return std::nullopt;
    return model_->ranks->take_us();
  }
  static Output as_output(Matrix m) {
    return {.values = std::move(m.values), .rows = m.rows, .cols = m.cols, .tokens = {}};
  }

  std::shared_ptr<const LoadedModel> model_;
  TransformerBatch source_;

 private:
  Output output_;
  bool computed_ = false;
  ExtraWork extra_;
};

class EncoderWorkload : public ReferenceWorkload {
 public:
  using ReferenceWorkload::ReferenceWorkload;

  Repetition repeat() override {
    exchanged_us();
    const Stopwatch watch;
    Matrix encoded = encoder_forward(config(), weights().encoder, source_, numerics());
    const Repetition r{
        .total_us = passed_us(watch), .step_us = {}, .first_token_us = {}, .wait_us = exchanged_us()};
    keep(as_output(std::move(encoded)));
    return r;
  }
};

class DecoderWorkload : public ReferenceWorkload {
 public:
  DecoderWorkload(std::shared_ptr<const LoadedModel> model, const TransformerBatch& source, int tgt)
      : ReferenceWorkload(std::move(model), source) {
    const std::vector<int32_t> prefix = decoder_prefix(config(), source_.size(), tgt, kInputSeed);
    state_ =
        start_decoder(config(), weights().decoder, source_,
                      encoder_forward(config(), weights().encoder, source_, numerics()), tgt, numerics());
    for (int step = 0; step + 1 < tgt; ++step) {
      append_tokens(config(), weights().decoder, state_, token_column(prefix, tgt, step));
    }
    last_ids_ = token_column(prefix, tgt, tgt - 1);
  }

  Repetition repeat() override {
    state_.length = state_.capacity - 1;  // takes the previous repetition's token back
    exchanged_us();
    const Stopwatch watch;
    Matrix logits = decoder_step(config(), weights().decoder, state_, last_ids_);
    std::vector<int32_t> best = best_ids(logits, vocabulary_part(config(), numerics().ranks));
    const Repetition r{
        .total_us = passed_us(watch), .step_us = {}, .first_token_us = {}, .wait_us = exchanged_us()};
    Output out = as_output(whole_logits(std::move(logits), config(), numerics().ranks));
    out.tokens = std::move(best);
    keep(std::move(out));
    return r;
  }

 private:
  DecoderState state_;
  std::vector<int32_t> last_ids_;
};

class GenerateWorkload : public ReferenceWorkload {
 public:
  GenerateWorkload(std::shared_ptr<const LoadedModel> model, const TransformerBatch& source, int tgt,
                   bool stop_at_eos)
      : ReferenceWorkload(std::move(model), source), tgt_(tgt), stop_at_eos_(stop_at_eos) {}

  Repetition repeat() override {
    exchanged_us();
    const Stopwatch watch;
    double encoded_us = 0, first_us = 0, last_us = 0;
    Generated g = greedy_generate(config(), weights(), source_,
                                  {.max_tokens = tgt_,
                                   .stop_at_eos = stop_at_eos_,
                                   .keep_logits = false,
                                   .numerics = numerics(),
                                   .progress = [&](int step) {
                                     (step < 0 ? encoded_us : last_us) = watch.us();
                                     if (step == 0) first_us = last_us;
                                   }});
    const Repetition r{.total_us = passed_us(watch),
                       .step_us = (last_us - encoded_us) / tgt_,
                       .first_token_us = first_us,
                       .wait_us = exchanged_us()};
    keep({.values = {}, .rows = 0, .cols = 0, .tokens = std::move(g.tokens)});
    return r;
  }

  std::vector<float> inter_token_us() override {
    const Stopwatch watch;
    std::vector<float> times;
    double last_us = 0;
    greedy_generate(config(), weights(), source_,
                    {.max_tokens = tgt_,
                     .stop_at_eos = stop_at_eos_,
                     .keep_logits = false,
                     .numerics = numerics(),
                     .progress = [&](int step) {
                       const double now_us = watch.us();
                       if (step > 0) times.push_back(static_cast<float>(now_us - last_us));
                       last_us = now_us;
                     }});
    return times;
  }

 private:
  int tgt_;
  bool stop_at_eos_;
};

class DecodeWorkload : public ReferenceWorkload {
 public:
  DecodeWorkload(std::shared_ptr<const LoadedModel> model, const TransformerBatch& source,
                 GenerationConfig generation)
      : ReferenceWorkload(std::move(model), source), generation_(std::move(generation)) {}

  Repetition repeat() override {
    exchanged_us();
    const Stopwatch watch;
    const auto found = decode(config(), weights(), source_, generation_, {}, numerics());
    const Repetition r{
        .total_us = passed_us(watch), .step_us = {}, .first_token_us = {}, .wait_us = exchanged_us()};
    const size_t tgt = generation_.max_length - 1;
    std::vector<int32_t> tokens(found.size() * tgt, generation_.pad_id);
    for (size_t b = 0; b < found.size(); ++b) {
      std::copy(found[b].front().tokens.begin(), found[b].front().tokens.end(), tokens.begin() + b * tgt);
    }
    keep({.values = {}, .rows = 0, .cols = 0, .tokens = std::move(tokens)});
    return r;
  }

 private:
  GenerationConfig generation_;
};

}  // namespace

std::unique_ptr<Workload> decode_workload(std::shared_ptr<const LoadedModel> model,
                                          const TransformerBatch& source,
                                          const GenerationConfig& generation) {
  return std::make_unique<DecodeWorkload>(std::move(model), source, generation);
}

std::vector<int32_t> token_column(std::span<const int32_t> tokens, int steps, int step) {
  std::vector<int32_t> column;
  for (size_t row = 0; row * steps < tokens.size(); ++row) column.push_back(tokens[row * steps + step]);
  return column;
}

std::unique_ptr<Workload> encoder_workload(std::shared_ptr<const LoadedModel> model,
                                           const TransformerBatch& source) {
  return std::make_unique<EncoderWorkload>(std::move(model), source);
}

std::unique_ptr<Workload> decoder_workload(std::shared_ptr<const LoadedModel> model,
                                           const TransformerBatch& source, int tgt) {
  return std::make_unique<DecoderWorkload>(std::move(model), source, tgt);
}

std::unique_ptr<Workload> generate_workload(std::shared_ptr<const LoadedModel> model,
                                            const TransformerBatch& source, int tgt, bool stop_at_eos) {
  return std::make_unique<GenerateWorkload>(std::move(model), source, tgt, stop_at_eos);
}

}  // namespace tandem::reference
