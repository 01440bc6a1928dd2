// A pass over the model as data: which operations run in which order on which buffers, before anything is
// allocated or launched. An engine builds it, predicts its memory from it and executes it; on a machine
// without a GPU the plan interpreter (reference/engine) runs it with the reference's operations and so checks
// order, aliasing and shapes.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "harness/base/phase.h"
#include "harness/base/precision.h"
#include "harness/base/tensor.h"
#include "harness/model/config.h"
#include "harness/model/generation.h"
#include "harness/weights/weights.h"

namespace tandem {

/// What a buffer holds and for how long.
enum class BufferRole : uint8_t {
  kScratch,  ///< activations: written before read within one run, shares memory outside its lifetime
  kState,    ///< lives through the whole plan and between runs: caches, counters, results
  kInput,    ///< as kState, and filled from outside before the first run
};

struct PlanBuffer {
  std::string name;  ///< unique, "decoder/3/self.qkv"
  DType dtype = DType::kF32;
  int64_t elements = 0;
  BufferRole role = BufferRole::kScratch;
  int first_op = -1;  ///< first and last operation that touches it; -1: none does
  int last_op = -1;
  int64_t offset_bytes = 0;  ///< in the arena, a multiple of kPlanAlignment

  int64_t bytes() const { return tensor_bytes(dtype, elements); }
};
inline constexpr int64_t kPlanAlignment = 256;
/// Rows of logits begin at multiples of so many elements.
inline constexpr int64_t kPlanRowElements = 8;

/// A matrix in a buffer: element (r, c) is element offset + r * stride + c of the buffer.
struct PlanTensor {
  int buffer = -1;  ///< index into StepPlan::buffers; -1: not there
  int64_t offset = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  bool empty() const { return buffer < 0; }
  /// Rows [first, first + count).
  PlanTensor some_rows(int64_t first, int64_t count) const {
    return {
        .buffer = buffer, .offset = offset + first * stride, .rows = count, .cols = cols, .stride = stride};
  }
  /// Columns [first, first + count) of the same rows.
  PlanTensor columns(int64_t first, int64_t count) const {
    return {.buffer = buffer, .offset = offset + first, .rows = rows, .cols = count, .stride = stride};
  }
};

// Products of fp8 and int8 multiply rows that are quantised, one scale a row (DenseWeight::input_dtype). An own product of one
// row does that itself; any other takes codes with their scales (`codes` of a norm, or QuantiseOp).

/// Who computes a dense product.
enum class DenseKernel : uint8_t {
  kSkinny,      ///< own kernel for a few rows: norm prologue, any epilogue
  kLibrary,     ///< cuBLASLt: bias, then a residual or relu or gelu_tanh
  kStructured,  ///< cuSPARSELt, a 2:4 matrix: bias, then a residual or relu
  kTiled,       ///< own kernel for many rows: bias, any activation, gate or residual
};

/// x[t] = embedding_scale * table[ids[t]] + position; zeros for an id of another rank's rows. Where the tokens stand in their sequences is told by
/// `offsets` (encoder) or by the counter `position` (one token a sequence).
struct EmbedOp {
  PlanTensor ids = {};        ///< i32 [1, tokens]
  PlanTensor offsets = {};    ///< i32 [1, batch + 1]; encoder
  PlanTensor position = {};   ///< i32 [1, 1]; decoder
  PlanTensor sinusoids = {};  ///< f32 [rows, d_model]; sinusoidal positions
  PlanTensor x = {};          ///< [tokens, d_model]
  TensorView table = {};      ///< [ids of this rank, d_model]
  int64_t first_id = 0;       ///< of the table's rows
  TensorView learned = {};    ///< [position_offset + max_positions, d_model]; learned positions
};

/// y = norm(x + residual), the sum unrounded. `sum` receives x + residual, rounded to the type of its buffer: what a
/// later sublayer adds as its residual.
struct NormOp {
  PlanTensor x = {};         ///< [rows, d_model]
  PlanTensor residual = {};  ///< [rows, d_model] or empty
  PlanTensor sum = {};       ///< [rows, d_model] or empty; may be the place of x or residual, never of y
  PlanTensor y = {};         ///< [rows, d_model] or, with codes, empty; may be the place of x or residual
  PlanTensor codes = {};     ///< f8 or i8 [rows, d_model], or empty: of y in the type of activations
  PlanTensor scales = {};    ///< of the codes
  NormWeight weight = {};
};

/// Neighbouring columns of a row that share a pair of statistics.
inline constexpr int64_t kPlanStatsColumns = 64;

/// y = act(scale * norm(x) W^T + b) + residual; gated: y = act(gate) * up with the halves of W and b.
///
/// A norm by statistics is one that no operation makes: the product before it leaves y o gamma and, of each kPlanStatsColumns columns of
/// a row of y, the mean and the sum of squared differences from it (RMS norm: 0 and the sum of squares), all of y before it is
/// rounded. With them norm(y) W^T = rstd * ((y o gamma) W^T - mean * W gamma) + W beta is a matter of the next product's epilogue.
struct DenseOp {
  PlanTensor x = {};         ///< [rows, in]
  PlanTensor residual = {};  ///< [rows, out] or empty
  PlanTensor y = {};         ///< [rows, out]
  PlanTensor norm_out = {};  ///< [rows, in] or empty: norm(x), for a later residual
  PlanTensor x_scales = {};  ///< f32 [1, rows] or empty: x holds codes
  /// Library: what its way to the product needs. i32 [rows, width of weight]: the sums of codes of 8-bit integers. In the
  /// type of activations, as weight: the matrix, where it is stored in another type than x has.
  PlanTensor scratch = {};
  DenseWeight weight = {};  ///< [out, in]; gated: [2 out, in]
  std::optional<NormWeight> norm = {};
  std::optional<Activation> activation = {};
  bool gated = false;
  double scale = 1;
  DenseKernel kernel = DenseKernel::kLibrary;

