// Plans put together by hand: the sum that a norm leaves, and what the interpreter refuses to read or to compute.
#include "reference/engine/plan_interpreter.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "harness/base/error.h"
#include "harness/base/half.h"
#include "reference/ops/norm.h"

namespace tandem::reference {
namespace {

constexpr int64_t kRows = 2;
constexpr int64_t kCols = 4;

enum Buffer : int { kIds, kPosition, kTable, kX, kResidual, kSum, kY };

/// x and residual by embedding ids, y = norm(x + residual) with its sum.
struct Planted {
  explicit Planted(DType sum = DType::kF32, Norm norm = Norm::kLayer) {
    plan.config.d_model = static_cast<int>(kCols);
    plan.config.vocab = 4;
    plan.config.norm = norm;
    plan.config.position = Position::kRelative;
    plan.config.embedding_scale = 1;
    const auto buffer = [&](const char* name, DType dtype, int64_t elements, BufferRole role) {
      plan.buffers.push_back({.name = name, .dtype = dtype, .elements = elements, .role = role});
      return PlanTensor{.buffer = static_cast<int>(plan.buffers.size()) - 1,
                        .rows = elements % kCols == 0 ? kRows : 1,
                        .cols = elements % kCols == 0 ? kCols : elements,
                        .stride = elements % kCols == 0 ? kCols : elements};
    };
    const PlanTensor ids = buffer("ids", DType::kI32, 2, BufferRole::kInput);
    const PlanTensor more_ids = buffer("more ids", DType::kI32, 2, BufferRole::kInput);
    const PlanTensor position = buffer("position", DType::kI32, 1, BufferRole::kInput);
    const PlanTensor x = buffer("x", DType::kF32, kRows * kCols, BufferRole::kScratch);
    const PlanTensor residual = buffer("residual", DType::kF32, kRows * kCols, BufferRole::kScratch);
    const PlanTensor s = buffer("sum", sum, kRows * kCols, BufferRole::kState);
    const PlanTensor y = buffer("y", DType::kF32, kRows * kCols, BufferRole::kState);
    const NormWeight weight{.gamma = view(gamma, 1), .beta = view(beta, 1)};
    const auto add = [&](auto op) { plan.ops.push_back({.phase = {.kind = PhaseKind::kNorm}, .body = op}); };
    add(EmbedOp{.ids = ids, .position = position, .x = x, .table = view(table, 4)});
    add(EmbedOp{.ids = more_ids, .position = position, .x = residual, .table = view(table, 4)});
    add(NormOp{.x = x, .residual = residual, .sum = s, .y = y, .weight = weight});
    add_rest(y);
    const int end = static_cast<int>(plan.ops.size());
    plan.sections = {OpRange{0, end}, OpRange{end, end}, OpRange{end, end}};
  }

  Planted(const Planted&) = delete;  // its plan points to its values
  Planted& operator=(const Planted&) = delete;

  /// A product of y, for attributes of its own.
  void add_rest(const PlanTensor& y) {
    plan.buffers.push_back(
        {.name = "product", .dtype = DType::kF32, .elements = kRows * kCols, .role = BufferRole::kState});
    PlanTensor product = y;
    product.buffer = static_cast<int>(plan.buffers.size()) - 1;
    plan.ops.push_back(
        {.phase = {.kind = PhaseKind::kFfnUp},
         .body = DenseOp{.x = y, .y = product, .weight = {.weight = view(table, 4), .bias = {}}}});
  }

  static TensorView view(const std::vector<float>& values, int64_t rows) {
    return {.data = values.data(),
            .dtype = DType::kF32,
            .rows = rows,
            .cols = static_cast<int64_t>(values.size()) / rows};
  }

  template <typename Op>
  Op& op(int index) {
    return std::get<Op>(plan.ops[index].body);
  }

  /// The interpreter after the run; it refers to this plan.
  PlanInterpreter run(std::optional<uint64_t> chance = {}) {
    find_lifetimes(plan);
    place_buffers(plan);
    PlanInterpreter interpreter(plan);
    if (chance) interpreter.round_by_chance(*chance);
    interpreter.set("ids", std::vector<int32_t>{1, 3});
    interpreter.set("more ids", std::vector<int32_t>{0, 2});
    interpreter.set("position", std::vector<int32_t>{0});
    interpreter.run(PlanSection::kEncoder);
    return interpreter;
  }

