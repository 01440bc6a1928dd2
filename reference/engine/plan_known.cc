// What the plan interpreter refuses: an operation that says more than the interpreter computes would be interpreted
// without it, and a wrong plan pass for a right one.
#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "harness/base/error.h"
#include "reference/engine/plan_interpreter.h"

namespace tandem::reference {
namespace {

/// Refuses attributes, operation by operation.
class Attributes {
 public:
  Attributes(const StepPlan& plan, int op) : plan_(plan), config_(plan.config), op_(op) {}

  void operator()(const EmbedOp& o) const {
    require(o.offsets.empty() != o.position.empty(), "it needs `offsets` or `position`, one of them");
    const bool sinusoids =
        config_.position == Position::kSinusoidal || config_.position == Position::kSinusoidalHalves;
    require(o.sinusoids.empty() != sinusoids, "`sinusoids` go with a model of sinusoidal positions");
    require(o.learned.empty() == (config_.position != Position::kLearned),
            "`learned` goes with a model of learned positions");
  }
  void operator()(const NormOp& o) const {
    norm(o.weight);
    require(!o.y.empty() || !o.codes.empty(), "it needs `y` or `codes`");
    require(o.codes.empty() == o.scales.empty(), "`codes` go with `scales`");
  }
  void operator()(const DenseOp& o) const {
    if (o.norm) norm(*o.norm);
    require(!o.gated || o.activation, "`gated` needs an activation");
    matrix(o.weight);
    const bool alone = o.kernel == DenseKernel::kSkinny && o.x.rows == 1;
    require(o.x_scales.empty() == !(o.weight.input_dtype && !alone),
            "`x_scales` go with rows that are codes");
    require(o.norm_out.empty() || o.norm, "`norm_out` needs a norm");
    for (const auto& by_statistics : {o.stats_norm, o.residual_norm}) {
      if (by_statistics) norm(*by_statistics);
    }
    const std::string_view why = statistics_problem(o, config_.norm);
    require(why.empty(), why);
  }
  void operator()(const ActivationOp&) const {}
  void operator()(const EncoderAttentionOp& o) const { bias(o.bias); }
  void operator()(const SelfAttentionOp& o) const {
    bias(o.bias);
    require(o.k_cache.rows == o.q.rows * o.heads * o.capacity && o.v_cache.rows == o.k_cache.rows,
            "the caches must have a row for each sequence, head and position");
    require(codes(o.k_cache) != o.k_scales.empty() && codes(o.v_cache) != o.v_scales.empty(),
            "caches in 8 bits go with their scales");
  }
  void operator()(const CrossAttentionOp& o) const {
    require(o.offsets.cols > 1 && o.q.rows % (o.offsets.cols - 1) == 0,
            "the rows of q must be a multiple of the sources");
    require(codes(o.k) != o.k_scales.empty() && codes(o.v) != o.v_scales.empty(),
            "keys and values in 8 bits go with their scales");
  }
  void operator()(const CommOp& o) const {
    const bool sums = o.kind == CommKind::kAllReduce;
    require(sums || !o.norm, "a norm goes with sums");
    require(!o.y.empty() || o.norm, "it needs `y` or a norm");
    const int64_t rows = sums ? o.x.rows : plan_.slice.degree * o.x.rows;
    require(o.y.empty() || (o.y.rows == rows && o.y.cols == o.x.cols), "`y` must have the rows of all ranks");
    if (!o.norm) return;
    require(o.norm->x.buffer == o.x.buffer && o.norm->x.offset == o.x.offset,
            "its norm reads the place of x");
    (*this)(*o.norm);
  }
  void operator()(const RowSumsOp& o) const {
    require(o.sums.rows == o.logits.rows && o.sums.cols == 2, "it needs two `sums` a row");
  }
  void operator()(const CandidatesOp& o) const {
    require(plan_.generation.has_value(), "it needs a GenerationConfig");
    require(o.candidates.rows == o.logits.rows && o.candidates.cols % 3 == 0 && o.candidates.cols > 0,
            "it needs three `candidates` values a row each");
    require(o.sums.rows == plan_.slice.degree * o.logits.rows, "it needs the `sums` of all ranks");
    require(o.running_scores.empty() == (plan_.generation->beams == 1), "`running_scores` go with beams");
    require(!o.finished.empty(), "it needs `finished`");
  }
  void operator()(const PickOp& o) const {
    require(o.candidates.rows == 2 * plan_.slice.degree, "it needs a score and an id of every rank");
  }
  void operator()(const HeadOp& o) const {
    if (o.norm) norm(*o.norm);
    matrix(o.weight);
    require(o.x_scales.empty() == !(o.weight.input_dtype && o.x.rows > 1),
            "`x_scales` go with rows that are codes");
    require(!plan_.generation, "the plan's GenerationConfig needs `choose` or `beam`");
    best(o.state, o.best);
  }
  void operator()(const QuantiseOp& o) const {
    require(o.group > 0 && o.x.cols == o.group * o.scales.rows,
            "`group` must divide the columns into the scales");
  }
  void operator()(const SelectOp& o) const {
    require(!plan_.generation, "the plan's GenerationConfig needs `choose` or `beam`");
    best(o.state, o.best);
  }
  void operator()(const ChooseOp& o) const {
    require(plan_.generation && plan_.generation->beams == 1, "it needs a GenerationConfig of one beam");
    require(o.keys.empty() != plan_.generation->sample, "`keys` go with sampling");
    choices(o.logits, o.ranks);
    counters(o.state);
  }
  void operator()(const BeamOp& o) const {
    require(plan_.generation && plan_.generation->beams == plan_.rows_per_source && !plan_.generation->sample,
            "it needs a GenerationConfig of as many beams as a source has rows, and no sampling");
    choices(o.logits, o.ranks);
    counters(o.state);
  }

