// The interface of everything that can compute a case: the CUDA engine, the reference, a peer. harness/driver/PROTOCOL.md.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "harness/cost/cost.h"
#include "harness/engine/traits.h"
#include "harness/model/batch.h"
#include "harness/model/config.h"
#include "harness/model/generation.h"
#include "harness/sweep/case.h"
#include "harness/sweep/case_batch.h"
#include "harness/weights/calibration/scales.h"
#include "harness/weights/form.h"
#include "harness/weights/pruning/prune.h"

namespace tandem {

/// What an engine computed, in fp32 whatever the precision of the case.
struct Output {
  /// suite_encoder: the encoder's output, packed [tokens, d_model]. suite_decoder: logits of the step [batch, vocab].
  /// suite_generate: empty, or (forced) logits of every step [tgt * batch, vocab], step-major.
  std::vector<float> values;
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<int32_t>
      tokens;  ///< generated ids [batch, tgt]; suite_decoder: the arg-max of each row [batch, 1]
};

/// A decoded sequence.
struct Sequence {
  std::vector<int32_t> tokens;  ///< the decoder's start not included; the eos that ended it is
  /// Greedy and sampling: the sum of the tokens' log-probabilities under the model. Beams: that of processed ones over
  /// (length)^length_penalty.
  double score = 0;
};

/// Times of one repetition, from the engine's own clock (CUDA events, or a steady clock on a CPU).
struct Repetition {
  double total_us = 0;            ///< the case's sample
  std::optional<double> step_us;  ///< suite_generate: (last token - first decoder launch) / tgt
  std::optional<double>
      first_token_us;  ///< suite_generate: from the encoder's first launch to the first token
  /// Of total_us: the time in which this rank exchanged something with others, or waited for them. Absent where the engine
  /// does not know, and of an engine that is alone.
  std::optional<double> wait_us = {};
};

/// One case, prepared: memory held, inputs in place, graphs built.
class Workload {
 public:
  virtual ~Workload() = default;
  /// Computes the case once and times it. Every repetition starts from the same state and computes the same output.
  virtual Repetition repeat() = 0;
  /// The same work by plain launches, without graphs, for profiles; absent where the engine has no such way. A call that is
  /// answered so has computed nothing.
  virtual std::optional<Repetition> repeat_eager() { return std::nullopt; }
  /// One more generation with a mark after every step: the tgt - 1 times from token to token. Empty for everything else. A
  /// pass of its own, because the marks keep neighbouring steps apart.
  virtual std::vector<float> inter_token_us() { return {}; }
  /// Mean SM clock in MHz since the last call, from the device's own counters (clock64 over %globaltimer); absent on the
  /// first call and where the engine cannot read them. Called between blocks of samples, never inside a repetition.
  virtual std::optional<double> mark_clock() { return std::nullopt; }
  /// Every repetition from now on does `amount` more work of the kind that the case does, in units of the engine's own; 0: none.
  /// For slow-downs of known size (harness/run/sampling/plant.h). False where the engine adds no work to such a case.
  virtual bool plant(double /*amount*/) { return false; }
  /// What the last repetition computed. Throws Error when there was none.
  virtual Output output() = 0;
  /// Most bytes of device memory (of host memory for a CPU engine) held since the engine was loaded.
  virtual int64_t peak_bytes() const = 0;
  /// What the plan predicted for it, when the engine plans.
  virtual std::optional<int64_t> planned_bytes() const { return std::nullopt; }
  /// Which kernels compute the case, a line each that all layers share: "decoder ffn.down: own". Empty where the engine does not say.
  virtual std::vector<std::string> kernels() const { return {}; }
  /// Which kernels multiply with matrices that masks have removed weights from, a line each: "decoder self.out: own, 2:4", and why
  /// the removed ones are stored as zeros where they are. Empty where there are none, or the engine does not say.
  virtual std::vector<std::string> sparse_kernels() const { return {}; }
  /// How ranks that share a model sum: which way by size, or why one is left to a library. Absent where the engine does not say.
  virtual std::optional<std::string> exchange() const { return std::nullopt; }
  /// Time to build the graphs of this case, when it has any.
  virtual std::optional<double> graph_build_us() const { return std::nullopt; }
};

/// Outcome of comparing an output with what it should be.
struct CheckResult {
  std::string reference;  ///< what it was compared with
  double error = 0;       ///< relative L2
  double tolerance = 0;
  std::string where;                              ///< the worst element, when the error is over the tolerance
  bool ok() const { return error <= tolerance; }  // false for NaN
};

/// How a case of suite_kernels, suite_collectives, suite_memory or suite_limits is measured: such cases have no model pass, only an
/// operation with bytes and flops of its own.
struct OpWorkload {
  std::unique_ptr<Workload> workload;
  double bytes_read = 0;
  double bytes_written = 0;
  double flops = 0;
  /// Of a collective: into a rank's device from the others', at the least. They alone are its floor, because a message may lie in
  /// a cache.
  double link_bytes = 0;
  ComputeUnit unit = ComputeUnit::kProduct;  ///< of the flops
  /// Of the matrix of a product, elements that are stored over all; absent of other operations.
  std::optional<double> fraction_kept = {};
  /// Checks the output of the last repetition against a plain second computation (sums, sampled products, bytes read back).
  std::function<CheckResult()> check;
};

/// How a case of suite_generate chooses its tgt tokens: by its `decode`, ended by eos only where it stops there.
GenerationConfig case_generation(const Case& c, const ModelConfig& config);

/// How activations go into products, and keys and values into their cache.
enum class Inputs : uint8_t {
  kOwn,          ///< as the case has it
  kRounded,      ///< the same, rounded to bf16 first: what an engine with activations of bf16 cannot but do
  kUnquantised,  ///< as they are
};

class Engine {
 public:
  virtual ~Engine() = default;
  virtual std::string_view name() const = 0;
  virtual EngineTraits traits() const { return engine_traits(name()); }

