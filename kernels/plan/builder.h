// Puts a StepPlan together: the vocabulary in which encoder.cc and decoder.cc write the model down.
// Chooses, for each product, who computes it and whether the norm in front of it is part of the same kernel.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "harness/engine/plan.h"
#include "harness/parallel/parallel.h"
#include "kernels/skinny/skinny_shape.h"

namespace tandem::kernels {

/// The `kernel` axis.
enum class KernelChoice : uint8_t {
  kAuto,  ///< own kernels for products of few rows, the library for the rest; a step in the form that a race found
  kOwn,      ///< own kernels wherever there is one
  kLibrary,  ///< every product by the library
};
/// Throws UsageError naming the allowed ones.
KernelChoice parse_kernel(std::string_view text);

/// `auto` gives products of weights in the type of activations to the own kernels up to this many rows; from there on the
/// library's are faster at the models' shapes (kernels/LOG.md, "Skinny products").
inline constexpr int kAutoOwnRows = 16;
/// The same where the products run on warpgroup tensor cores: 16-bit types on sm_90a.
inline constexpr int kAutoWideRows = 64;

/// From this many rows on the norms between own products of a step's bf16 layers are applied by statistics (DenseOp), in models of this
/// width and more: a norm kernel is a link of the chain. At 8 rows transformer-big's step took 235 us so and 218 with norm kernels, at
/// 64 rows narrower models' took 2 and 4 % more (kernels/LOG.md).
inline constexpr int kStatisticsRows = 17;
inline constexpr int kStatisticsWidth = 1024;

/// Is a matrix of this type stored as codes?
constexpr bool coded(DType dtype) {
  return dtype == DType::kF8 || dtype == DType::kI8 || dtype == DType::kI4;
}

/// From this many rows on `auto` gives a product to the own tiled kernel where the library would leave its activation to a pass
/// of its own; the least that was timed (kernels/LOG.md, "Tiled products"). Gated products were not.
inline constexpr int64_t kAutoTiledRows = 8192;

/// What is to be planned.
struct PlanRequest {
  ModelConfig config;
  ModelWeights weights;  ///< views only; nothing is read through them
  Precision precision = Precision::kBf16;
  KvType kv = KvType::kSame;
  KernelChoice kernel = KernelChoice::kAuto;
  int batch = 1;
  int64_t source_tokens = 0;  ///< packed, the sum of the source lengths
  int max_source = 0;         ///< longest source
  int capacity = 0;           ///< tokens a sequence can get; 0: the encoder alone
  bool stop_at_eos = false;
  int auto_own_rows = kAutoOwnRows;  ///< what KernelChoice::kAuto gives to the own kernels
  bool structured =
      false;           ///< 2:4 products that the own kernels do not take go to cuSPARSELt, not to cuBLASLt
  bool tiled = false;  ///< the card has the own kernel for many rows: sm_90a
  int64_t auto_tiled_rows = kAutoTiledRows;
  /// The rank whose plan this is: `config` is the whole model, `weights` this rank's. The embeddings and the products that end
  /// a sublayer are parts, which a CommOp sums over the ranks before anything else is done with them: the norm that follows
  /// adds the residual, and biases are rank 0's. A slice of degree 1 has all of that too.
  std::optional<TensorSlice> slice = {};
  /// How tokens are chosen; none: greedily by the bare logits. Needs capacity = max_length - 1.
  std::optional<GenerationConfig> generation = {};
  /// May norms between own products of a step be applied by statistics, where the products have them?
  bool norms_by_statistics = true;
  int statistics_width = kStatisticsWidth;  ///< d_model from which on they are
  /// Products of the step that kAuto leaves to the library, at any number of rows. What a race in the step found (step_forms.h).
  std::vector<PhaseKind> step_form = {};

  /// Rows of the decoder that each source has: beams, or samples.
  int rows_per_source() const {
    if (!generation) return 1;
    return generation->beams > 1 ? generation->beams : generation->sample ? generation->n_best : 1;
  }
  int rows() const { return batch * rows_per_source(); }
};

/// Values in flight between sublayers: `rows`, plus the residual `addend` where one is still to be added, or the norm of
/// that where one is still to be applied. Whoever reads them first does both, as the prologue of a product where that is
/// faster. Only a norm adds an addend.
struct Stream {
  PlanTensor rows;
  std::optional<NormWeight> pending;
  PlanTensor addend = {};
  bool partial = false;  ///< `rows` are this rank's part, to be summed over the ranks first
};

/// What a later product adds to its own: rows or, with `norm`, that of them by the statistics that their product left.
struct Residual {
  PlanTensor rows;
  PlanTensor stats = {};
  std::optional<NormWeight> norm = {};
};

class PlanBuilder {
 public:
  explicit PlanBuilder(const PlanRequest& request);

