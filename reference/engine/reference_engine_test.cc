#include "reference/engine/reference_engine.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "harness/base/error.h"
#include "harness/base/testing/test_seed.h"
#include "harness/engine/compare.h"
#include "reference/engine/workloads.h"

namespace tandem::reference {
namespace {

Case tiny_case(Suite suite) {
  Case c;
  c.suite = suite;
  c.model = "tiny";
  c.batch = 3;
  c.src = 9;
  c.tgt = 6;
  c.precision = Precision::kFp32;
  c.engine = "reference";
  return c;
}

Output run_twice(Engine& engine, const Case& c, const TransformerBatch& batch) {
  const auto workload = engine.prepare(c, batch);
  EXPECT_THROW(workload->output(), Error);
  EXPECT_GT(workload->repeat().total_us, 0);
  const Output first = workload->output();
  workload->repeat();
  const Output second = workload->output();
  EXPECT_EQ(first.values, second.values);
  EXPECT_EQ(first.tokens, second.tokens);
  EXPECT_GT(workload->peak_bytes(), 0);
  return second;
}

class ReferenceEngineTest : public testing::Test {
 protected:
  ReferenceEngineTest() : config(preset("tiny")), batch(make_batch(config, {9, 4, 1}, test_seed())) {
    engine.load(tiny_case(Suite::kEncoder), config, {.precision = Precision::kFp32});
  }

