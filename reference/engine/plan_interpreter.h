// Runs a StepPlan on the CPU with the reference's operations, in an arena laid out as the plan says. Memory
// that nobody wrote is poison, and so is scratch outside its lifetime: a plan that reads what is not there
// throws, one that lets two live buffers share memory gives a wrong result.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "harness/base/random.h"
#include "harness/engine/plan.h"
#include "reference/model/beam_search.h"
#include "reference/ops/attention.h"
#include "reference/ops/matrix.h"

namespace tandem::reference {

/// Throws Error naming the operation and what of it the interpreter does not compute: a buffer or a weight of a type that it
/// does not know, or an attribute (reference/engine/plan_known.cc).
void refuse_unknown(const StepPlan& plan, int op);

/// Values are stored in the types of the plan's buffers, so a bf16 plan rounds where the device rounds.
/// Weights that the plan's operations point to are in host memory: fp32 whatever type activations have, or as they are stored.
class PlanInterpreter {
 public:
  /// Keeps a reference to the plan. The arena is all poison.
  explicit PlanInterpreter(const StepPlan& plan);

  /// From now on a value that lies between two of a 16-bit type is stored as either, the more likely the nearer it is: another
  /// outcome of the plan's roundings, as sums in another order have one. Each seed has its own.
  void round_by_chance(uint64_t seed) { chance_ = mix64(seed); }

  /// Fills a buffer by name (inputs and states) from its start.
  void set(std::string_view buffer, std::span<const int32_t> values);
  void set(std::string_view buffer, std::span<const float> values);
  /// A buffer's integers.
  std::vector<int32_t> integers(std::string_view buffer) const;
  /// Those of a part of a buffer. Throws Error for what nobody wrote.
  std::vector<int32_t> read_ints(const PlanTensor& t) const;
  /// A buffer's values as fp32.
  std::vector<float> values(std::string_view buffer) const;

  /// Runs all operations of a section in order. Throws Error naming the operation and the buffer for poison
  /// it reads, and what refuse_unknown() throws.
  void run(PlanSection section);

  /// Logits of the last head, [batch, vocab], whether or not the plan stores them; of a rank, those of its ids.
  const Matrix& logits() const { return logits_; }

 private:
  friend class RankInterpreters;
  /// What a rank brings to a CommOp, before any rank's memory changes.
  struct Part {
    Matrix values;
    std::vector<int32_t> integers;  // of a buffer of integers, instead
  };

  /// Around an operation: names it in errors, poisons scratch that begins or ends with it.
  void enter(int op);
  void leave();
  Part part(const CommOp& op) const;
  void meet(const CommOp& op, std::span<const Part> ranks);

  void apply(const EmbedOp& op);
  void apply(const NormOp& op);
  void apply(const DenseOp& op);
  void apply(const ActivationOp& op);
  void apply(const EncoderAttentionOp& op);
  void apply(const SelfAttentionOp& op);
  void apply(const CrossAttentionOp& op);
  void apply(const HeadOp& op);
  void apply(const SelectOp& op);
  void apply(const ChooseOp& op);
  void apply(const BeamOp& op);
  void apply(const QuantiseOp& op);
  void apply(const CommOp& op);
  void apply(const PickOp& op);
  void apply(const RowSumsOp& op);
  void apply(const CandidatesOp& op);

  /// x of a product: normalised, and quantised where its matrix asks for that.
  Matrix product_input(const PlanTensor& x, const PlanTensor& x_scales, const std::optional<NormWeight>& norm,
                       const PlanTensor& norm_out, const DenseWeight& w);
  /// Norms by statistics (DenseOp): what a product leaves, and what others make of it.
  void write_statistics(const DenseOp& op, const Matrix& y);
  struct RowStatistics {
    double mean = 0;
    double scale = 0;  ///< 1 / sqrt(variance + eps); of an RMS norm, of the mean square
  };
  RowStatistics row_statistics(const PlanTensor& stats, int64_t row) const;
  Matrix product_by_statistics(const DenseOp& op);
  Matrix norm_sums(const DenseOp& op);
  Matrix residual(const DenseOp& op) const;
  Matrix in_activation_type(Matrix x) const;
  void write_codes(const PlanTensor& codes, const PlanTensor& scales, MatrixView x, int64_t group);
  Matrix read_codes(const PlanTensor& codes, const PlanTensor& scales, int64_t group) const;
  /// Views in fp32 of weights that may be stored in another type.
  TensorView in_fp32(const TensorView& t) const;
  NormWeight in_fp32(const NormWeight& w) const;
  DenseWeight in_fp32(const DenseWeight& w) const;

