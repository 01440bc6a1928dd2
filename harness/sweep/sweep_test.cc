#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

#include "harness/base/error.h"
#include "harness/base/sha256.h"
#include "harness/model/config.h"
#include "harness/sweep/case.h"
#include "harness/sweep/files.h"
#include "harness/sweep/pattern.h"
#include "harness/sweep/sweep_spec.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

struct TemporaryFolder {
  fs::path path;
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "tandem_sweep_test.XXXXXX").string();
    path = ::mkdtemp(name.data());
  }
  ~TemporaryFolder() { fs::remove_all(path); }
};

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const UsageError& e) {
    return e.what();
  }
  return "(no UsageError)";
}

std::string sweep_error(const json& sweep) {
  return error_of([&] { expand_sweep(sweep, {}); });
}

json group(json extra) {
  json g = {{"suite", "decoder"}, {"model", "tiny"}, {"precision", "fp32"}};
  g.update(extra);
  return {{"groups", {g}}};
}

// Without it a renamed or reordered axis changes the names that every record, filter and report uses.
TEST(CaseName, AlwaysPrintedFieldsThenThoseNotAtTheirDefault) {
  Case c;
  c.model = "transformer-big";
  c.batch = 8;
  EXPECT_EQ(
      case_name(c),
      "decoder/model:transformer-big/batch:8/src:128/tgt:128/precision:bf16/sparsity:dense/tp:1/engine:cuda");
  c.kv = "fp8";
  c.calibration = "smoothquant";
  c.head = "16bit";
  c.weights = "seed:3";
  EXPECT_EQ(
      case_name(c),
      "decoder/model:transformer-big/batch:8/src:128/tgt:128/precision:bf16/sparsity:dense/tp:1/engine:cuda/"
      "weights:seed:3/kv:fp8/calibration:smoothquant/head:16bit");
}

// Without it an edit of the table, or a new axis, silently changes every id, and no old baseline matches
// again.
TEST(CaseId, IsFrozen) {
  EXPECT_EQ(case_id(Case{}), sha256_hex(R"({"suite":"decoder"})").substr(0, 16));
  EXPECT_EQ(case_id(Case{}), "b873c0fb1e55b380");
  Case c{.suite = Suite::kEncoder,
         .model = "tiny",
         .batch = 8,
         .precision = Precision::kFp32,
         .engine = "reference"};
  EXPECT_EQ(
      case_id(c),
      sha256_hex(R"({"batch":8,"engine":"reference","model":"tiny","precision":"fp32","suite":"encoder"})")
          .substr(0, 16));
}

// Without it two model files of one path would share an id, or one file under two paths would have two.
TEST(CaseId, AFileEntersByItsContent) {
  TemporaryFolder folder;
  json config = preset("tiny");
  std::ofstream(folder.path / "a.json") << config;
  std::ofstream(folder.path / "b.json") << config;
  config["vocab"] = 999;
  std::ofstream(folder.path / "c.json") << config;
  Case a, b, c;
  a.model = folder.path / "a.json";
  b.model = folder.path / "b.json";
  c.model = folder.path / "c.json";
  EXPECT_EQ(case_id(a), case_id(b));
  EXPECT_NE(case_id(a), case_id(c));
  EXPECT_NE(case_id(a), case_id(Case{}));
}

// Without it a field that to_json forgets would come back at its default in the worker.
TEST(CaseJson, RoundTripsEveryAxis) {
  const Case c{.suite = Suite::kKernels,
               .model = "t5-3b",
               .weights = "seed:7,outliers",
               .batch = 3,
               .src = 5,
               .tgt = 9,
               .lengths = "ragged:0.5",
               .precision = Precision::kW4a16,
               .kv = "int8",
               .sparsity = "2:4+heads:0.25",
               .calibration = "awq",
               .head = "16bit",
               .tp = 4,
               .dp = 2,
               .allreduce = "twoshot",
               .decode = "top_k:4,temperature:0.8",
               .stop = "eos",
               .kernel = "own",
               .memory = "gpu",
               .engine = "my_peer-2",
               .op = "gemm_head"};
  EXPECT_EQ(case_from_json(case_to_json(c)), c);
  static const Case defaults;
  for (const Axis& a : axes())
    EXPECT_NE(a.get(c), a.get(defaults)) << a.name;  // the case above misses no axis
}