  PlanTensor scaled = {};                     ///< [rows, out] or empty: y o gamma of `stats_norm`
  PlanTensor stats = {};                      ///< f32 [out / kPlanStatsColumns, 2 * rows]: goes with `scaled`
  std::optional<NormWeight> stats_norm = {};  ///< the norm of y that others will apply
  PlanTensor x_stats = {};  ///< as `stats`, or empty: x is `scaled`, and `norm` is applied by these
  PlanTensor norm_sums =
      {};  ///< f32 [2, rows of weight]: W gamma, W beta; of a layer norm, may be empty without `x_stats`
  PlanTensor residual_stats = {};  ///< as `stats`, or empty: what is added is `residual_norm` of the residual
  std::optional<NormWeight> residual_norm = {};

  bool uses_statistics() const {
    return !stats.empty() || !scaled.empty() || !x_stats.empty() || !norm_sums.empty() ||
           !residual_stats.empty() || stats_norm || residual_norm;
  }
};
/// What of a product's statistics does not go together in a model of such norms; empty: all does.
std::string_view statistics_problem(const DenseOp& op, Norm norm);

/// Bias and activation that a product's epilogue cannot do; gated: x [rows, 2 cols], gate then up.
struct ActivationOp {
  PlanTensor x = {};
  PlanTensor y = {};     ///< [rows, cols]; may be x when plain
  TensorView bias = {};  ///< as wide as x; may be empty
  Activation activation = Activation::kRelu;
  bool gated = false;
};

/// T5's bias of a self-attention: by distance as the kernels read it, and the table that it was made of.
struct RelativeBiasRef {
  PlanTensor distance_bias = {};  ///< f32 [heads, 2 * relative_max_distance + 1]; empty: no bias
  TensorView table = {};          ///< [relative_buckets, heads]
};

struct EncoderAttentionOp {
  PlanTensor q = {}, k = {}, v = {};  ///< [tokens, heads * head_dim]
  PlanTensor out = {};                ///< [tokens, heads * head_dim]
  PlanTensor offsets = {};            ///< i32 [1, batch + 1]
  RelativeBiasRef bias = {};
  int heads = 0;
  int max_source = 0;  ///< at least the longest source
};

/// One query a sequence. Writes row *position of the caches, reads rows 0 .. *position.
struct SelfAttentionOp {
  PlanTensor q = {}, k = {}, v = {};  ///< [batch, heads * head_dim]
  PlanTensor k_cache = {},
             v_cache = {};  ///< [batch * heads * capacity, head_dim]: (sequence, head, position)
  PlanTensor k_scales = {},
             v_scales = {};  ///< f32 [batch * heads * capacity, 1] of caches in 8 bits, else empty
  PlanTensor out = {};       ///< [batch, heads * head_dim]
  PlanTensor position = {};  ///< i32 [1, 1]
  PlanTensor finished = {};  ///< i32 [1, batch], 0 or 1, or empty
  PlanTensor ancestry = {};  ///< i32 [batch, capacity] or empty: the row whose cache holds an earlier token
  RelativeBiasRef bias = {};
  int heads = 0;
  int capacity = 0;
};

/// One query a row against the keys and values of its source; a source's rows follow each other.
struct CrossAttentionOp {
  PlanTensor q = {};                        ///< [sources * rows a source, heads * head_dim]
  PlanTensor k = {}, v = {};                ///< [source tokens, heads * head_dim]
  PlanTensor k_scales = {}, v_scales = {};  ///< f32 [heads, source tokens] of k and v in 8 bits, else empty
  PlanTensor offsets = {};                  ///< i32 [1, sources + 1]
  PlanTensor out = {};                      ///< as q
  PlanTensor finished = {};                 ///< i32 [1, rows], 0 or 1, or empty
  int heads = 0;
  int max_source = 0;
};

/// What choosing a token leaves behind: the id for the next step, the id in the result, the counters.
struct TokenState {
  PlanTensor next_ids = {};  ///< i32 [1, batch]
  PlanTensor tokens = {};    ///< i32 [batch, columns]; column *position is written
  PlanTensor position = {};  ///< i32 [1, 1]; increased by one
  PlanTensor finished = {};  ///< i32 [1, batch], 0 or 1; empty unless sequences end at eos
  PlanTensor running = {};   ///< i32 [1, 1]: sequences that have not ended; empty unless sequences end at eos
};

/// A rank's candidates for the next token where the vocabulary is split: the bits of an fp32 score above, an id below.
struct RankBest {
  PlanTensor candidates = {};  ///< i32 [2, rows]
  int64_t first_id = 0;        ///< of the logits
  PlanTensor ids() const { return candidates.some_rows(1, 1); }
};

/// Logits and arg-max in one kernel; the logits are not stored.
struct HeadOp {
  PlanTensor x = {};         ///< [batch, d_model]
  PlanTensor x_scales = {};  ///< as in DenseOp
  std::optional<NormWeight> norm = {};
  DenseWeight weight = {};  ///< [vocab, d_model]
  double scale = 1;
  TokenState state = {};
  std::optional<RankBest> best = {};  ///< instead of `state`
};

/// Bias and arg-max over stored logits, which stay without the bias.
struct SelectOp {
  PlanTensor logits = {};  ///< f32 [batch, vocab]
  TensorView bias = {};    ///< [vocab] or empty
  TokenState state = {};
  std::optional<RankBest> best = {};  ///< instead of `state`
};

/// The best of all ranks' candidates, of equal scores the lowest id.
struct PickOp {
  PlanTensor candidates = {};  ///< i32 [2 * degree, rows]: RankBest::candidates of rank 0, 1, ...
  TokenState state = {};
};

/// What ranks that split the vocabulary exchange to choose by the plan's GenerationConfig, logits staying where they are.
struct RankChoices {
  PlanTensor sums =
      {};  ///< f32 [degree * rows, 2]: a rank's largest logit of a row, and the sum of exp(logit - largest)
  PlanTensor candidates = {};  ///< i32 [degree * rows, 3 * n]: a row's n best of a rank, see CandidatesOp
};

/// The first of RankChoices.
struct RowSumsOp {
  PlanTensor logits = {};  ///< f32 [rows, ids of this rank]
  TensorView bias = {};    ///< as wide, or empty
  PlanTensor sums = {};    ///< f32 [rows, 2]
};

/// The second: the n best of this rank's ids after the rules, best first and of equal scores the lowest id first. Each is the
/// bits of an fp32 score (a beam's with the beam's own), an id, and the bits of the logit; id -1: there are no more.
struct CandidatesOp {
  PlanTensor logits = {};  ///< f32 [rows, ids of this rank]
  TensorView bias = {};    ///< as wide, or empty
  PlanTensor sums = {};    ///< f32 [degree * rows, 2] of all ranks
  int64_t first_id = 0;    ///< of the logits
  PlanTensor rules = {};   ///< as ChooseOp
  PlanTensor tokens = {};  ///< as TokenState, and so the next two
  PlanTensor position = {};
  PlanTensor finished = {};
  PlanTensor running_scores = {};  ///< f32 [1, rows] when beams search, else empty
  PlanTensor candidates = {};      ///< i32 [rows, 3 * n]
};

/// The next token of each row by the plan's GenerationConfig: the likeliest or a draw.
struct ChooseOp {
  PlanTensor logits = {};             ///< f32 [rows, vocab], or empty where ranks split it
  RankChoices ranks = {};             ///< then instead; sampling: as many candidates as top_k
  TensorView bias = {};               ///< [vocab] or empty
  TokenState state = {};              ///< tokens: what the rules look at
  PlanTensor rules = {};              ///< i32 [1, n]: the configuration's lists, as the kernels want them
  PlanTensor keys = {};               ///< i32 [1, 2 * rows]: 64 bits a row, or empty unless sampling
  PlanTensor log_probabilities = {};  ///< f32 [rows, columns] of the chosen ids under the model
};

/// One step of beam search by the plan's GenerationConfig; a source's beams are rows that follow each other.
struct BeamOp {
  PlanTensor logits = {};  ///< f32 [rows, vocab], or empty where ranks split it
  RankChoices ranks = {};  ///< then instead; as many candidates as a source keeps continuations
  TensorView bias = {};    ///< [vocab] or empty
  TokenState state = {};   ///< tokens: of the running beams
  PlanTensor rules = {};   ///< as ChooseOp
  PlanTensor best = {};    ///< i32 [rows, 2 * kept]: continuations, a score and an id each; empty with ranks
  PlanTensor running_scores = {};  ///< f32 [1, rows]
  PlanTensor ancestry = {};        ///< i32 [rows, columns], see SelfAttentionOp
  PlanTensor hypotheses = {};      ///< i32 [rows, columns]: finished sequences of a source, by slot
  PlanTensor lengths = {};         ///< i32 [1, rows]: of them, by slot; 0: none yet
  PlanTensor slots = {};           ///< i32 [1, rows]: slot of a source's best, second, ...
  PlanTensor scores = {};          ///< f32 [1, rows]: of a source's best, second, ...
};

/// Codes and scales of rows: `group` neighbours of a row share a scale.
struct QuantiseOp {
  PlanTensor x = {};       ///< [rows, cols]
  PlanTensor codes = {};   ///< f8 or i8 [rows, cols]
  PlanTensor scales = {};  ///< f32 [cols / group, rows]
  int64_t group = 0;
};

/// What the ranks of a plan's slice do together.
enum class CommKind : uint8_t {
  kAllReduce,  ///< y: the sum of all ranks' x, in fp32 and in the order of ranks
  kAllGather,  ///< y: all ranks' x, one below the other in the order of ranks
};

/// Every rank waits here until all have come: the plans of all ranks have the same operations and places of buffers.
/// A norm of the sum is part of the operation, so that one kernel can do both; who has no such kernel sums in the place of x,
/// which nobody of this rank reads afterwards, and runs the norm. Operations that follow may use the memory of x again: a
/// kernel that reads the x of other ranks in place must not end before they have read this one's.
struct CommOp {
  CommKind kind = CommKind::kAllReduce;
  PlanTensor x = {};  ///< [rows, cols], this rank's
  PlanTensor y = {};  ///< as x, and may be its place, or empty with a norm; all-gather: [degree * rows, cols]
  std::optional<NormOp> norm =
      {};  ///< all-reduce: of the sum, rounded to the type of x or not, which its x, the place of x, stands for
};

struct PlanOp {
  Phase phase;
  std::variant<EmbedOp, NormOp, DenseOp, ActivationOp, EncoderAttentionOp, SelfAttentionOp, CrossAttentionOp,
               HeadOp, SelectOp, ChooseOp, BeamOp, QuantiseOp, CommOp, PickOp, RowSumsOp, CandidatesOp>
      body;
};
/// "embed", "norm", "dense", ...
std::string_view op_name(const PlanOp& op);

/// A weight that an operation reads, by the name of its part: "weight", "bias", "norm.gamma", ...
struct PlanWeight {
  std::string_view name;
  TensorView tensor;
};
/// Those that are there.
std::vector<PlanWeight> weights_of(const PlanOp& op);

/// How an operation uses a tensor.
struct PlanAccess {
  PlanTensor tensor = {};
  bool write = false;
  bool update = false;  ///< reads what was there, or writes a part only: the buffer must be kState or kInput
};
std::vector<PlanAccess> accesses(const PlanOp& op);

/// Runs of operations that are executed together. The encoder and the cross-attention's keys and values come
/// once, the step as often as tokens are generated.
enum class PlanSection : uint8_t { kEncoder, kCrossKv, kStep };
inline constexpr int kPlanSections = 3;
std::string_view section_name(PlanSection section);  // encoder cross_kv step

struct OpRange {
  int first = 0;
  int last = 0;  ///< one past the last operation
  bool contains(int op) const { return op >= first && op < last; }
};

struct StepPlan {
  ModelConfig config;  ///< with a slice: the heads and d_ff of a rank
  TensorSlice slice;   ///< whose plan it is
  Precision precision = Precision::kFp32;
  int batch = 0;
  int64_t source_tokens = 0;
  int max_source = 0;
  int capacity = 0;                            ///< tokens a sequence can get; 0: a plan of the encoder alone
  int rows_per_source = 1;                     ///< of the decoder: beams, or samples
  std::optional<GenerationConfig> generation;  ///< how tokens are chosen; none: greedily by the bare logits

