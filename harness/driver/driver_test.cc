// `tandem run` from the outside, with fake suite binaries that fail as planted.
#include "harness/driver/session/ceilings_store.h"
#include "harness/driver/testing/driver_fixture.h"
#include "harness/record/json_schema.h"

namespace tandem {
namespace {

using testing::DriverTest;
using testing::Finished;
using testing::json;
namespace fs = std::filesystem;

// Without it one bad case costs others: the promise of a process a group.
TEST_F(DriverTest, AFaultCostsItsOwnCaseOnly) {
  environment_["TANDEM_FAKE_FAULTS"] =
      "2:segv,3:hang,4:oom,5:invalid,6:garbage,7:no-line,8:exit,9:validate-segv,10:nan,11:wrong-hash,12:"
      "unsupported,"
      "13:flaky,14:no-samples,15:escape,16:bad-record,17:validate-garbage,18:grandchild,19:oom-exit";
  std::vector<int> batches;
  for (int i = 1; i <= 21; ++i) batches.push_back(i);
  const Finished f = tandem(run_args(sweep(batches), {"--workers", "2", "--timeout", "1", "--seed", "3"}));
  EXPECT_EQ(f.code, 1) << f.err;

  const auto all = by_batch_and_worker();
  const std::map<int, std::pair<Status, const char*>> failed = {
      {2, {Status::kCrashed, "killed by SIGSEGV; on stderr: measuring batch 2"}},
      {3, {Status::kTimeout, "printed nothing for 1 s; on stderr: measuring batch 3"}},
      {4, {Status::kOom, "out of memory: 5 bytes asked of GPU memory"}},
      {5, {Status::kInvalid, "row 3 is wrong"}},
      {7, {Status::kError, "the worker ended without a line for this case; on stdout: "}},
      {8, {Status::kCrashed, "exited with code 3"}},
      {9, {Status::kCrashed, "in the validation pass: killed by SIGSEGV"}},
      {10, {Status::kError, "sample 1 is nan us"}},
      {11, {Status::kError, "has another SHA-256"}},
      {12, {Status::kSkipped, "precision: not for this engine"}},
      {14, {Status::kError, "status ok without samples"}},
      {15, {Status::kError, "is not in samples/"}},
      {16, {Status::kError, "wall_s: \"long\" is not of type"}},
      {17, {Status::kError, "the validation pass does not keep the protocol: status: 'splendid'"}},
      {19, {Status::kCrashed, "killed by SIGKILL"}},
  };
  for (const int batch : batches) {
    ASSERT_TRUE(all.contains({batch, 0})) << batch;
    const Record& r = all.at({batch, 0});
    const auto it = failed.find(batch);
    if (it == failed.end()) {
      EXPECT_EQ(r.status, Status::kOk) << batch << ": " << r.reason.value_or("");
      ASSERT_TRUE(all.contains({batch, 1})) << batch;
      EXPECT_EQ(all.at({batch, 1}).status, Status::kOk);
      ASSERT_TRUE(r.summary);
      EXPECT_EQ(r.summary->median_us, 100 * batch + 3);
      ASSERT_TRUE(r.check) << "the driver adds what validation found";
      EXPECT_EQ(r.check->reference, "fake");
      EXPECT_GT(r.flops.value_or(0), 0) << "the driver adds the cost";
      EXPECT_EQ(r.order_seed, 3u);
      EXPECT_EQ(r.attempt, batch == 13 ? 2 : 1) << "only the case in progress is tried again";
    } else {
      EXPECT_EQ(r.status, it->second.first) << batch;
      EXPECT_NE(r.reason.value_or("").find(it->second.second), std::string::npos)
          << batch << ": " << *r.reason;
      EXPECT_FALSE(r.summary) << "no time for " << batch;
      EXPECT_FALSE(all.contains({batch, 1})) << "no other worker for " << batch;
    }
  }
  EXPECT_EQ(all.at({2, 0}).attempt, 2);
  EXPECT_EQ(all.at({4, 0}).attempt, 1) << "a failure that the worker reported is not tried again";
  EXPECT_TRUE(soon([&] { return workers_gone(); }));

  const std::string file = run_dir() + "/benchmark.json";
  const json benchmark = json::parse(read_file(file));
  EXPECT_EQ(benchmark["failures"].size(), failed.size());
  EXPECT_EQ(benchmark["benchmarks"].size(), 2 * (batches.size() - failed.size()));
  EXPECT_EQ(schema_error(environment_schema(), json::parse(read_file(run_dir() + "/environment.json"))),
            std::nullopt);
  EXPECT_FALSE(fs::exists(run_dir() + "/.work"));
  EXPECT_EQ(f.out, run_dir() + "\n") << "data on stdout, talk on stderr";
  EXPECT_NE(f.err.find("report: "), std::string::npos) << f.err;
  EXPECT_NE(f.err.find("tandem-report report " + run_dir()), std::string::npos);
}

// Without it a sticky CUDA error blames a case that never started.
TEST_F(DriverTest, AProcessThatReportsItsOwnEndBlamesNoOtherCase) {
  environment_["TANDEM_FAKE_FAULTS"] = "2:poison";
  const Finished f = tandem(run_args(sweep({1, 2, 3, 4}), {"--workers", "1"}));
  EXPECT_EQ(f.code, 1);
  for (const auto& [key, r] : by_batch_and_worker()) {
    EXPECT_EQ(r.status, key.first == 2 ? Status::kError : Status::kOk);
    EXPECT_EQ(r.attempt, 1) << key.first;
  }
  EXPECT_EQ(log_lines().size(), 1 + 4u) << "ceilings, and each case once";
}

// Without it the order of cases is the same for every worker, and drift lands on the same cases every time.
TEST_F(DriverTest, OrderIsShuffledBySeedAndWorker) {
  std::vector<int> batches;
  for (int i = 1; i <= 12; ++i) batches.push_back(i);
  auto order = [&](const std::string& seed) {
    fs::remove(log());
    fs::remove_all(run_dir());
    EXPECT_EQ(tandem(run_args(sweep(batches), {"--workers", "2", "--seed", seed})).code, 0);
    std::vector<std::string> first, second;
    for (const std::string& line : log_lines()) {
      if (line == "ceilings") continue;
      (line[17] == '0' ? first : second).push_back(line.substr(0, 16));
    }
    return std::pair(first, second);
  };
  const auto a = order("1"), again = order("1"), b = order("2");
  EXPECT_EQ(a.first.size(), 12u);
  EXPECT_EQ(a, again);
  EXPECT_NE(a.first, b.first);
  EXPECT_NE(a.first, a.second);
}

// Without it ceilings would be measured by every run, or floors would stand on nothing.
TEST_F(DriverTest, CeilingsAreMeasuredOnceAndGiveFloors) {
  for (int i = 0; i < 2; ++i) {
    fs::remove_all(run_dir());
    ASSERT_EQ(tandem(run_args(sweep({1}), {"--workers", "1"})).code, 0);
    EXPECT_GT(records().at(0).floor.floor_us.value_or(0), 0);
    EXPECT_GT(records().at(0).floor.ratio.value_or(0), 0);
    const json environment = json::parse(read_file(run_dir() + "/environment.json"));
    EXPECT_EQ(environment["ceilings"]["machine"].get<std::string>(), machine_label(std::nullopt));
  }
  int measured = 0;
  for (const std::string& line : log_lines()) measured += line == "ceilings" ? 1 : 0;
  EXPECT_EQ(measured, 1);

  fs::remove_all(folder_ / "cache");
  fs::remove_all(run_dir());
  fs::remove(bin() / "suite_limits");
  const Finished f = tandem(run_args(sweep({1}), {"--workers", "1"}));
  EXPECT_EQ(f.code, 0);
  EXPECT_NE(f.err.find("no ceilings, so no floors"), std::string::npos);
  EXPECT_FALSE(records().at(0).floor.floor_us) << "no floor, never 0";
  EXPECT_TRUE(json::parse(read_file(run_dir() + "/environment.json"))["ceilings"].is_null());
}

// Without it a bad line would start a run, end with the wrong code, or not say what is wrong.
TEST_F(DriverTest, BadInputIsRefusedBeforeAnythingRuns) {
  // runs/ is the default place of runs: somebody's own may lie there.
  auto runs_here = [] {
    std::error_code none;
    return std::distance(fs::directory_iterator("runs", none), fs::directory_iterator());
  };
  const auto runs_before = runs_here();
  const std::string good = sweep({1});
  auto file = [&](const std::string& text) {
    static int n = 0;
    const std::string path = folder_ / fmt::format("bad{}.json", n++);
    std::ofstream(path) << text;
    return path;
  };
  auto group = [&](const std::string& fields) {
    return file(R"({"groups": [{"suite": "decoder", "model": "tiny", )" + fields + "}]}");
  };
  const std::string full = folder_ / "full";
  fs::create_directories(full);
  std::ofstream(full + "/thesis.txt") << "x";
  const std::string a_file = folder_ / "a_file";
  std::ofstream(a_file) << "x";
  const std::string deep = std::string(100000, '[') + std::string(100000, ']');
  const std::string deep_run = folder_ / "deep_run";
  fs::create_directories(deep_run);
  for (const char* name : {"environment.json", "duet.json"}) std::ofstream(fs::path(deep_run) / name) << deep;

  struct Row {
    std::vector<std::string> args;
    int code;
    const char* message;
  };
  std::vector<Row> rows = {
      {{}, 2, "a command is needed: help run"},
      {{"rum"}, 2, "unknown command 'rum'; did you mean 'run'?"},
      {{"run"}, 2, "SWEEP is required"},
      {{"run", folder_ / "nowhere.json"}, 2, "cannot read"},
      {{"run", file("{")}, 2, "not JSON"},
      {{"run", file(deep)}, 2, "nests deeper than 64"},
      {{"run", file("[]")}, 2, "not a JSON object"},
      {{"run", file("{}")}, 2, "groups: a list of at least one group is needed"},
      {{"run", file(R"({"groups": [], "group": 1})")}, 2, "unknown key 'group'; workers, groups"},
      {{"run", group(R"("btach": 1)")}, 2, "groups[0]: unknown axis 'btach'; model weights batch"},
      {{"run", group(R"("batch": [])")}, 2, "batch: the list is empty"},
      {{"run", group(R"("batch": 0)")}, 2, "batch: '0' is not allowed; an integer from 1 to 65536"},
      {{"run", group(R"("src": -4)")}, 2, "src: '-4' is not allowed"},
      {{"run", group(R"("precision": "fp12")")}, 2, "precision: 'fp12' is not allowed; fp32 tf32"},
      {{"run", group(R"("engine": "warp")")}, 2, "engine: 'warp' is not allowed; cuda, reference or a peer"},
      {{"run", good, "--engine", "warp"},
       2,
       "--engine: 'warp' is not allowed; auto, cuda, reference or a peer"},
      {{"run", good, "--engine", "cuda"}, 3, "--engine cuda: no usable device"},
      {{"run", good, "--peer", "mine"}, 2, "--peer: 'mine' is not allowed; NAME=COMMAND"},
      {{"run", good, "--peer", "cuda=x"}, 2, "--peer: 'cuda' is an engine of Tandem's own"},
      {{"run", good, "--peer", "A B=x"}, 2, "engine: 'A B' is not allowed"},
      {{"run", good, "--filter", "["}, 2, "--filter: '[' is not a regular expression"},
      {{"run", good, "--filter", "nothing_like_it"},
       2,
       "--filter: 'nothing_like_it' matches none of the 1 cases"},
      {{"run", good, "--shard", "0/2"}, 2, "--shard: '0/2' is not allowed; i/n with 1 <= i <= n"},
      {{"run", good, "--shard", "1"}, 2, "--shard: '1' is not allowed"},
      {{"run", good, "--shard", "2/2"}, 2, "--shard: 2/2 has none of the 1 cases"},
      {{"run", good, "--workers", "0"}, 2, "--workers"},
      {{"run", good, "--timeout", "-1"}, 2, "--timeout"},
      {{"run", good, "--device", "-1"}, 2, "--device"},
      {{"run", good, "--bin-dir", folder_ / "nowhere"}, 2, "--bin-dir"},
      {{"run", good, "--resume"}, 2, "--resume: needs --out DIR"},
      {{"run", good, "--resume", "--out", folder_ / "nowhere"}, 2, "does not exist"},
      {{"run", good, "--out", full}, 2, "is not empty and not a run: it holds 'thesis.txt'"},
      {{"run", good, "--out", full, "--resume"}, 2, "is not empty and not a run: it holds 'thesis.txt'"},
      {{"run", good, "--out", a_file}, 2, "is not a folder"},
      {{"repro", folder_ / "nowhere"}, 2, "is neither a file with a record nor RUN:ID"},
      {{"repro", a_file}, 2, "not one record in JSON"},
      {{"repro", file(deep)}, 2, "nests deeper than 64"},
      {{"run", good, "--out", deep_run, "--resume"}, 2, "environment.json: JSON that nests deeper than 64"},
      {{"doctor", "--require-device"}, 3, "--require-device"},
  };
  if (fs::exists(".venv/bin/tandem-report")) {  // a duet asks for the gate first
    rows.push_back({{"duet", good, "--a", bin(), "--b", bin(), "--out", deep_run, "--resume"},
                    2,
                    "duet.json: JSON that nests deeper than 64"});
  }
  for (const Row& row : rows) {
    std::vector<std::string> args = row.args;
    if (args.size() > 1 && args[0] == "run" &&
        std::find(args.begin(), args.end(), "--bin-dir") == args.end()) {
      args.insert(args.end(), {"--bin-dir", bin()});
    }
    const Finished f = tandem(args);
    EXPECT_EQ(f.code, row.code) << f.err;
    EXPECT_NE(f.err.find(row.message), std::string::npos)
        << "expected: " << row.message << "\ngot: " << f.err;
    EXPECT_TRUE(f.out.empty() || args[0] == "doctor") << f.out;
  }
  EXPECT_TRUE(log_lines().empty()) << "nothing ran";
  EXPECT_EQ(runs_here(), runs_before) << "a refused run left a folder";
}

// Without it a combination that cannot work would stop the sweep, or be dropped in silence.
TEST_F(DriverTest, ImpossibleCasesAreRecordedAsSkipped) {
  const std::string path = sweep({1}, {{"model", "bart-base"}, {"tp", {1, 8}}, {"tgt", {4, 60000}}});
  const Finished f = tandem(run_args(path, {"--workers", "1"}));
  EXPECT_EQ(f.code, 0) << f.err;
  std::map<std::string, int> reasons;
  for (const Record& r : records()) ++reasons[r.reason.value_or("ok").substr(0, 4)];
  EXPECT_EQ(reasons, (std::map<std::string, int>{{"ok", 1}, {"tgt:", 1}, {"tp: ", 2}}));

  fs::remove_all(run_dir());
  EXPECT_EQ(tandem(run_args(sweep({1}, {{"tp", 8}}))).code, 2) << "nothing was measured";
  fs::remove_all(run_dir());
  EXPECT_EQ(tandem(run_args(sweep({1}, {{"needs", "device"}}))).code, 3) << "for want of a device";
  EXPECT_EQ(records().at(0).status, Status::kSkipped);
  fs::remove_all(run_dir());
  fs::remove(bin() / "suite_decoder");
  EXPECT_EQ(tandem(run_args(sweep({1}))).code, 2);
  EXPECT_NE(records().at(0).reason->find("suite_decoder is not in"), std::string::npos);
}

// Without it shards would measure a case twice, or none of them would.
TEST_F(DriverTest, ShardsAndFiltersPartTheCases) {
  const std::string path = sweep({1, 2, 3, 4, 5, 6, 7});
  std::multiset<int> seen;
  for (const char* shard : {"1/3", "2/3", "3/3"}) {
    fs::remove_all(run_dir());
    ASSERT_EQ(tandem(run_args(path, {"--workers", "1", "--shard", shard})).code, 0);
    for (const Record& r : records()) seen.insert(r.c.batch);
  }
  EXPECT_EQ(seen, (std::multiset<int>{1, 2, 3, 4, 5, 6, 7}));
  fs::remove_all(run_dir());
  ASSERT_EQ(tandem(run_args(path, {"--workers", "1", "--filter", "/batch:[2-3]/"})).code, 0);
  EXPECT_EQ(records().size(), 2u);
}

// Without it `tandem list` says something else than `tandem run` does.
TEST_F(DriverTest, ListShowsWhatARunWouldDo) {
  environment_["TANDEM_FAKE_FAULTS"] = "3:unsupported";
  const std::string path = sweep({1, 2, 3}, {{"tp", {1, 8}}});
  Finished f =
      tandem({"list", path, "--engine", "reference", "--bin-dir", bin(), "--json", "--workers", "1"});
  ASSERT_EQ(f.code, 0) << f.err;
  const json rows = json::parse(f.out);
  ASSERT_EQ(rows.size(), 6u);
  int skipped = 0;
  for (const json& row : rows) {
    EXPECT_EQ(row["recorded_as"].is_null(), row["predicted_s"].is_number());
    EXPECT_EQ(row["recorded_as"].is_null(), row["reason"].is_null());
    EXPECT_TRUE(row["floor_us"].is_null()) << "no ceilings yet";
    skipped += row["recorded_as"] == "skipped" ? 1 : 0;
  }
  EXPECT_EQ(skipped, 4);
  EXPECT_NE(f.err.find("2 cases, 4 skipped, 1 worker"), std::string::npos) << f.err;

  ASSERT_EQ(tandem(run_args(path, {"--workers", "1"})).code, 0);
  f = tandem({"list", path, "--engine", "reference", "--bin-dir", bin()});
  EXPECT_EQ(f.code, 0);
  EXPECT_NE(f.out.find("skipped: tp: 8 does not divide"), std::string::npos) << f.out;
  EXPECT_NE(f.out.find("skipped: precision: not for this engine"), std::string::npos) << f.out;
  EXPECT_EQ(f.err.find("no ceilings"), std::string::npos) << f.err;
}

// Without it a prediction for cards that are not here would pass for a measurement, or be made of nothing.
TEST_F(DriverTest, ListModelsCardsThatAreNotHere) {
  const std::string path = sweep({1, 64}, {{"tp", {1, 2}}, {"model", "t5-large"}});
  const std::vector<std::string> list = {"list",      path,  "--engine", "reference",
                                         "--bin-dir", bin(), "--tp",     "8"};
  const auto with = [&](std::vector<std::string> more) {
    std::vector<std::string> words = list;
    words.insert(words.end(), more.begin(), more.end());
    return tandem(words);
  };
  Finished f = with({});
  EXPECT_EQ(f.code, 2);
  EXPECT_NE(f.err.find("--tp needs the ceilings"), std::string::npos) << f.err;

  Ceilings card;
  card.machine = "a card";
  card.read_gbs = card.copy_gbs = 4000;
  card.empty_node_us = 1;
  card.burst_tflops.fill(700);
  const std::string file = (folder_ / "card.json").string();
  std::ofstream(file) << json(card);
  f = with({"--ceilings", file, "--json"});
  ASSERT_EQ(f.code, 0) << f.err;
  const json said = json::parse(f.out);
  EXPECT_NE(said["model"].get<std::string>().find("not a measurement"), std::string::npos);
  ASSERT_EQ(said["cases"].size(), 2u) << "each pass once, whatever its tp";
  for (const json& row : said["cases"]) {
    EXPECT_GT(row["tp_8"]["comm_us"].get<double>(), 0);
    EXPECT_EQ(row["tp_1"]["comm_us"].get<double>(), 0);
    EXPECT_LT(row["tp_8"]["work_us"].get<double>(), row["tp_1"]["work_us"].get<double>());
  }
  const std::string environment = (folder_ / "environment.json").string();
  std::ofstream(environment) << json{{"schema", "1.0.0"}, {"ceilings", card}};
  f = with({"--ceilings", environment, "--tp", "2,4", "--json"});
  const json of_run = json::parse(f.out);
  EXPECT_EQ(of_run["cases"][0]["tp_8"], said["cases"][0]["tp_8"]) << "a run's environment has its ceilings";
  EXPECT_TRUE(of_run["cases"][0]["tp_2"].is_object() && of_run["cases"][0]["tp_4"].is_object());
  EXPECT_EQ(with({"--ceilings", file, "--tp", "3"}).code, 2);
  f = with({"--ceilings", file});
  EXPECT_NE(f.err.find("a model, not a measurement"), std::string::npos) << f.err;
  f = with({"--ceilings", file, "--cards-per-host", "4"});
  EXPECT_EQ(f.code, 2);
  EXPECT_NE(f.err.find("network-us"), std::string::npos) << f.err;
  EXPECT_EQ(with({"--ceilings", file, "--cards-per-host", "4", "--network-us", "9"}).code, 0);
}

// Without it a case that is listed as skipped, which is nobody's fault, ends the run with a failure.
TEST_F(DriverTest, ListAndRunSayTheSameOfCasesThatGetNoTime) {
  environment_["TANDEM_FAKE_FAULTS"] = "2:too-large,3:unsupported,4:broken";
  const std::string path = sweep({1, 2, 3, 4});
  const std::vector<std::string> list = {"list", path, "--engine", "reference", "--bin-dir", bin()};
  std::vector<std::string> words = list;
  words.push_back("--json");
  Finished f = tandem(words);
  ASSERT_EQ(f.code, 0) << f.err;
  std::map<int, std::pair<json, json>> listed, recorded;
  for (const json& row : json::parse(f.out)) {
    listed[row["case"]["batch"].get<int>()] = {row["recorded_as"], row["reason"]};
  }
  EXPECT_EQ(tandem(run_args(path, {"--workers", "1"})).code, 1);
  for (const Record& r : records()) {
    const bool ok = r.status == Status::kOk;
    recorded[r.c.batch] = {ok ? json() : json(status_name(r.status)), ok ? json() : json(*r.reason)};
  }
  EXPECT_EQ(listed, recorded);
  EXPECT_EQ(listed[2].first, "oom");

  f = tandem(list);
  EXPECT_NE(f.out.find("oom: out of memory: 7 bytes asked of GPU memory"), std::string::npos) << f.out;
  EXPECT_NE(f.err.find("1 cases, 1 skipped, 1 oom, 1 error, "), std::string::npos) << f.err;
}

// Without it a peer's author is told what a JSON library thinks of a type, and not of which field of whose line.
TEST_F(DriverTest, AnAnswerWhoseIdIsNoTextIsToldInOneLine) {
  const std::string path = sweep({1, 2});
  const std::string peer = fmt::format("mine={}", (bin() / "suite_decoder").string());
  for (const std::string fault : {"number-id", "list-id"}) {
    environment_["TANDEM_FAKE_FAULTS"] = "2:" + fault;
    const Finished f = tandem({"list", path, "--engine", "mine", "--peer", peer, "--bin-dir", bin()});
    EXPECT_EQ(f.code, 1);
    EXPECT_EQ(f.err,
              fmt::format("tandem: peer 'mine': --supported: id: {} is not allowed; a case's id as text\n",
                          fault == "number-id" ? "3" : "[\"x\"]"));
    EXPECT_EQ(f.out, "");
  }
  environment_["TANDEM_FAKE_FAULTS"] = "2:garbage";
  const Finished f = tandem({"list", path, "--engine", "mine", "--peer", peer, "--bin-dir", bin()});
  EXPECT_EQ(f.code, 0) << "talk is no answer: " << f.err;
}

// Without it a record could not be run again from what it holds.
TEST_F(DriverTest, ReproRunsARecordAgain) {
  environment_["TANDEM_FAKE_FAULTS"] = "2:segv";
  tandem(run_args(sweep({1, 2}), {"--workers", "1"}));
  std::map<int, std::string> ids;
  for (const Record& r : records()) ids[r.c.batch] = r.id;
  Finished f = tandem({"repro", run_dir() + ":" + ids[1].substr(0, 8), "--bin-dir", bin()});
  EXPECT_EQ(f.code, 0) << f.err;
  EXPECT_NE(
      f.out.find(
          "suite_decoder --model tiny --batch 1 --src 4 --tgt 4 --precision fp32 --sparsity dense --tp 1 "
          "--engine reference --benchmark_format=json"),
      std::string::npos)
      << f.out;
  EXPECT_NE(f.out.find("recorded 103.00 us, now 103.00 us: +0.00 %"), std::string::npos) << f.out;
  f = tandem({"repro", run_dir() + ":" + ids[2], "--bin-dir", bin()});
  EXPECT_NE(f.out.find("recorded: crashed (killed by SIGSEGV"), std::string::npos) << f.out;
  EXPECT_EQ(tandem({"repro", run_dir() + ":ffffffff", "--bin-dir", bin()}).code, 2);
  std::ofstream(folder_ / "one.json") << record_to_json(records().at(0));
  EXPECT_EQ(tandem({"repro", folder_ / "one.json", "--bin-dir", bin()}).code, 0);
}

// Without it a machine with something missing would be told an error instead of what is missing.
TEST_F(DriverTest, DoctorNamesWhatIsMissing) {
  const Finished f = tandem({"doctor", "--bin-dir", bin()});
  EXPECT_EQ(f.code, 0) << f.err;
  EXPECT_NE(
      f.out.find("suites in " + bin().string() + ": suite_encoder suite_decoder suite_generate suite_limits"),
      std::string::npos)
      << f.out;
  EXPECT_NE(f.out.find("missing  suite_kernels suite_collectives suite_memory: their cases are skipped"),
            std::string::npos)
      << f.out;
  EXPECT_NE(f.out.find("ceilings are not measured yet"), std::string::npos);
}

// Without it a run would end when the terminal that it talks to is closed.
TEST_F(DriverTest, NobodyListeningDoesNotEndARun) {
  const std::string path = sweep({1, 2, 3});
  std::vector<std::string> words = run_args(path, {"--workers", "2"});
  std::string command = TANDEM_BINARY;
  for (const std::string& word : words) command += " " + word;
  for (const auto& [key, value] : environment_) ::setenv(key.c_str(), value.c_str(), 1);
  EXPECT_EQ(std::system((command + " 2>&1 >/dev/null | true").c_str()), 0);
  for (const auto& [key, value] : environment_) ::unsetenv(key.c_str());
  EXPECT_TRUE(soon([&] { return fs::exists(run_dir() + "/benchmark.json"); }));
  EXPECT_EQ(records().size(), 6u);
}

// Without it starting, reading and recording a worker could cost more than what is measured in it.
TEST_F(DriverTest, AWorkerCostsLittleBesidesItsOwnTime) {
  ASSERT_EQ(tandem(run_args(sweep({1}), {"--workers", "1"})).code, 0);
  fs::remove_all(run_dir());
  const auto start_time = std::chrono::steady_clock::now();
  ASSERT_EQ(tandem(run_args(sweep({1}), {"--workers", "20"})).code, 0);
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start_time;
  EXPECT_LT(wall.count() / 21, 0.2) << "20 workers and one validation";
}

// Without it the shortest engine of the README would not work.
TEST_F(DriverTest, TheExamplePeerIsMeasured) {
  if (std::system("python3 -c 'import json' >/dev/null 2>&1") != 0) GTEST_SKIP() << "no python3";
  const std::string path = sweep({1, 2}, {{"suite", "generate"}});
  const Finished f = tandem({"run", path, "--out", run_dir(), "--engine", "example", "--workers", "2",
                             "--bin-dir", bin(), "--peer", "example=python3 scripts/peers/example.py"});
  ASSERT_EQ(f.code, 0) << f.err;
  ASSERT_EQ(records().size(), 4u);
  for (const Record& r : records()) {
    EXPECT_EQ(r.status, Status::kOk);
    EXPECT_EQ(r.c.engine, "example");
    EXPECT_GE(r.summary->n, 5);
    ASSERT_TRUE(r.check && r.check->digest && r.check->digest_after);
    EXPECT_EQ(r.check->digest, r.check->digest_after);
  }
}

}  // namespace
}  // namespace tandem