// Breaks when an option of the decode axis does not reach the search.
TEST(Axes, DecodeBecomesAGenerationConfig) {
  GenerationConfig own;
  own.min_length = 7;
  own.beams = own.n_best = 6;
  const GenerationConfig beam = with_decode(
      own, parse_decode(
               "beam:4,length_penalty:0.6,early_stopping:never,repetition_penalty:1.5,no_repeat_ngram:3"));
  EXPECT_EQ(beam.beams, 4);
  EXPECT_EQ(beam.n_best, 6) << "what no flag names is the file's";
  EXPECT_EQ(beam.min_length, 7);
  EXPECT_EQ(beam.length_penalty, 0.6);
  EXPECT_EQ(beam.early_stopping, EarlyStopping::kNever);
  EXPECT_EQ(beam.repetition_penalty, 1.5);
  EXPECT_EQ(beam.no_repeat_ngram, 3);
  const GenerationConfig sample = with_decode(own, parse_decode("top_k:4,top_p:0.9,temperature:0.5"));
  EXPECT_TRUE(sample.sample);
  EXPECT_EQ(sample.beams, 1);
  EXPECT_EQ(sample.top_k, 4);
  EXPECT_EQ(sample.top_p, 0.9);
  EXPECT_EQ(sample.temperature, 0.5);
  EXPECT_FALSE(with_decode(own, parse_decode("greedy")).sample);
  // A flag that sets one rule leaves a file's others.
  own.length_penalty = 2;
  own.early_stopping = EarlyStopping::kTrue;
  own.repetition_penalty = 1.3;
  own.no_repeat_ngram = 3;
  own.top_k = 7;
  own.top_p = 0.4;
  GenerationConfig beams = own;
  beams.beams = 4;
  EXPECT_EQ(with_decode(own, parse_decode("beam:4")), beams);
  beams.length_penalty = 1;
  beams.early_stopping = EarlyStopping::kFalse;
  EXPECT_EQ(with_decode(own, parse_decode("beam:4,length_penalty:1,early_stopping:false")), beams);
  EXPECT_EQ(with_decode(own, parse_decode("top_p:0.9")).top_k, 7);
  EXPECT_EQ(with_decode(own, parse_decode("top_k:5")).top_p, 0.4);
  EXPECT_EQ(decode_text(parse_decode("beam:4,length_penalty:1,early_stopping:false")), "beam:4")
      << "the id of a case is that of its neutral values";
}

// Without it a typo in a cases file would be measured as something else.
TEST(CaseJson, RefusesUnknownKeysAndTypes) {
  json j = case_to_json(Case{});
  j["btach"] = 8;
  EXPECT_EQ(error_of([&] { case_from_json(j); }),
            "unknown axis 'btach'; model weights batch src tgt lengths precision kv sparsity calibration "
            "head tp dp allreduce decode stop kernel memory engine op; did you mean 'batch'?");
  j = case_to_json(Case{});
  j["batch"] = "8";
  EXPECT_EQ(error_of([&] { case_from_json(j); }),
            "batch: '\"8\"' is not allowed; an integer from 1 to 65536");
}

