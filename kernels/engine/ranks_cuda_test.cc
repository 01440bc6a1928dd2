// Engines that share a model: a process and a device each, as in a case. Several ranks on one device are the collectives' own tests,
// and device_ranks_test's.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "harness/engine/compare.h"
#include "harness/parallel/communicator.h"
#include "kernels/collectives/peer_test_util.h"
#include "kernels/engine/engine_test_util.h"
#include "kernels/runtime/ranks/rank_process_test_util.h"

namespace tandem::kernels {
namespace {

constexpr int kSteps = 12;

Case case_of_ranks(const std::string& model, Precision precision, int batch, int tp) {
  Case c;
  c.suite = Suite::kGenerate;
  c.model = model;
  c.precision = precision;
  c.batch = batch;
  c.src = 20;
  c.tgt = kSteps;
  if (batch > 1) c.lengths = "ragged:0.7";
  c.tp = tp;
  return c;
}

struct Results {
  std::vector<int32_t> tokens;
  std::vector<float> forced, encoded, step;
};

Results results_of(CudaEngine& engine, Case c) {
  const ModelConfig config = load_model(c.model);
  const TransformerBatch batch = case_batch(c, config);
  engine.load(c, config, weight_form(c));
  Results r;
  std::vector<int32_t> fed(static_cast<size_t>(c.batch) * kSteps);
  for (size_t i = 0; i < fed.size(); ++i) fed[i] = static_cast<int32_t>(i * 7 % 50);
  r.forced = engine.forced_logits(batch, fed, kSteps).values;
  const auto repeated = [&](Suite suite) {
    c.suite = suite;
    const auto workload = engine.prepare(c, batch);
    for (int i = 0; i < 3; ++i) EXPECT_GT(workload->repeat().total_us, 0);
    return workload->output();
  };
  r.tokens = repeated(Suite::kGenerate).tokens;
  r.encoded = repeated(Suite::kEncoder).values;
  r.step = repeated(Suite::kDecoder).values;
  return r;
}

/// Are there as many that reach each other?
bool own_devices(int ranks) {
  return placements(ranks).size() > 1;
}

/// In the process where a test began: runs it in a process a rank for each number of ranks that has devices, and skips it if none has.
/// In those: false.
bool began_ranks(const std::vector<int>& sizes) {
  if (rank_of_test()) return false;
  int ran = 0;
  for (const int size : sizes) {
    if (!own_devices(size)) continue;
    run_in_ranks(size);
    ++ran;
  }
  if (ran == 0) [] { GTEST_SKIP() << "needs two devices that reach each other"; }();
  return true;
}

/// What the rank's engine makes of `work`, on the device of its number; an error is a test's failure.
void on_rank(Communicator& control, const std::function<void(CudaEngine&)>& work) {
  try {
    CudaEngine engine({.device = control.rank(), .search_choices = false, .tensor = &control});
    work(engine);
  } catch (const std::exception& e) {
    ADD_FAILURE() << "rank " << control.rank() << ": " << e.what();
  }
}

/// Largest difference over the root mean square.
double distance(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size() || a.empty()) return std::numeric_limits<double>::infinity();
  double largest = 0, squares = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, std::abs(double{a[i]} - b[i]));
    squares += double{b[i]} * b[i];
  }
  return largest / std::sqrt(squares / static_cast<double>(b.size()));
}

// Breaks when a rank's part of a matrix, a sum over ranks, a bias that is added twice, the choice over a split vocabulary or a
// replay of a graph with collectives is wrong: ranks against one engine, at 2 and 4 ranks, for families of all norms, positions and
// activations, and by each way of summing.
TEST(RanksOnTheCard, ComputeWhatOneDoes) {
  TANDEM_NEED_DEVICE();
  struct Asked {
    const char* model;
    Precision precision;
    int batch;
    int tp;
    const char* allreduce;
  };
  if (began_ranks({2, 4, 8})) return;
  const RankOfTest me = *rank_of_test();
  int meeting = 0;
  for (const Asked& a : {Asked{"tiny", Precision::kFp32, 3, 2, "auto"},
                         {"tiny", Precision::kFp32, 1, 4, "oneshot"},
                         {"transformer-base", Precision::kFp32, 5, 2, "twoshot"},
                         {"t5-small", Precision::kFp32, 2, 2, "oneshot"},
                         {"bart-base", Precision::kFp32, 2, 4, "auto"},
                         {"t5-small", Precision::kBf16, 1, 2, "auto"},
                         {"transformer-base", Precision::kBf16, 80, 2, "auto"},
                         {"transformer-base", Precision::kFp16, 4, 8, "twoshot"}}) {
    if (a.tp != me.size) continue;
    const std::string what = fmt::format("{} {} batch {} tp {} {}", a.model, precision_name(a.precision),
                                         a.batch, a.tp, a.allreduce);
    SCOPED_TRACE(what);
    Case c = case_of_ranks(a.model, a.precision, a.batch, 1);
    Results one;
    {
      CudaEngine engine({.device = me.rank, .search_choices = false});
      one = results_of(engine, c);
    }
    c.tp = a.tp;
    c.allreduce = a.allreduce;
    const auto control = me.join(meeting++);
    Results mine;
    on_rank(*control, [&](CudaEngine& engine) { mine = results_of(engine, c); });
    if (::testing::Test::HasFailure()) return;
    const bool exact = a.precision == Precision::kFp32;
    const double tolerance = exact ? 2e-4 : a.precision == Precision::kFp16 ? 0.05 : 0.3;
    EXPECT_LT(distance(mine.forced, one.forced), tolerance) << "logits";
    EXPECT_LT(distance(mine.encoded, one.encoded), tolerance) << "encoder";
    EXPECT_LT(distance(mine.step, one.step), tolerance) << "step";
    if (exact) {
      EXPECT_EQ(mine.tokens, one.tokens);
    }
    EXPECT_TRUE(same_on_all(*control, mine.tokens)) << "tokens of the ranks";
    EXPECT_TRUE(same_on_all(*control, mine.forced)) << "bits of the ranks' logits";
    EXPECT_TRUE(same_on_all(*control, mine.encoded)) << "bits of the ranks' encoders";
  }
}