  ModelConfig config;
  TransformerBatch batch;
  ReferenceEngine engine;
};

// Breaks when the decode axis does not reach the search, or a beam's sequence is not padded to the case's length.
TEST_F(ReferenceEngineTest, DecodesByEveryStrategy) {
  Case c = tiny_case(Suite::kGenerate);
  const Output greedy = run_twice(engine, c, batch);
  for (const char* decode : {"greedy,no_repeat_ngram:1", "beam:3", "top_k:5,temperature:2"}) {
    c.decode = decode;
    EXPECT_NO_THROW(engine.check_supported(c));
    const Output out = run_twice(engine, c, batch);
    EXPECT_EQ(out.tokens.size(), greedy.tokens.size()) << decode;
    EXPECT_TRUE(std::ranges::all_of(out.tokens, [&](int32_t id) { return id >= 0 && id < config.vocab; }));
  }
  c.suite = Suite::kDecoder;
  EXPECT_THROW(engine.check_supported(c), ImpossibleCase);
}

// Breaks when a repetition starts from another state than the one before, or an output has another shape than
// promised.
TEST_F(ReferenceEngineTest, RepetitionsAreEqualAndShapesAsPromised) {
  EXPECT_GT(engine.load_us(), 0);
  const Output encoded = run_twice(engine, tiny_case(Suite::kEncoder), batch);
  EXPECT_EQ(encoded.rows, batch.tokens());
  EXPECT_EQ(encoded.cols, config.d_model);
  EXPECT_EQ(static_cast<int64_t>(encoded.values.size()), encoded.rows * encoded.cols);

  const Output step = run_twice(engine, tiny_case(Suite::kDecoder), batch);
  EXPECT_EQ(step.rows, 3);
  EXPECT_EQ(step.cols, config.vocab);
  EXPECT_EQ(step.tokens.size(), 3u);

  const Output generated = run_twice(engine, tiny_case(Suite::kGenerate), batch);
  EXPECT_EQ(generated.tokens.size(), 3u * 6);
  EXPECT_TRUE(generated.values.empty());
}

// Breaks when suite_decoder measures another step than the one that appends position tgt to its prefix.
TEST_F(ReferenceEngineTest, DecoderStepIsTheLastForcedStep) {
  for (const int tgt : {1, 2, 6}) {
    Case c = tiny_case(Suite::kDecoder);
    c.tgt = tgt;
    const Output step = run_twice(engine, c, batch);
    const Output forced = engine.forced_logits(batch, decoder_prefix(config, 3, tgt, kInputSeed), tgt);
    ASSERT_EQ(forced.rows, 3 * tgt);
    const std::span<const float> last = std::span(forced.values).subspan((tgt - 1) * 3 * config.vocab);
    EXPECT_TRUE(compare(step.values, last, config.vocab).within(1e-6)) << "tgt " << tgt;
    for (int b = 0; b < 3; ++b) {
      const auto row = last.begin() + b * config.vocab;
      EXPECT_EQ(step.tokens[b], std::max_element(row, row + config.vocab) - row);
    }
  }
}

// Breaks when generated tokens are not what forcing them gives back, or times are not in order.
TEST_F(ReferenceEngineTest, GenerationRetracesItsTokens) {
  const auto workload = engine.prepare(tiny_case(Suite::kGenerate), batch);
  const Repetition r = workload->repeat();
  ASSERT_TRUE(r.step_us && r.first_token_us);
  EXPECT_GT(*r.step_us, 0);
  EXPECT_GT(*r.first_token_us, *r.step_us * 0.01);
  EXPECT_LE(*r.first_token_us, r.total_us);
  EXPECT_LE(*r.step_us * 6, r.total_us);

  const std::vector<int32_t> tokens = workload->output().tokens;
  std::vector<int32_t> inputs(tokens.size(), config.decoder_start_id);
  for (int b = 0; b < 3; ++b) std::copy_n(tokens.begin() + b * 6, 5, inputs.begin() + b * 6 + 1);
  const Output forced = engine.forced_logits(batch, inputs, 6);
  for (int i = 0; i < 18; ++i) {
    const auto row =
        forced.values.begin() + static_cast<int64_t>(i) * config.vocab;  // step i / 3, sequence i % 3
    EXPECT_EQ(tokens[(i % 3) * 6 + i / 3], std::max_element(row, row + config.vocab) - row);
  }
}

// Breaks when the reference's second way disagrees with its first in some family.
TEST_F(ReferenceEngineTest, ChecksItself) {
  for (const Suite suite : kModelSuites) {
    const auto r = engine.self_check(tiny_case(suite), batch);
    ASSERT_TRUE(r);
    EXPECT_TRUE(r->ok()) << suite_name(suite) << ": " << r->error << " " << r->where;
    EXPECT_GT(r->tolerance, 0);
    EXPECT_FALSE(r->reference.empty());
  }
}

// Breaks when a lower precision's weights are not rounded to its grid, or a form that nothing makes takes another's values.
TEST_F(ReferenceEngineTest, WeightsAreRoundedAsStored) {
  const Case c = tiny_case(Suite::kEncoder);
  const Output exact = run_twice(engine, c, batch);
  engine.load(c, config, {.precision = Precision::kBf16});
  const Output bf16 = run_twice(engine, c, batch);
  EXPECT_GT(relative_l2(bf16.values, exact.values), 1e-4);
  EXPECT_LT(relative_l2(bf16.values, exact.values), 2e-2);
  EXPECT_THROW(engine.load(c, config, {.precision = Precision::kFp8, .calibration = Calibration::kAwq}),
               ImpossibleCase);
  EXPECT_THROW(
      engine.load(c, config, {.precision = Precision::kFp8, .calibration = Calibration::kSmoothQuant}), Error)
      << "nobody has chosen its scales";
  EXPECT_EQ(run_twice(engine, c, batch).values, bf16.values) << "what was loaded stays";
}

/// The logits of a case of suite_decoder in this form.
std::vector<float> logits_of(Engine& engine, const TransformerBatch& batch, Precision precision,
                             const std::string& kv = "same", const std::string& head = "same") {
  Case c = tiny_case(Suite::kDecoder);
  c.precision = precision;
  c.kv = kv;
  c.head = head;
  engine.check_supported(c);
  engine.load(c, preset("tiny"), weight_form(c));
  return run_twice(engine, c, batch).values;
}

// Breaks when the precision or the kv axis does not reach what is computed.
TEST_F(ReferenceEngineTest, ActivationsAndCacheAreQuantisedAsTheAxesSay) {
  const auto of = [&](Precision precision, const char* kv = "same", const char* head = "same") {
    return logits_of(engine, batch, precision, kv, head);
  };
  const std::vector<float> exact = of(Precision::kFp32), w8a16 = of(Precision::kW8a16),
                           int8 = of(Precision::kInt8);
  EXPECT_NE(int8, w8a16) << "the same weights";
  EXPECT_LT(relative_l2(int8, exact), 0.3);
  EXPECT_EQ(int8, of(Precision::kInt8, "int8")) << "same is int8";
  EXPECT_NE(int8, of(Precision::kInt8, "16bit"));
  EXPECT_NE(int8, of(Precision::kInt8, "fp8"));
  EXPECT_EQ(of(Precision::kFp8), of(Precision::kFp8, "fp8"));
  EXPECT_NE(of(Precision::kFp8), int8);
  EXPECT_EQ(of(Precision::kBf16), of(Precision::kBf16, "16bit"));
  EXPECT_NE(of(Precision::kBf16), of(Precision::kBf16, "int8"));
  EXPECT_EQ(w8a16, of(Precision::kW8a16, "16bit"));
  for (const Precision p : {Precision::kFp8, Precision::kInt8, Precision::kW8a16, Precision::kW4a16}) {
    EXPECT_NE(of(p), of(p, "same", "16bit")) << "the head's own bits";
  }
}

// Breaks when the fp32 truth of a quantised form, which has its values and nothing else, quantises its activations.
TEST_F(ReferenceEngineTest, TheFp32TruthOfAFormQuantisesNoActivations) {
  Case c = tiny_case(Suite::kDecoder);
  engine.load(c, config, {.precision = Precision::kInt8});
  const Output truth = run_twice(engine, c, batch);
  // w8a16 has the same values of weights.
  EXPECT_EQ(truth.values, logits_of(engine, batch, Precision::kW8a16));
}

// Breaks when the change that a tolerance stands on is no change, is not of the case's own form, or stays switched on.
TEST_F(ReferenceEngineTest, TakesItsInputsAsAsked) {
  for (const Suite suite : kModelSuites) {
    for (const Precision p : {Precision::kInt8, Precision::kFp8, Precision::kBf16}) {
      Case c = tiny_case(suite);
      c.precision = p;
      if (p == Precision::kBf16 && suite != Suite::kEncoder) c.kv = "int8";
      engine.load(c, config, weight_form(c));
      const std::vector<int32_t> tokens = decoder_prefix(config, 3, 6, kInputSeed);
      const auto compute = [&](Inputs inputs) {
        EXPECT_TRUE(engine.take(inputs));
        return suite == Suite::kGenerate ? engine.forced_logits(batch, tokens, 6).values
                                         : run_twice(engine, c, batch).values;
      };
      const std::vector<float> exact = compute(Inputs::kOwn);
      const double change = relative_l2(compute(Inputs::kRounded), exact);
      EXPECT_GT(change, 1e-4) << case_name(c);
      EXPECT_LT(change, 0.5) << case_name(c);
      const std::vector<float> plain = compute(Inputs::kUnquantised);
      EXPECT_EQ(compute(Inputs::kOwn), exact);
      Case truth = c;
      truth.precision = Precision::kFp32;
      truth.kv = "same";
      engine.load(truth, config, weight_form(c));
      EXPECT_EQ(compute(Inputs::kOwn), plain);
    }
  }
}

// Breaks when beams or drawn tokens are decoded along another cache than the case's.
TEST_F(ReferenceEngineTest, SearchesUseTheCacheOfTheCase) {
  GenerationConfig g;
  g.beams = 3;
  g.max_length = 9;
  g.decoder_start_id = config.decoder_start_id;
  const auto score = [&](const char* kv) {
    Case c = tiny_case(Suite::kGenerate);
    c.kv = kv;
    engine.load(c, config, weight_form(c));
    return engine.decode(batch, g).front().front().score;
  };
  EXPECT_NE(score("same"), score("int8"));
  EXPECT_NEAR(score("same"), score("int8"), 0.1);
}

// Bit for bit: a code that turned because a sum came out otherwise would be an error of a whole step, far over 1e-5.
// Breaks when one way sums, quantises or keeps something that the other does not.
TEST_F(ReferenceEngineTest, ChecksItselfInEveryForm) {
  for (const Suite suite : kModelSuites) {
    for (const char* kv : {"same", "16bit", "fp8", "int8"}) {
      for (const Precision p : {Precision::kBf16, Precision::kFp8, Precision::kInt8, Precision::kW4a16}) {
        Case c = tiny_case(suite);
        c.precision = p;
        c.kv = kv;
        engine.load(c, config, weight_form(c));
        EXPECT_EQ(engine.self_check(c, batch)->error, 0) << case_name(c);
      }
    }
  }
}

// Breaks when a second load changes a case that was prepared before it.
TEST_F(ReferenceEngineTest, WorkloadsKeepTheirWeights) {
  const Case c = tiny_case(Suite::kEncoder);
  const auto before = engine.prepare(c, batch);
  before->repeat();
  const Output expected = before->output();
  Case other = c;
  other.weights = "seed:9";
  engine.load(other, config, {.precision = Precision::kFp32});
  before->repeat();
  EXPECT_EQ(before->output().values, expected.values);
  EXPECT_NE(run_twice(engine, c, batch).values, expected.values);
}

// Breaks when a case that the reference does not compute is computed as another one.
TEST_F(ReferenceEngineTest, NamesWhatItDoesNotCompute) {
  const auto refused = [&](const std::string& field, auto change) {
    Case c = tiny_case(Suite::kGenerate);
    EXPECT_NO_THROW(engine.check_supported(c));
    change(c);
    try {
      engine.check_supported(c);
      ADD_FAILURE() << field << " was accepted";
    } catch (const ImpossibleCase& e) {
      EXPECT_EQ(std::string(e.what()).find(field + ":"), 0u) << e.what();
    }
  };
  refused("suite", [](Case& c) { c.suite = Suite::kCollectives; });
  refused("precision", [](Case& c) {
    c.suite = Suite::kKernels;
    c.precision = Precision::kFp8;
  });
  refused("kv", [](Case& c) {
    c.suite = Suite::kKernels;
    c.kv = "fp8";
  });
  refused("calibration", [](Case& c) {
    c.suite = Suite::kMemory;
    c.calibration = "awq";
  });
  refused("sparsity", [](Case& c) {
    c.suite = Suite::kKernels;
    c.sparsity = "2:4";
  });
  refused("tp", [](Case& c) {
    c.suite = Suite::kKernels;
    c.tp = 2;
  });
  refused("dp", [](Case& c) {
    c.suite = Suite::kKernels;
    c.dp = 2;
  });
  refused("decode", [](Case& c) {
    c.suite = Suite::kDecoder;
    c.decode = "beam:4";
  });
  refused("kernel", [](Case& c) { c.kernel = "own"; });
  EXPECT_THROW(engine.prepare_op(tiny_case(Suite::kGenerate), config), ImpossibleCase);
  EXPECT_THROW(ReferenceEngine().prepare(tiny_case(Suite::kEncoder), batch), Error);
}

}  // namespace
}  // namespace tandem::reference