// Without it a bad value would run as something else, or be refused without saying what is allowed.
TEST(Axes, RefuseWhatIsNotAllowed) {
  const std::pair<const char*, std::vector<const char*>> bad[] = {
      {"model", {"", "gpt-2", "transformer"}},
      {"weights", {"", "seed", "seed:", "seed:-1", "seed:1,", "seed:1,outlier", "random"}},
      {"batch", {"", "0", "-1", "+1", "1.5", "65537", "99999999999999999999", "8 ", "0x8"}},
      {"src", {"0"}},
      {"tgt", {"0"}},
      {"lengths", {"", "ragged", "ragged:0", "ragged:1.1", "ragged:nan", "file:", "ids:", "half"}},
      {"precision", {"", "fp64", "BF16", "fp32 tf32"}},
      {"kv", {"", "bf16", "8bit"}},
      {"sparsity",
       {"", "none", "2:4+", "+2:4", "2:4+2:4", "heads:0", "heads:1", "heads:-0.5", "heads:nan",
        "heads:0.5+heads:0.5", "dense+2:4", "2:4+unstructured:0.5", "unstructured", "1:2", "threshold:0",
        "threshold:-1", "threshold:inf", "threshold:0.1+unstructured:0.5", "2:4+threshold:0.1"}},
      {"calibration", {"", "gptq", "smoothquant+awq"}},
      {"head", {"", "8bit", "16"}},
      {"tp", {"0", "3", "16"}},
      {"dp", {"0", "5"}},
      {"allreduce", {"", "ring", "nvls"}},
      {"decode",
       {"",
        "beam",
        "beam:1",
        "beam:33",
        "beam:4,temperature:1",
        "beam:4,beam:4",
        "top_k:0",
        "top_p:0",
        "top_p:1.1",
        "top_p:nan",
        "top_k:4,temperature:0",
        "top_p:0.9,top_k:4",
        "temperature:0.5",
        "greedy,temperature:1",
        "top_k:4,length_penalty:1",
        "top_k:4,",
        "greedy,beam:4",
        "beam:4,early_stopping:maybe",
        "beam:4,early_stopping:true,length_penalty:2",
        "greedy,no_repeat_ngram:0",
        "greedy,repetition_penalty:0"}},
      {"stop", {"", "never"}},
      {"kernel", {"", "cublas", "auto own"}},
      {"memory", {"", "level3"}},
      {"engine", {"", "auto", "Cuda", "1st", "a b"}},
      {"op", {"gemm_x"}},
  };
  size_t covered = 0;
  for (const auto& [name, values] : bad) {
    ++covered;
    for (const char* value : values) {
      Case c;
      const std::string message = error_of([&, &name = name] { axis(name).set(c, value); });
      EXPECT_TRUE(message.starts_with(fmt::format("{}: '{}' is not allowed; ", name, value))) << message;
      EXPECT_TRUE(message.ends_with(axis(name).allowed)) << message;
      EXPECT_EQ(c, Case{}) << "a refused value must leave the case alone";
    }
  }
  EXPECT_EQ(covered, axes().size());
}

// Without it "heads:.50+2:4" and "2:4+heads:0.5" would be two cases with two ids.
TEST(Axes, ValuesBecomeCanonical) {
  const std::tuple<const char*, const char*, const char*> forms[] = {
      {"sparsity", "heads:.50+2:4", "2:4+heads:0.5"},
      {"sparsity", "layers:0.25+ffn:1e-1", "ffn:0.1+layers:0.25"},
      {"sparsity", "heads:0.5+threshold:1.50", "threshold:1.5+heads:0.5"},
      {"decode", "top_k:4,top_p:1,temperature:1.0", "top_k:4"},
      {"decode", "top_p:0.90", "top_p:0.9"},
      {"decode", "beam:4,length_penalty:0.60", "beam:4,length_penalty:0.6"},
      {"decode", "beam:4,early_stopping:false,no_repeat_ngram:3", "beam:4,no_repeat_ngram:3"},
      {"decode", "greedy,repetition_penalty:1.20", "greedy,repetition_penalty:1.2"},
      {"lengths", "ragged:.5", "ragged:0.5"},
      {"weights", "seed:007", "seed:7"},
      {"batch", "008", "8"},
  };
  for (const auto& [name, given, expected] : forms) {
    Case c;
    axis(name).set(c, given);
    EXPECT_EQ(axis(name).get(c), expected);
    axis(name).set(c, expected);  // and the canonical form is a fixed point
    EXPECT_EQ(axis(name).get(c), expected);
  }
}

// Without it a comma inside a value would split "seed:0,outliers" into a value and an error.
TEST(SplitValues, ACommaInsideAValueDoesNotSeparate) {
  using Values = std::vector<std::string>;
  EXPECT_EQ(split_values(axis("batch"), "1,8,64"), (Values{"1", "8", "64"}));
  EXPECT_EQ(split_values(axis("weights"), "seed:0,outliers,seed:1"), (Values{"seed:0,outliers", "seed:1"}));
  EXPECT_EQ(split_values(axis("decode"), "greedy,top_k:4,temperature:0.8,beam:4,length_penalty:0.6"),
            (Values{"greedy", "top_k:4,temperature:0.8", "beam:4,length_penalty:0.6"}));
  EXPECT_EQ(error_of([] { split_values(axis("batch"), "1,0"); }),
            "batch: '0' is not allowed; an integer from 1 to 65536");
  EXPECT_EQ(error_of([] { split_values(axis("batch"), "1,"); }),
            "batch: '' is not allowed; an integer from 1 to 65536");
}