  Matrix norm(const NormWeight& w, MatrixView x) const;
  RelativeBias bias(const RelativeBiasRef& ref, bool bidirectional) const;
  /// A cache of self-attention and the scales of its rows, empty unless it holds codes.
  struct Cache {
    const PlanTensor& rows;
    const PlanTensor& scales;
  };
  void append(const PlanTensor& rows, const Cache& cache, const SelfAttentionOp& op, int position);
  Matrix gather(const Cache& cache, const SelfAttentionOp& op, int keys) const;
  Matrix keys_values(const PlanTensor& rows, const PlanTensor& scales) const;
  /// The arg-max of logits: this rank's candidates, or the choice.
  void take_best(const Matrix& logits, const TokenState& state, const std::optional<RankBest>& best);
  void choose(const std::vector<int32_t>& best, const TokenState& state);
  void norm(const NormOp& op, const Matrix& x);
  Matrix with_bias(Matrix logits, const TensorView& bias) const;
  void advance(const BeamOp& op, int source, int position);
  /// A rank's candidate, as CandidatesOp leaves it.
  struct RankCandidate {
    float score = 0;
    int32_t id = -1;
    float logit = 0;
  };
  std::vector<RankCandidate> rank_candidates(const RankChoices& ranks, int64_t row) const;
  /// log(softmax) of logits of `row`, from the sums of all ranks.
  std::vector<float> log_softmax_of_ranks(const PlanTensor& sums, int64_t row,
                                          std::span<const float> logits) const;
  std::vector<int32_t> tokens_so_far(const PlanTensor& tokens, int64_t row, int position) const;
  void finish_step(const TokenState& state);
  bool finished(const PlanTensor& flags, int64_t row) const;

  std::string where() const;
  const PlanBuffer& buffer(const PlanTensor& t) const;
  [[noreturn]] void refuse_type(const PlanTensor& t, std::string_view allowed) const;
  std::byte* address(const PlanTensor& t, int64_t row, int64_t col);
  std::byte* mark(const PlanTensor& t, int64_t row, int64_t col);
  const std::byte* address(const PlanTensor& t, int64_t row, int64_t col) const;
  const std::byte* written(const PlanTensor& t, int64_t row, int64_t col) const;
  float read(const PlanTensor& t, int64_t row, int64_t col) const;
  void write(const PlanTensor& t, int64_t row, int64_t col, float value);
  int32_t read_int(const PlanTensor& t, int64_t row, int64_t col) const;
  void write_int(const PlanTensor& t, int64_t row, int64_t col, int32_t value);
  Matrix read(const PlanTensor& t) const;
  void write(const PlanTensor& t, MatrixView values);
  uint16_t to_16_bits(DType dtype, float v);
  uint32_t read_bits(const PlanTensor& t, int64_t row, int64_t col) const;
  void write_bits(const PlanTensor& t, int64_t row, int64_t col, uint32_t bits);
  void poison(const PlanBuffer& buffer);

  const StepPlan& plan_;
  std::vector<std::byte> arena_;
  std::vector<bool> written_;  // byte by byte: no value of 8 bits can be the poison
  mutable std::map<std::pair<const void*, int64_t>, Matrix> stored_;  // by address and rows: see in_fp32
  Matrix logits_;
  std::vector<BeamSearch> searches_;     // one a source
  int op_ = -1;                          // the operation that runs; -1: none
  std::optional<uint64_t> chance_ = {};  // the stream of round_by_chance()
  uint64_t roundings_ = 0;
};

}  // namespace tandem::reference