  std::vector<PlanBuffer> buffers;
  std::vector<PlanOp> ops;
  std::array<OpRange, kPlanSections> sections;
  int64_t arena_bytes = 0;

  const OpRange& section(PlanSection s) const { return sections[static_cast<size_t>(s)]; }
  bool has(std::string_view buffer) const;
  /// Throws Error for a name that the plan does not have.
  int find(std::string_view buffer) const;
  const PlanBuffer& buffer(std::string_view name) const { return buffers[find(name)]; }
};

/// "operation 17 (dense, decoder/0/self.qkv)", for messages.
std::string op_text(const StepPlan& plan, int op);

/// Which kernels compute the plan, a line each that all layers share: "decoder ffn.down: own", "encoder self.qkv: library". Norms have
/// one where products apply them by statistics: "decoder norm: by statistics".
std::vector<std::string> kernel_lines(const StepPlan& plan);
/// Of a plan of masked weights, how each product of layers has its matrix, a line each: "decoder self.out: own, 2:4".
std::vector<std::string> sparse_kernels(const StepPlan& plan);

/// Buffers that an executor fills or reads by name.
namespace plan_names {
inline constexpr std::string_view kSourceIds = "source.ids";          // i32 [tokens]
inline constexpr std::string_view kSourceOffsets = "source.offsets";  // i32 [batch + 1]
inline constexpr std::string_view kSinusoids = "sinusoids";           // f32 [rows, d_model]
inline constexpr std::string_view kEncoderBias = "encoder.distance_bias";
inline constexpr std::string_view kDecoderBias = "decoder.distance_bias";
inline constexpr std::string_view kEncoderOutput = "encoder.output";  // [tokens, d_model]
inline constexpr std::string_view kCrossKv =
    "decoder/cross.kv";                                    // [tokens, layers * 2 * inner], of all layers
inline constexpr std::string_view kNextIds = "next.ids";   // i32 [batch]
inline constexpr std::string_view kTokens = "tokens";      // i32 [batch, columns]
inline constexpr std::string_view kPosition = "position";  // i32 [1]
inline constexpr std::string_view kFinished = "finished";  // i32 [batch]
inline constexpr std::string_view kRunning = "running";    // i32 [1]
// With a GenerationConfig:
inline constexpr std::string_view kRules = "rules";                         // i32
inline constexpr std::string_view kKeys = "sample.keys";                    // i32 [2 * rows]
inline constexpr std::string_view kLogProbabilities = "log_probabilities";  // f32 [rows, columns]
inline constexpr std::string_view kHypotheses = "beam.hypotheses";          // i32 [rows, columns]
inline constexpr std::string_view kLengths = "beam.lengths";                // i32 [rows]
inline constexpr std::string_view kSlots = "beam.slots";                    // i32 [rows]
inline constexpr std::string_view kScores = "beam.scores";                  // f32 [rows]
inline constexpr std::string_view kAncestry = "beam.ancestry";              // i32 [rows, columns]
inline constexpr std::string_view kRunningScores = "beam.running_scores";   // f32 [rows]
inline constexpr std::string_view kLogits =
    "logits";  // f32 [batch, vocab], where the head is the library's; scratch
}  // namespace plan_names

/// Fills first_op and last_op from what the operations touch.
void find_lifetimes(StepPlan& plan);
/// Gives every buffer its place: states and inputs one after the other, then scratch by greedy best fit,
/// largest first, over lifetimes. Sets arena_bytes.
void place_buffers(StepPlan& plan);
/// Throws Error naming operation and buffer when a tensor leaves its buffer, an operation reads scratch that
/// none wrote before or writes what it reads, a lifetime is wrong, scratch outlives a section into the
/// repeated step, or two buffers that live together share memory.
void check_plan(const StepPlan& plan);
/// One line an operation and one a buffer, for people.
std::string plan_text(const StepPlan& plan);

}  // namespace tandem