// Without it a sweep measures other cases than it says, or in an order that its reader does not expect.
TEST(Sweep, ExpandsInTableOrderFirstAxisOutermost) {
  const SweepCases s = expand_sweep(group({{"src", {8, 16}}, {"batch", {1, 2}}}), {});
  std::vector<std::pair<int, int>> got;
  for (const Case& c : s.cases) got.emplace_back(c.batch, c.src);
  EXPECT_EQ(got, (std::vector<std::pair<int, int>>{{1, 8}, {1, 16}, {2, 8}, {2, 16}}));
  EXPECT_EQ(s.cases[0].engine, "reference");
  EXPECT_TRUE(s.skipped.empty());
  EXPECT_EQ(s.workers, std::nullopt);
}

// Without it one case would be measured twice, and two records would fight for one key.
TEST(Sweep, DropsDuplicatesAlsoOfAxesThatASuiteDoesNotUse) {
  const json sweep = {
      {"workers", 3},
      {"groups",
       {{{"suite", "encoder"}, {"model", "tiny"}, {"tgt", {1, 2, 3}}, {"batch", {1, 1, 2}}},
        {{"suite", "encoder"}, {"model", "tiny"}, {"batch", {2, 4}}},
        {{"suite", "limits"}, {"model", {"tiny", "t5-3b"}}, {"op", "read"}, {"precision", {"fp32", "fp16"}}},
        {{"suite", "limits"}, {"op", "gemm"}, {"precision", {"fp32", "fp16"}}}}}};
  const SweepCases s = expand_sweep(sweep, {});
  std::set<std::string> ids;
  for (const Case& c : s.cases) ids.insert(case_id(c));
  EXPECT_EQ(ids.size(), s.cases.size());
  EXPECT_EQ(s.cases.size(), 3u + 1u + 2u);
  EXPECT_EQ(s.workers, 3);
}

// Without it a suite would be prepared as both kinds of work, or a pass of a model would have no cost and no floor.
TEST(Suites, MeasureAModelOrOperations) {
  std::string models, operations;
  for (const Suite suite : suites()) {
    EXPECT_FALSE(is_model_suite(suite) && is_op_suite(suite)) << suite_name(suite);
    if (is_model_suite(suite)) models += fmt::format("{} ", suite_name(suite));
    if (is_op_suite(suite)) operations += fmt::format("{} ", suite_name(suite));
  }
  EXPECT_EQ(models, "encoder decoder generate ");
  EXPECT_EQ(operations, "kernels collectives memory limits ");
}

// Without it a suite with operations would need all of them spelt out, or measure none.
TEST(Sweep, AMissingOpMeansAllOfThem) {
  for (const Suite suite : suites()) {
    const SweepCases s = expand_sweep(
        {{"groups", {{{"suite", suite_name(suite)}, {"model", "tiny"}, {"precision", "fp32"}}}}}, {});
    EXPECT_EQ(s.cases.size(), std::max<size_t>(1, suite_ops(suite).size()));
  }
  EXPECT_NE(sweep_error(group({{"op", "gemm_qkv"}}))
                .find("op: 'gemm_qkv' is not allowed in suite decoder; it has none"),
            std::string::npos);
}

// Without it an impossible combination would either stop a sweep or vanish from it.
TEST(Sweep, ImpossibleCombinationsAreSkippedWithTheirReason) {
  const ModelConfig tiny = preset("tiny");
  int tp = 8;
  ASSERT_NE(tiny.decoder.heads % tp, 0) << "the test needs a degree that does not divide tiny's heads";
  SweepCases s = expand_sweep(group({{"tp", {1, tp}}}), {});
  ASSERT_EQ(s.skipped.size(), 1u);
  EXPECT_EQ(s.cases.size(), 1u);
  EXPECT_NE(s.skipped[0].reason.find("tp: 8 does not divide"), std::string::npos);
  EXPECT_FALSE(s.skipped[0].for_device);

  const int table = preset("bart-base").max_positions;
  s = expand_sweep(group({{"model", "bart-base"}, {"tgt", {4, table, table + 1}}}), {});
  ASSERT_EQ(s.skipped.size(), 1u);
  EXPECT_NE(s.skipped[0].reason.find("tgt: "), std::string::npos) << s.skipped[0].reason;
  // Computed positions have no table that ends.
  EXPECT_TRUE(expand_sweep(group({{"model", "m2m100-418m"}, {"tgt", 5000}}), {}).skipped.empty());
  EXPECT_EQ(expand_sweep(group({{"model", "marian-base"}, {"tgt", 5000}}), {}).skipped.size(), 1u);
  // suite_encoder has no tgt, so the same length is nothing to it.
  s = expand_sweep(group({{"suite", "encoder"}, {"model", "bart-base"}, {"tgt", table + 1}}), {});
  EXPECT_TRUE(s.skipped.empty());

  const char* impossible[] = {R"({"model": "bart-base", "src": 65536})",
                              R"({"weights": "checkpoint"})",
                              R"({"sparsity": "layers:0.01"})",
                              R"({"sparsity": "layers:0.99"})",
                              R"({"sparsity": "heads:0.99"})",
                              R"({"sparsity": "threshold:1000"})",
                              R"({"sparsity": "ffn:0.49+2:4"})",
                              R"({"sparsity": "heads:0.25", "tp": 2})",
                              R"({"lengths": "ragged:0.001", "batch": 8})"};
  for (const char* text : impossible) {
    s = expand_sweep(group(json::parse(text)), {});
    EXPECT_EQ(s.cases.size(), 0u) << text;
    EXPECT_EQ(s.skipped.size(), 1u) << text;
  }
}