  /// What the interpreter says against the plan.
  std::string refusal() {
    try {
      run();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  StepPlan plan;
  std::vector<float> table = {0.3f, -1.1f, 2.7f, 0.01f, 1.9f,  0.77f, -0.4f, 3.3f,
                              5.1f, -2.2f, 0.9f, 1.7f,  -0.6f, 4.4f,  1.3f,  -3.9f};
  std::vector<float> gamma = {1.0f, 0.9f, 1.1f, 1.2f};
  std::vector<float> beta = {0.1f, -0.2f, 0.0f, 0.3f};
};

constexpr int kNormAt = 2;
constexpr int kDenseAt = 3;

// A norm of the rounded sum, or a sum that is not what was added, would make the next residual wrong.
TEST(PlanInterpreter, NormLeavesItsSum) {
  for (const Norm kind : {Norm::kLayer, Norm::kRms}) {
    for (const DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
      Planted p(type, kind);
      if (kind == Norm::kRms) p.op<NormOp>(kNormAt).weight.beta = {};
      const PlanInterpreter run = p.run();
      Matrix sum(kRows, kCols);
      for (int64_t i = 0; i < kCols; ++i) {
        sum.row(0)[i] = p.table[1 * kCols + i] + p.table[0 * kCols + i];
        sum.row(1)[i] = p.table[3 * kCols + i] + p.table[2 * kCols + i];
      }
      const NormWeight& w = p.op<NormOp>(kNormAt).weight;
      const Matrix y = kind == Norm::kLayer ? layer_norm(sum, w, p.plan.config.norm_eps)
                                            : rms_norm(sum, w, p.plan.config.norm_eps);
      EXPECT_EQ(run.values("y"), y.values) << "of the unrounded sum";
      for (float& v : sum.values) {
        if (type == DType::kBF16) v = bf16_to_float(float_to_bf16(v));
        if (type == DType::kF16) v = fp16_to_float(float_to_fp16(v));
      }
      EXPECT_EQ(run.values("sum"), sum.values);
    }
  }
}

// Breaks when another outcome of roundings stores what is no neighbour of the value, prefers the farther one, touches what the type
// holds exactly or fp32, or cannot be had again.
TEST(PlanInterpreter, RoundsByChanceToNeighbours) {
  const std::vector<float> truth = Planted().run(7).values("sum");
  for (const DType type : {DType::kBF16, DType::kF16}) {
    const double ulp = type == DType::kBF16 ? 0x1p-7 : 0x1p-10;
    constexpr int kOutcomes = 400;
    std::vector<double> mean(truth.size());
    for (int seed = 0; seed < kOutcomes; ++seed) {
      const std::vector<float> got = Planted(type).run(seed).values("sum");
      for (size_t i = 0; i < got.size(); ++i) {
        EXPECT_LT(std::fabs(got[i] - truth[i]), ulp * std::fabs(truth[i])) << i;
        mean[i] += got[i] / kOutcomes;
      }
    }
    EXPECT_EQ(Planted(type).run(5).values("sum"), Planted(type).run(5).values("sum"));
    EXPECT_NE(Planted(type).run(5).values("sum"), Planted(type).run(6).values("sum"));
    // Unbiased: of 400 draws the mean misses by a fortieth of the gap, in one standard deviation.
    for (size_t i = 0; i < mean.size(); ++i)
      EXPECT_NEAR(mean[i], truth[i], ulp / 8 * std::fabs(truth[i])) << i;
  }
  EXPECT_EQ(truth, Planted().run().values("sum"));
}

// A sum in place of what was added must not be read as x by the norm that left it.
TEST(PlanInterpreter, NormSumInPlace) {
  Planted apart;
  const std::vector<float> y = apart.run().values("y");
  for (const bool of_x : {true, false}) {
    Planted p;
    auto& norm = p.op<NormOp>(kNormAt);
    norm.sum = of_x ? norm.x : norm.residual;
    EXPECT_EQ(p.run().values("y"), y);
  }
}

void expect_names(const std::string& message, const std::vector<std::string>& parts) {
  for (const std::string& part : parts)
    EXPECT_NE(message.find(part), std::string::npos) << "'" << message << "' does not name " << part;
}

// An 8-bit buffer would be read as bf16, and a plan of another storage pass for a right one.
TEST(PlanInterpreter, RefusesUnknownTypesOfBuffers) {
  ASSERT_EQ(Planted().refusal(), "");
  for (const DType type : {DType::kI8, DType::kU8}) {
    for (const char* name : {"x", "sum", "y", "product", "ids"}) {
      Planted p;
      p.plan.buffers[p.plan.find(name)].dtype = type;
      SCOPED_TRACE(name);
      try {
        p.run();
        ADD_FAILURE() << dtype_name(type) << " was read";
      } catch (const Error& error) {
        expect_names(error.what(), {name, std::string(dtype_name(type))});
      }
    }
    Planted p;
    p.plan.buffers[p.plan.find("y")].dtype = type;
    expect_names(p.refusal(), {"operation 2 (norm", "'y'"});
  }
}

// Integers read as numbers, or numbers as integers, are bits of another meaning.
TEST(PlanInterpreter, RefusesIntegersForNumbersAndBack) {
  Planted numbers;
  numbers.plan.buffers[numbers.plan.find("sum")].dtype = DType::kI32;
  expect_names(numbers.refusal(), {"operation 2 (norm", "'sum'", "i32"});
  Planted ids;
  ids.plan.buffers[ids.plan.find("position")].dtype = DType::kF32;
  expect_names(ids.refusal(), {"'position'", "f32", "i32"});
  Planted right;
  const PlanInterpreter run = right.run();
  EXPECT_THROW(run.integers("y"), Error);
  EXPECT_THROW(run.values("ids"), Error);
}

// A weight of another type would be read as what it is not, or refused without a word of whose it is.
TEST(PlanInterpreter, RefusesUnknownTypesOfWeights) {
  for (const DType type : {DType::kU8, DType::kI32, DType::kI8, DType::kI4}) {
    Planted gamma;
    gamma.op<NormOp>(kNormAt).weight.gamma.dtype = type;
    expect_names(gamma.refusal(), {"operation 2 (norm", "'norm.gamma'", std::string(dtype_name(type))});
    Planted weight;
    weight.op<DenseOp>(kDenseAt).weight.weight.dtype = type;
    expect_names(weight.refusal(), {"operation 3 (dense", "weight"});
  }
}
/// Appended as the last operation; an edit makes of it what is to be refused.
template <typename Op>
std::string refusal_of(Op op, const std::function<void(Planted&)>& edit = {}) {
  Planted p;
  p.plan.ops.push_back({.phase = {.kind = PhaseKind::kNorm}, .body = op});
  p.plan.sections = {OpRange{0, 5}, OpRange{5, 5}, OpRange{5, 5}};
  if (edit) edit(p);
  return p.refusal();
}

// An attribute that is passed over gives the result of another operation.
TEST(PlanInterpreter, RefusesAttributesThatItDoesNotCompute) {
  const auto refused = [](const char* what, const std::function<void(Planted&)>& edit) {
    SCOPED_TRACE(what);
    Planted p;
    edit(p);
    expect_names(p.refusal(), {"operation ", what});
  };
  refused("`gated`", [](Planted& p) { p.op<DenseOp>(kDenseAt).gated = true; });
  refused("`norm_out`", [](Planted& p) { p.op<DenseOp>(kDenseAt).norm_out = p.op<NormOp>(kNormAt).sum; });
  refused("`beta`", [](Planted& p) { p.plan.config.norm = Norm::kRms; });
  refused("`sinusoids`", [](Planted& p) { p.op<EmbedOp>(0).sinusoids = p.op<NormOp>(kNormAt).sum; });
  refused("`sinusoids`", [](Planted& p) { p.plan.config.position = Position::kSinusoidal; });
  refused("`learned`", [](Planted& p) { p.op<EmbedOp>(0).learned = p.op<EmbedOp>(0).table; });
  refused("`learned`", [](Planted& p) { p.plan.config.position = Position::kLearned; });
  refused("`position`", [](Planted& p) { p.op<EmbedOp>(0).position = {}; });

  const Planted p;
  const PlanTensor y{.buffer = p.plan.find("y"), .rows = kRows, .cols = kCols, .stride = kCols};
  const auto sampling = [](Planted& q) { q.plan.generation = GenerationConfig{}; };
  expect_names(refusal_of(SelectOp{.logits = y}, sampling), {"operation 4 (select", "GenerationConfig"});
  expect_names(refusal_of(ChooseOp{.logits = y}), {"operation 4 (choose", "GenerationConfig"});
  expect_names(refusal_of(ChooseOp{.logits = y}, sampling), {"operation 4 (choose", "`finished`"});
  expect_names(refusal_of(ChooseOp{.logits = y, .keys = y}, sampling), {"operation 4 (choose", "`keys`"});
  expect_names(refusal_of(BeamOp{.logits = y}, sampling), {"operation 4 (beam"});
  expect_names(refusal_of(EncoderAttentionOp{.q = y, .bias = {.distance_bias = y}}),
               {"operation 4 (encoder_attention", "table"});
  expect_names(refusal_of(SelfAttentionOp{.q = y, .k_cache = y, .v_cache = y, .heads = 1, .capacity = 7}),
               {"operation 4 (self_attention", "caches"});
  expect_names(refusal_of(CrossAttentionOp{.q = y}), {"operation 4 (cross_attention", "sources"});
}

}  // namespace
}  // namespace tandem::reference