 private:
  bool codes(const PlanTensor& t) const { return dtype_bits(plan_.buffers.at(t.buffer).dtype) == 8; }
  void require(bool ok, std::string_view what) const {
    if (!ok) throw Error(fmt::format("plan: {}: {}", op_text(plan_, op_), what));
  }
  void matrix(const DenseWeight& w) const {
    require(!w.two_of_four || w.metadata != nullptr, "a 2:4 matrix goes with its metadata");
    require((w.bitmap == nullptr) == (w.row_starts == nullptr), "a bitmap goes with where its rows start");
    require((dtype_bits(w.weight.dtype) <= 8) != w.scales.empty(), "a weight of codes goes with its scales");
  }
  void norm(const NormWeight& w) const {
    require(config_.norm != Norm::kRms || w.beta.empty(), "an rms norm has no `beta`");
  }
  void bias(const RelativeBiasRef& b) const {
    require(b.distance_bias.empty() == b.table.empty(), "a bias needs `distance_bias` and its table");
  }
  void best(const TokenState& s, const std::optional<RankBest>& b) const {
    require(s.next_ids.empty() == b.has_value(), "it needs `state` or `best`, one of them");
  }
  void choices(const PlanTensor& logits, const RankChoices& ranks) const {
    const bool split = plan_.slice.degree > 1;
    require(logits.empty() == split && ranks.sums.empty() != split && ranks.candidates.empty() != split,
            "it needs `logits`, or with several ranks their `sums` and `candidates`");
  }
  void counters(const TokenState& s) const {
    require(!s.finished.empty() && !s.running.empty(), "it needs `finished` and `running`");
  }

  const StepPlan& plan_;
  const ModelConfig& config_;
  int op_;
};

bool known(DType t) {
  return t == DType::kF32 || t == DType::kF16 || t == DType::kBF16 || t == DType::kI32 || t == DType::kF8 ||
         t == DType::kI8;
}
bool known_weight(const PlanWeight& w) {
  const DType t = w.tensor.dtype;
  const bool codes = t == DType::kF8 || t == DType::kI8 || t == DType::kI4;
  return codes ? w.name == "weight" : known(t) && t != DType::kI32;
}

}  // namespace

void refuse_unknown(const StepPlan& plan, int op) {
  for (const PlanAccess& a : accesses(plan.ops[op])) {
    const PlanBuffer& b = plan.buffers.at(a.tensor.buffer);
    if (known(b.dtype)) continue;
    throw Error(fmt::format("plan: {}: buffer '{}' is {}, the interpreter knows f32, f16, bf16, f8, i8, i32",
                            op_text(plan, op), b.name, dtype_name(b.dtype)));
  }
  for (const PlanWeight& w : weights_of(plan.ops[op])) {
    if (known_weight(w)) continue;
    throw Error(fmt::format(
        "plan: {}: weight '{}' is {}, the interpreter knows f32, f16, bf16, and f8, i8, i4 of matrices",
        op_text(plan, op), w.name, dtype_name(w.tensor.dtype)));
  }
  std::visit(Attributes(plan, op), plan.ops[op].body);
}

}  // namespace tandem::reference