// Without it a machine without a GPU would try a case that needs one, or drop it in silence.
TEST(Sweep, CasesWithoutTheirDeviceAreSkipped) {
  const json sweep = {
      {"groups",
       {{{"suite", "decoder"}, {"model", "tiny"}, {"needs", "device"}, {"batch", 2}},
        {{"suite", "decoder"}, {"model", "tiny"}, {"engine", {"cuda", "reference"}}, {"tp", {1, 2}}}}}};
  const SweepCases none = expand_sweep(sweep, {});
  EXPECT_EQ(none.cases.size(), 2u);
  EXPECT_EQ(none.skipped.size(), 3u);
  for (const SkippedCase& s : none.skipped) EXPECT_TRUE(s.for_device);
  const SweepCases one = expand_sweep(sweep, {.engine = "cuda", .device = true, .devices = 1});
  EXPECT_EQ(one.cases.size(), 4u);
  ASSERT_EQ(one.skipped.size(), 1u);
  EXPECT_EQ(one.skipped[0].reason, "tp 2 x dp 1 needs 2 devices, there are 1");
}

// Without it a bad sweep would stop half way, or run something else than it says.
TEST(Sweep, BadSpecsAreRefusedAndNamed) {
  const std::pair<json, const char*> bad[] = {
      {json::array(), "not a JSON object"},
      {json::object(), "groups: a list of at least one group is needed"},
      {{{"groups", json::array()}}, "groups: a list of at least one group is needed"},
      {{{"groups", {1}}}, "groups[0]: not a JSON object"},
      {{{"grups", json::array()}}, "unknown key 'grups'; workers, groups"},
      {{{"groups", {{{"model", "tiny"}}}}}, "groups[0]: suite: missing or not a string"},
      {{{"groups", {{{"suite", "encode"}}}}},
       "groups[0]: suite: 'encode' is not allowed; encoder decoder generate"},
      {{{"workers", 0}, {"groups", {{{"suite", "encoder"}}}}},
       "workers: 0 is not allowed; an integer from 1 to 1000"},
      {group({{"btach", 1}}), "groups[0]: unknown axis 'btach'; model weights batch"},
      {group({{"batch", json::array()}}), "groups[0]: batch: the list is empty; an integer from 1 to 65536"},
      {group({{"batch", 0}}), "groups[0]: batch: '0' is not allowed; an integer from 1 to 65536"},
      {group({{"batch", -3}}), "groups[0]: batch: '-3' is not allowed"},
      {group({{"batch", 1.5}}), "groups[0]: batch: 1.5 is not allowed"},
      {group({{"batch", "8"}}), "groups[0]: batch: \"8\" is not allowed"},
      {group({{"precision", 16}}), "groups[0]: precision: 16 is not allowed; fp32 tf32"},
      {group({{"precision", {"fp32", "fp33"}}}), "groups[0]: precision: 'fp33' is not allowed"},
      {group({{"needs", "gpu"}}), "groups[0]: needs: \"gpu\" is not allowed; \"device\""},
      {group({{"engine", "refrence"}}),
       "groups[0]: engine: 'refrence' is not allowed; cuda, reference or a peer"},
      {group({{"model", "nowhere/model.json"}}), "groups[0]: model: cannot read nowhere/model.json"},
      {group({{"lengths", "file:nowhere"}}), "groups[0]: lengths: cannot read nowhere"},
  };
  for (const auto& [sweep, message] : bad) {
    EXPECT_TRUE(sweep_error(sweep).starts_with(message)) << sweep_error(sweep) << "\nfor " << sweep;
  }
  EXPECT_NO_THROW(expand_sweep(group({{"engine", "mine"}}), {.peers = {"mine"}}));
}

