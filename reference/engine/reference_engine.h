// The reference as an engine: any case of suite_encoder, suite_decoder and suite_generate on the CPU. It is
// the truth that other engines are compared with, and what a machine without a GPU measures.
#pragma once

#include <memory>
#include <vector>

#include "harness/engine/engine.h"
#include "harness/engine/planted.h"
#include "harness/parallel/rank_environment.h"
#include "harness/weights/materialise.h"
#include "reference/engine/timed_communicator.h"
#include "reference/ops/quantise.h"

namespace tandem::reference {

/// A model's weights, fp32 in host memory.
struct LoadedModel {
  ModelConfig config;  ///< of what pruning leaves, of a rank: its share of the heads and of d_ff
  HostWeights host;
  ModelWeights weights;  ///< views into host
  Numerics numerics = {};
  std::shared_ptr<TimedCommunicator> ranks;  ///< that share the model's matrices; null: they are whole here

  /// Makes the views, and sets what `c` quantises beside the values of host. The fp32 truth of a quantised form has the form's
  /// values, and activations in fp32.
  void compute_as(const Case& c, Inputs inputs = Inputs::kOwn);
};

/// Every precision computes the same way: the values of the weights' form, in fp32, with sums in double. Activations, keys
/// and values that the case holds in 8 bits are quantised and read back where they would be stored.
class ReferenceEngine : public Engine {
 public:
  /// One rank of those at `seat`, which outlives the engine; null: alone.
  explicit ReferenceEngine(const RankSeat* seat = nullptr) : seat_(seat) {}

  std::string_view name() const override { return "reference"; }
  void check_supported(const Case& c) const override;
  void load(const Case& c, const ModelConfig& config, const WeightForm& form) override;
  CalibrationStats observed_inputs(const WeightLayout& calibrated) override;
  double load_us() const override { return load_us_; }
  std::optional<int64_t> weights_bytes() const override;
  std::optional<WeightCount> weight_count() const override;

  /// suite_decoder: decoder_prefix(config, batch, tgt) without its last column fills the cache; the measured
  /// step appends the last column at position tgt (counted from 1) and so attends to tgt keys.
  std::unique_ptr<Workload> prepare(const Case& c, const TransformerBatch& batch) override;
  Output forced_logits(const TransformerBatch& batch, std::span<const int32_t> tokens, int steps) override;

  std::vector<std::vector<Sequence>> decode(const TransformerBatch& batch, const GenerationConfig& generation,
                                            std::span<const uint64_t> seeds = {}) override;

  /// suite_encoder: the same sequences packed in reverse order after another one. suite_decoder and
  /// suite_generate: decoding all positions at once without a K/V cache. Both ways sum each row in one order whatever
  /// stands around it, so that they agree bit for bit and no code of a quantised row turns.
  std::optional<CheckResult> self_check(const Case& c, const TransformerBatch& batch) override;

  bool take(Inputs inputs) override;

  /// suite_limits: stream and product of this CPU. suite_kernels: the reference's operations. suite_memory: host levels.
  OpWorkload prepare_op(const Case& c, const ModelConfig& config) override;

 protected:
  /// Where the case's dense values come from.
  virtual std::unique_ptr<WeightSource> source(const Case& c) const;

 private:
  const LoadedModel& loaded() const;

  const RankSeat* seat_;
  // Shared with the workloads, which outlive a second load.
  std::shared_ptr<LoadedModel> model_;
  Case loaded_case_;
  double load_us_ = 0;
  std::vector<char> first_ = std::vector<char>(static_cast<size_t>(planted_first_bytes()), 1);
};

}  // namespace tandem::reference