  /// As the rank sees it.
  const ModelConfig& config() const { return plan_.config; }
  const PlanRequest& request() const { return request_; }

  /// Where the operations that follow belong: their phases carry side and layer, their section runs as one.
  void section(PlanSection section, Side side);
  void layer(int layer) { layer_ = layer; }
  Phase phase(PhaseKind kind) const { return {.kind = kind, .side = side_, .layer = layer_}; }

  /// [rows, cols] in the type of activations, named after the phase.
  PlanTensor activations(PhaseKind kind, int64_t rows, int64_t cols);
  PlanTensor scratch(std::string_view name, DType dtype, int64_t rows, int64_t cols);
  DType dtype() const { return dtype_; }
  /// Type of the residual stream in this section; valid after section().
  DType stream_dtype() const { return stream_dtype_; }
  PlanTensor state(std::string_view name, DType dtype, int64_t rows, int64_t cols,
                   BufferRole role = BufferRole::kState);
  /// Makes a buffer outlive the plan, under a name.
  PlanTensor keep(const PlanTensor& tensor, std::string_view name);

  template <typename Op>
  void add(PhaseKind kind, Op op) {
    plan_.ops.push_back({.phase = phase(kind), .body = std::move(op)});
  }

  /// The stream's values as rows of their own: applies a pending norm with its own kernel. Throws ImpossibleCase for an
  /// addend that no norm is pending for.
  PlanTensor materialise(const Stream& stream);
  /// The norm of the stream's values, pending.
  Stream normed(const Stream& stream, const NormWeight& norm);
  /// The same, and in `sum` the values themselves, for a later residual.
  Stream normed_with_sum(const Stream& stream, const NormWeight& norm, PlanTensor& sum);

  struct Dense {
    PhaseKind kind;
    DenseWeight weight;  ///< [out, in]
    Residual residual = {};
    std::optional<Activation> activation = {};
    bool gated = false;
  };
  /// The product over the stream's values. `normalised`, when given, receives them, for a later residual.
  PlanTensor dense(const Stream& x, const Dense& what, Residual* normalised = nullptr);

  /// Is a kind done the other way than kAuto has it?
  bool switched(PhaseKind kind) const;

  /// Does an own kernel compute x W^T?
  bool own_product(PhaseKind kind, const PlanTensor& x, const DenseWeight& w) const {
    return skinny(kind, x.rows, w.weight.rows, w);
  }

  /// A tensor as codes of 8 bits, `group` neighbours of a row with one scale.
  struct Quantised {
    PlanTensor codes;
    PlanTensor scales;  ///< f32 [cols / group, rows]
  };
  Quantised quantised(PhaseKind kind, const PlanTensor& x, DType dtype, int64_t group);

  /// The ids that this rank has of the vocabulary, and how many each rank has memory for.
  Slice vocabulary() const { return vocabulary_; }
  int64_t vocabulary_share() const;

  /// Logits of [rows, d_model] and the choice of the next token. `ancestry` [rows, capacity] when beams search.
  void head(const Stream& x, const DenseWeight& weight, const TokenState& state,
            const PlanTensor& ancestry = {});

  StepPlan finish();

 private:
  /// x as a product reads it: rows, or codes with their scales (empty for rows).
  struct ProductInput {
    PlanTensor x;
    PlanTensor scales = {};
  };

  bool skinny(PhaseKind kind, int64_t rows, int64_t n, const DenseWeight& w) const;
  /// Do the own products write and read the residual stream of this section, all of them?
  bool stream_is_own(int64_t rows) const;
  /// Does the own product with `weight` normalise its rows itself?
  bool fuses_norm(const Stream& x, const DenseWeight& weight) const;
  /// The norm as an operation; of a stream of parts, with their sum over the ranks.
  void add_norm(const Stream& x, NormOp op);
  ProductInput product_input(const Stream& x, const Dense& what, bool own, Residual* normalised);
  /// Does a step of so many rows, whose residual stream the own products keep, apply its norms by statistics?
  bool statistics_pay(int64_t rows) const;
  /// The product that made the stream's rows, where it can leave statistics for the norm that is pending on them; null: it
  /// cannot, or the norm is another's matter.
  DenseOp* leaves_statistics(const Stream& x);
  /// The input of `op`, an own product with `what`, by statistics; false, and nothing is changed, where they do not serve.
  bool norm_by_statistics(const Stream& x, const Dense& what, DenseOp& op, Residual* normalised);
  /// Of a layer norm in front of the product; else none.
  PlanTensor norm_sums(const Dense& what);
  void library_dense(const ProductInput& in, const Dense& what, const PlanTensor& y);
  /// Does the own kernel for many rows compute this product? `passes`: the library would need a pass after it.
  bool tiled(const ProductInput& in, const Dense& what, const PlanTensor& y, bool passes) const;
  bool split() const { return plan_.slice.degree > 1; }
  /// A place for this rank's candidates of the next token, where the vocabulary is split.
  std::optional<RankBest> rank_best(int64_t rows);
  /// The next token of all ranks' candidates.
  void pick(const RankBest& best, const TokenState& state);
  /// `mine` of every rank, one below the other.
  PlanTensor gathered(const PlanTensor& mine, std::string_view name);
  /// What the ranks of a split vocabulary choose from: `count` candidates of each row and rank.
  RankChoices rank_choices(const PlanTensor& logits, const TensorView& bias, const TokenState& token,
                           const PlanTensor& rules, const PlanTensor& running_scores, int64_t count);
  void choose(const PlanTensor& logits, const TensorView& bias, const TokenState& state,
              const PlanTensor& ancestry);