// Breaks when ranks that split the vocabulary choose by rules, beams or draws otherwise than one does that has all of it, or than
// each other: fp32, so that a rounding of sums is no other token.
TEST(RanksOnTheCard, ChooseByRulesAsOneDoes) {
  TANDEM_NEED_DEVICE();
  if (began_ranks({2, 4})) return;
  const RankOfTest me = *rank_of_test();
  int meeting = 0;
  for (const char* decode : {"beam:4", "top_k:20", "top_k:20,temperature:0.7", "beam:3,length_penalty:0.5"}) {
    SCOPED_TRACE(decode);
    Case c = case_of_ranks("tiny", Precision::kFp32, 3, 1);
    c.decode = decode;
    const ModelConfig config = load_model(c.model);
    const TransformerBatch batch = case_batch(c, config);
    const auto chosen = [&](CudaEngine& engine, const Case& asked) {
      engine.load(asked, config, weight_form(asked));
      const auto workload = engine.prepare(asked, batch);
      for (int i = 0; i < 3; ++i) workload->repeat();
      return workload->output().tokens;
    };
    std::vector<int32_t> one;
    {
      CudaEngine engine({.device = me.rank, .search_choices = false});
      one = chosen(engine, c);
    }
    c.tp = me.size;
    const auto control = me.join(meeting++);
    on_rank(*control, [&](CudaEngine& engine) { EXPECT_EQ(chosen(engine, c), one); });
    if (::testing::Test::HasFailure()) return;
  }
}

// Breaks when a collective is timed without its own check, or a chain costs nothing or less.
TEST(RanksOnTheCard, CollectivesAreMeasured) {
  TANDEM_NEED_DEVICE();
  if (began_ranks({2})) return;
  const RankOfTest me = *rank_of_test();
  int meeting = 0;
  for (const char* op : {"all_reduce", "chain"}) {
    for (const char* way : {"oneshot", "twoshot", "auto"}) {
      Case c;
      c.suite = Suite::kCollectives;
      c.model = "t5-small";
      c.op = op;
      c.allreduce = way;
      c.batch = 9;
      c.tp = 2;
      const auto control = me.join(meeting++);
      on_rank(*control, [&](CudaEngine& engine) {
        engine.check_supported(c);
        const OpWorkload collective = engine.prepare_op(c, load_model(c.model));
        for (int i = 0; i < 3; ++i) EXPECT_GT(collective.workload->repeat().total_us, 0);
        const CheckResult check = collective.check();
        EXPECT_TRUE(check.ok()) << op << " " << way << ": " << check.error << " " << check.where;
      });
      if (::testing::Test::HasFailure()) return;
    }
  }
}

// Breaks when NCCL is asked for where two ranks share a device, or one rank's case is taken for that of two.
TEST(RanksOnTheCard, RefusesWhatIsNotThere) {
  TANDEM_NEED_DEVICE();
  const auto refused = [](Communicator& control) {
    CudaEngine engine({.search_choices = false, .tensor = &control});  // every rank on the first device
    Case c = case_of_ranks("tiny", Precision::kFp32, 1, 2);
    const ModelConfig config = load_model(c.model);
    engine.load(c, config, weight_form(c));
    c.allreduce = "nccl";
    try {
      engine.prepare(c, case_batch(c, config))->repeat();
      ADD_FAILURE() << "NCCL summed over ranks of one device";
    } catch (const ImpossibleCase& e) {
      EXPECT_NE(std::string(e.what()).find("allreduce: nccl: "), std::string::npos) << e.what();
    }
    c.tp = 4;
    EXPECT_THROW(engine.load(c, config, weight_form(c)), Error);
  };
  if (const auto me = rank_of_test()) return refused(*me->join());
  run_in_ranks(2);
  CudaEngine alone({.search_choices = false});
  Case c = case_of_ranks("tiny", Precision::kFp32, 1, 2);
  c.suite = Suite::kCollectives;
  c.op = "all_reduce";
  EXPECT_THROW(alone.prepare_op(c, load_model("tiny")), ImpossibleCase);
  c.tp = 1;
  EXPECT_THROW(alone.check_supported(c), ImpossibleCase);
}

}  // namespace
}  // namespace tandem::kernels
