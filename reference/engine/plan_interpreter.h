// Runs a StepPlan on the CPU with the reference's operations, in an arena laid out as the plan says. Memory
// that nobody wrote is poison, and so is scratch outside its lifetime: a plan that reads what is not there
// throws, one that lets two live buffers share memory gives a wrong result.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harness/engine/plan.h"
#include "reference/model/beam_search.h"
#include "reference/ops/attention.h"
#include "reference/ops/matrix.h"

namespace tandem::reference {

/// Throws Error naming the operation and what of it the interpreter does not compute: a buffer that is not f32, f16, bf16
/// or i32, a weight that is not f32, or an attribute (reference/engine/plan_known.cc).
void refuse_unknown(const StepPlan& plan, int op);

/// Values are stored in the types of the plan's buffers, so a bf16 plan rounds where the device rounds.
/// Weights that the plan's operations point to must be fp32 in host memory, whatever type activations have.
class PlanInterpreter {
 public:
  /// Keeps a reference to the plan. The arena is all poison.
  explicit PlanInterpreter(const StepPlan& plan);

  /// Fills a buffer by name (inputs and states) from its start.
  void set(std::string_view buffer, std::span<const int32_t> values);
  /// A buffer's integers.
  std::vector<int32_t> integers(std::string_view buffer) const;
  /// Those of a part of a buffer. Throws Error for what nobody wrote.
  std::vector<int32_t> read_ints(const PlanTensor& t) const;
  /// A buffer's values as fp32.
  std::vector<float> values(std::string_view buffer) const;

  /// Runs all operations of a section in order. Throws Error naming the operation and the buffer for poison
  /// it reads, and what refuse_unknown() throws.
  void run(PlanSection section);

  /// Logits of the last head, [batch, vocab], whether or not the plan stores them.
  const Matrix& logits() const { return logits_; }

 private:
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

  Matrix norm(const NormWeight& w, MatrixView x) const;
  RelativeBias bias(const RelativeBiasRef& ref, bool bidirectional) const;
  void append(const PlanTensor& rows, const PlanTensor& cache, const SelfAttentionOp& op, int position);
  Matrix gather(const PlanTensor& cache, const SelfAttentionOp& op, int keys) const;
  void choose(const Matrix& logits, const TokenState& state);
  Matrix with_bias(Matrix logits, const TensorView& bias) const;
  void advance(const BeamOp& op, int source, int position);
  void finish_step(const TokenState& state);
  bool finished(const PlanTensor& flags, int64_t row) const;

  std::string where() const;
  const PlanBuffer& buffer(const PlanTensor& t) const;
  [[noreturn]] void refuse_type(const PlanTensor& t, std::string_view allowed) const;
  std::byte* address(const PlanTensor& t, int64_t row, int64_t col);
  const std::byte* address(const PlanTensor& t, int64_t row, int64_t col) const;
  const std::byte* written(const PlanTensor& t, int64_t row, int64_t col) const;
  float read(const PlanTensor& t, int64_t row, int64_t col) const;
  void write(const PlanTensor& t, int64_t row, int64_t col, float value);
  int32_t read_int(const PlanTensor& t, int64_t row, int64_t col) const;
  void write_int(const PlanTensor& t, int64_t row, int64_t col, int32_t value);
  Matrix read(const PlanTensor& t) const;
  void write(const PlanTensor& t, MatrixView values);
  void poison(const PlanBuffer& buffer);

  const StepPlan& plan_;
  std::vector<std::byte> arena_;
  Matrix logits_;
  std::vector<BeamSearch> searches_;  // one a source
  int op_ = -1;                       // the operation that runs; -1: none
};

}  // namespace tandem::reference