// Without it an error in a file would not say which file.
TEST(Sweep, FileErrorsCarryThePath) {
  TemporaryFolder folder;
  const std::string path = folder.path / "s.json";
  EXPECT_NE(error_of([&] { load_sweep(path, {}); }).find(path), std::string::npos);
  std::ofstream(path) << "{\"groups\": [";
  EXPECT_TRUE(error_of([&] { load_sweep(path, {}); }).starts_with(path + ": not JSON: "));
  std::ofstream(path) << group({{"batch", 0}});
  EXPECT_TRUE(error_of([&] { load_sweep(path, {}); }).starts_with(path + ": groups[0]: batch: "));
}

// Without it cases that need other weights would share a process, or each case would load its weights again.
TEST(GroupKey, IsWhatAWorkerLoads) {
  Case a, b;
  b.batch = 64;
  b.src = 7;
  b.lengths = "ragged:0.5";
  EXPECT_EQ(group_key(a), group_key(b));
  const std::pair<const char*, const char*> loads[] = {
      {"model", "tiny"},      {"weights", "seed:1"}, {"precision", "fp32"}, {"sparsity", "2:4"},
      {"kv", "fp8"},          {"tp", "2"},           {"dp", "2"},           {"engine", "reference"},
      {"calibration", "awq"}, {"head", "16bit"}};
  for (const auto& [name, value] : loads) {
    Case c;
    axis(name).set(c, value);
    EXPECT_NE(group_key(a), group_key(c)) << name;
  }
}

// Without it --filter would mean something else than --benchmark_filter.
TEST(Pattern, ExtendedExpressionsMatchAnyPart) {
  EXPECT_TRUE(Pattern("batch:(1|8)/").in("decoder/batch:8/src:4"));
  EXPECT_FALSE(Pattern("batch:(1|8)/").in("decoder/batch:64/src:4"));
  EXPECT_FALSE(Pattern("^batch").in("decoder/batch:8"));
  EXPECT_TRUE(error_of([] { Pattern("["); }).starts_with("'[' is not a regular expression: "));
}

// Without it a reader could see half of environment.json, and an unwritable folder would go unnoticed.
TEST(Files, AtomicWriteReplacesOrLeavesAlone) {
  TemporaryFolder folder;
  const fs::path path = folder.path / "x";
  write_file_atomic(path, "one");
  write_file_atomic(path, "two");
  EXPECT_EQ(read_file(path), "two");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path), {}), 1);
  EXPECT_THROW(write_file_atomic(folder.path / "no" / "x", "y"), IoError);
}

// Without it the digest of a checkpoint would miss a changed shard, or hash gigabytes in every worker.
TEST(Files, FolderDigestSeesEveryShardAndBigFilesAreRemembered) {
  TemporaryFolder folder;
  ::setenv("XDG_CACHE_HOME", (folder.path / "cache").c_str(), 1);
  const fs::path model = folder.path / "model";
  fs::create_directories(model);
  EXPECT_THROW(content_sha256(model), IoError);
  std::ofstream(model / "config.json") << "{}";
  std::ofstream(model / "m.safetensors") << std::string(20 << 20, 'x');
  std::ofstream(model / "notes.txt") << "not part of it";
  const std::string first = content_sha256(model);
  EXPECT_TRUE(fs::exists(folder.path / "cache" / "tandem" / "digests.json"));
  const fs::path copy = folder.path / "copy";
  fs::copy(model, copy);
  fs::remove(copy / "notes.txt");
  EXPECT_EQ(content_sha256(copy), first);
  const fs::path changed = folder.path / "changed";
  fs::copy(model, changed);
  std::ofstream(changed / "m.safetensors", std::ios::app) << "y";
  EXPECT_NE(content_sha256(changed), first);
  ::unsetenv("XDG_CACHE_HOME");
}

}  // namespace
}  // namespace tandem