  PlanRequest request_;
  Slice vocabulary_;
  StepPlan plan_;
  DType dtype_;
  DType stream_dtype_;
  bool norms_by_statistics_ = false;  // in this section, where products allow it
  PlanSection section_ = PlanSection::kEncoder;
  Side side_ = Side::kEncoder;
  int layer_ = -1;
};

/// The dense layer that ends a sublayer, and its input.
struct SublayerEnd {
  PlanTensor x;
  PlanBuilder::Dense out;
};
/// The dense layer, with the residual `skip` added by it or by the norm that follows; `norm`, when given, is pending on
/// the sum. Between the two is the place where ranks add their partial sums.
Stream end_sublayer(PlanBuilder& b, SublayerEnd end, const Residual& skip,
                    const std::optional<NormWeight>& norm);

/// One sublayer around `body`, which gets the stream it reads and a place for what it must hand back as
/// the residual: pre-norm x + body(norm(x)), post-norm norm(x + body(x)). `body(in, skip)` returns the dense
/// layer that ends the sublayer and its input.
template <typename Body>
Stream sublayer(PlanBuilder& b, const NormWeight& norm, const Stream& x, Body&& body) {
  Residual skip;
  if (b.config().placement == NormPlacement::kPre) {
    const Stream in = b.normed_with_sum(x, norm, skip.rows);
    return end_sublayer(b, body(in, nullptr), skip, std::nullopt);
  }
  const SublayerEnd end = body(x, &skip);
  return end_sublayer(b, end, skip, norm);
}

/// The whole pass: section kEncoder, and with a capacity kCrossKv and kStep. Throws ImpossibleCase naming the
/// field for a model that the kernels cannot compute.
StepPlan build_plan(const PlanRequest& request);

/// What both sides read of the source and of the positions.
struct SourceTensors {
  PlanTensor ids;        ///< i32 [1, source tokens]
  PlanTensor offsets;    ///< i32 [1, batch + 1]
  PlanTensor sinusoids;  ///< f32 [rows, d_model]; empty unless positions are sinusoidal
};

/// Tokens embedded and, where the model has a norm after that, pending it. `op` says where the tokens are.
Stream embed(PlanBuilder& b, const StackWeight& w, EmbedOp op, int64_t tokens);
/// T5's bias of the self-attention of one side, or none. `layers`: the tables of layers that have one of their own; then there
/// is one bias a layer, else all layers share the first.
std::vector<RelativeBiasRef> relative_biases(PlanBuilder& b, const StackWeight& w,
                                             const std::vector<TensorView>& layers, const StackConfig& stack,
                                             std::string_view name);
/// The tables of a stack's layers.
template <typename Layer>
std::vector<TensorView> bias_tables(const std::vector<Layer>& layers) {
  std::vector<TensorView> tables;
  for (const Layer& layer : layers) tables.push_back(layer.relative_bias);
  return tables;
}
/// The feed-forward sublayer of both sides.
Stream feed_forward(PlanBuilder& b, const NormWeight& norm, const FfnWeight& w, const Stream& x);

/// Output of the encoder, kept under plan_names::kEncoderOutput. [source tokens, d_model]
PlanTensor encoder_forward(PlanBuilder& b, const EncoderWeight& w, const SourceTensors& source);

/// Keys and values of one decoder layer's cross-attention, [source tokens, inner] each, and in 8 bits their scales
/// [heads, source tokens].
struct CrossKeysValues {
  PlanTensor k, v;
  PlanTensor k_scales = {}, v_scales = {};
};
/// Those of all layers, made once per source.
std::vector<CrossKeysValues> cross_keys_values(PlanBuilder& b, const DecoderWeight& w,
                                               const PlanTensor& encoder_output);
/// One token a sequence, through to the next id.
void decoder_forward(PlanBuilder& b, const DecoderWeight& w, const SourceTensors& source,
                     const std::vector<CrossKeysValues>& cross);

}  // namespace tandem::kernels