  /// Throws ImpossibleCase, naming the field, for a case that this engine cannot compute (a precision, a sparsity), and
  /// OutOfMemory for one of which it can tell that it is too large. Called before anything is allocated; must be cheap.
  virtual void check_supported(const Case& c) const = 0;

  /// The cases that this process will prepare, in any order: an engine that lays out memory for all of them at once makes the
  /// place of a case independent of the cases before it.
  virtual void expect(const std::vector<Case>& /*cases*/) {}

  /// Loads the weights that all cases of `c`'s group share. Throws OutOfMemory. Called again, replaces what was loaded.
  /// `config` is the model (a witness is smaller than c.model); `c` fixes weights, precision, kv, sparsity, tp. The values
  /// are those of `form`: weight_form(c) itself, or another case's form when this engine computes the fp32 truth for it,
  /// which quantises no activations.
  /// Throws ImpossibleCase for a form that it cannot hold, before anything is allocated.
  virtual void load(const Case& c, const ModelConfig& config, const WeightForm& form) = 0;
  /// Channels' scales for loads of the calibrated form that they are of; null before any was given. load_case()
  /// (calibration.h) chooses them; an engine that is given another's holds the same values.
  const std::shared_ptr<const ChannelScales>& scales() const { return scales_; }
  void use_scales(std::shared_ptr<const ChannelScales> scales) { scales_ = std::move(scales); }
  /// The inputs of the products of the loaded model, which is dense and in fp32, on calibration_batch(). `calibrated`: the
  /// layout of the form that scales are wanted for. Throws ImpossibleCase where the engine cannot see them.
  virtual CalibrationStats observed_inputs(const WeightLayout& calibrated);
  /// Wall time of the last load.
  virtual double load_us() const = 0;
  /// Bytes of the loaded weights as they are stored, scales and metadata included; absent where nothing is loaded or the
  /// engine cannot say.
  virtual std::optional<int64_t> weights_bytes() const { return std::nullopt; }

  /// What pruning left of the loaded model; absent where nothing is loaded or the engine cannot say.
  virtual std::optional<WeightCount> weight_count() const { return std::nullopt; }

  /// Prepares a case of the loaded group on the given source batch. suite_decoder: the self-attention cache holds the
  /// keys and values of decoder_prefix(...) and the step appends position tgt.
  virtual std::unique_ptr<Workload> prepare(const Case& c, const TransformerBatch& batch) = 0;

  /// Teacher-forced logits [steps * batch, vocab], step-major: step t is fed tokens[b, t] (tokens[b, 0] being the decoder's
  /// start) and attends to all steps before it. `tokens` is [batch, steps].
  virtual Output forced_logits(const TransformerBatch& batch, std::span<const int32_t> tokens, int steps) = 0;

  /// The n_best sequences of every source of the loaded group, best first (samples in the order drawn), with `kernel` and
  /// `memory` of the case it was loaded with. Sampling: `seeds` has one a source; without, it is generation.seed plus the
  /// source's place. Throws ImpossibleCase for rules that this engine cannot follow, UsageError for
  /// rules that do not fit the model.
  virtual std::vector<std::vector<Sequence>> decode(const TransformerBatch& batch,
                                                    const GenerationConfig& generation,
                                                    std::span<const uint64_t> seeds = {});

  /// A check by a second way of the loaded group, for an engine that has one and is itself the reference.
  virtual std::optional<CheckResult> self_check(const Case&, const TransformerBatch&) { return std::nullopt; }

  /// Nothing that is prepared from now on will be timed, until this is taken back: an engine need not look for its fastest
  /// kernels, and keeps no choice that a timed worker would find.
  virtual void untimed(bool /*on*/) {}

  /// From now on the loaded model takes its inputs so. Says whether this engine can, which only the reference must.
  virtual bool take(Inputs) { return false; }

  /// Prepares an operation of suite_kernels, suite_memory or suite_limits.
  virtual OpWorkload prepare_op(const Case& c, const ModelConfig& config) = 0;

  /// What identifies the choices this engine made (GEMM algorithms): SHA-256 of the choice file, or empty.
  virtual std::string choices_sha256() const { return {}; }

 private:
  std::shared_ptr<const ChannelScales> scales_;
};

/// The ids that fill positions 0 .. steps-1 of the decoder before the step that suite_decoder measures: column 0 is the
/// decoder's start id, the rest come from the seed. [batch, steps].
std::vector<int32_t> decoder_prefix(const ModelConfig& config, int batch, int steps, uint64_t seed);

}  // namespace tandem
