// What every command has in common, from the outside: words that are mistyped, help, several sweeps, lines that fit.
#include <algorithm>
#include <regex>

#include "harness/driver/testing/driver_fixture.h"

namespace tandem {
namespace {

using testing::DriverTest;
using testing::Finished;
using testing::json;
namespace fs = std::filesystem;

class CommandsTest : public DriverTest {
 protected:
  static std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
  }
  /// The names in the section of `tandem --help` that lists commands.
  std::vector<std::string> commands() {
    std::vector<std::string> names;
    bool in_list = false;
    for (const std::string& line : lines_of(tandem({"--help"}).out)) {
      if (line == "Subcommands:" || line == "SUBCOMMANDS:") {
        in_list = true;
      } else if (in_list && line.size() > 2 && line.starts_with("  ") && line[2] != ' ') {
        names.push_back(line.substr(2, line.find(' ', 2) - 2));
      } else if (in_list && line.empty()) {
        break;
      }
    }
    return names;
  }
};

// Without it a slip of the pen is answered with a page, a list of requirements, or 21 crashes.
TEST_F(CommandsTest, AMistypedWordIsOneLineWithWhatWasMeant) {
  const std::string good = sweep({1, 2, 3});
  const std::string script = folder_ / "engine.py";
  std::ofstream(script) << "raise SystemExit(9)\n";
  const std::string wrong_script = (folder_ / "engin.py").string();
  const std::pair<std::vector<std::string>, std::string> rows[] = {
      {{"runn", good}, "unknown command 'runn'; did you mean 'run'?"},
      {{"prof", good}, "unknown command 'prof'; did you mean 'profile'?"},
      {{"help", "lisst"}, "unknown command 'lisst'; did you mean 'list'?"},
      {{"run", good, "--wrokers", "3"},
       "unknown flag '--wrokers'; did you mean '--workers'? (see tandem help run)"},
      {{"duet", good, "--bugdet=8m"},
       "unknown flag '--bugdet'; did you mean '--budget'? (see tandem help duet)"},
      {{"--versoin"}, "unknown flag '--versoin'; did you mean '--version'? (see tandem --help)"},
      {{"run", folder_ / "t.json"}, "/t.json: no such file; did you mean '" + good + "'?"},
      {{"run", "smok"}, "cannot read smok: no such file; did you mean 'smoke'?"},
      {{"run", good, "--engine", "refrence"}, "did you mean 'reference'?"},
      {{"run", good, "--engine", "hf-stp", "--peer", "hf-step=" + script},
       "'hf-stp' is not allowed; auto, cuda, reference or a peer given as --peer hf-stp=COMMAND; did you "
       "mean 'hf-step'?"},
      {{"run", good, "--engine", "hf", "--peer", "hf=python3 " + wrong_script + " --kind hf"},
       "--peer hf: '" + wrong_script + "' is not there; did you mean '" + script + "'?"},
      {{"run", good, "--engine", "hf", "--peer", "hf=" + wrong_script}, "did you mean '" + script + "'?"},
      {{"run", good, "--engine", "hf", "--peer", "hf=no-such-program-here x"},
       "--peer hf: no program 'no-such-program-here' on PATH"},
  };
  for (const auto& [args, message] : rows) {
    const Finished f = tandem(args);
    EXPECT_EQ(f.code, 2) << f.err;
    EXPECT_NE(f.err.find(message), std::string::npos) << "expected: " << message << "\ngot: " << f.err;
    EXPECT_EQ(lines_of(f.err).size(), 1u) << f.err;
    EXPECT_EQ(f.out, "");
  }
  EXPECT_TRUE(log_lines().empty()) << "nothing ran";
}

// Without it one broken engine prints its failure once a case.
TEST_F(CommandsTest, EqualFailuresAreOneLineAndACount) {
  environment_["TANDEM_FAKE_FAULTS"] = "1:invalid,2:invalid,3:invalid,4:invalid,5:segv";
  const Finished f = tandem(run_args(sweep({1, 2, 3, 4, 5}), {"--workers", "1", "--quiet"}));
  EXPECT_EQ(f.code, 1);
  const auto lines = lines_of(f.err);
  const auto with = [&](const std::string& text) {
    return std::count_if(lines.begin(), lines.end(),
                         [&](const std::string& line) { return line.find(text) != std::string::npos; });
  };
  EXPECT_EQ(with("row 3 is wrong"), 1) << f.err;
  EXPECT_EQ(with("... and 3 more for the same reason"), 1) << f.err;
  EXPECT_EQ(with("killed by SIGSEGV"), 1) << f.err;
  EXPECT_EQ(records().size(), 5u) << "each has its record";
}

// Without it help is asked for and something is done, or it runs out of an 80 x 50 window.
TEST_F(CommandsTest, HelpFitsAndDoesNothing) {
  const std::vector<std::string> names = commands();
  ASSERT_GE(names.size(), 8u);
  for (const std::string& name : names) {
    const Finished f = tandem({name, "--help"}), same = tandem({"help", name});
    EXPECT_EQ(f.code, 0) << f.err;
    EXPECT_EQ(f.out, same.out);
    EXPECT_EQ(f.err, "");
    const auto lines = lines_of(f.out);
    for (const std::string& line : lines) EXPECT_LE(line.size(), 80u) << name << ": " << line;
    const auto groups = std::count_if(lines.begin(), lines.end(), [](const std::string& line) {
      return !line.empty() && line[0] != ' ' && line.ends_with(':');
    });
    EXPECT_TRUE(lines.size() <= 50 || groups >= 4) << name << ": " << lines.size() << " lines in " << groups;
  }
  const Finished all = tandem({"help"});
  EXPECT_EQ(all.out, tandem({"--help"}).out);
  const auto lines = lines_of(all.out);
  EXPECT_LE(lines.size(), 50u);
  for (const std::string& line : lines) EXPECT_LE(line.size(), 80u) << line;
  EXPECT_NE(all.out.find("130 interrupted"), std::string::npos);
  const Finished version = tandem({"--version"});
  EXPECT_EQ(version.code, 0);
  EXPECT_TRUE(std::regex_search(version.out, std::regex("^tandem [0-9]+\\.[0-9]+\\.[0-9]+"))) << version.out;
  EXPECT_TRUE(log_lines().empty());
}

// Without it `tandem run suites/*.json` is refused, measures one of them, or mixes them in one run.
TEST_F(CommandsTest, SeveralSweepsAreARunEach) {
  const std::string one = sweep({1}, json::object(), "one.json"),
                    two = sweep({2, 3}, json::object(), "two.json");
  const std::string rules = folder_ / "rules.json", broken = folder_ / "broken.json";
  std::ofstream(rules) << R"({"alpha": 0.01})";
  std::ofstream(broken) << "{";
  const std::vector<std::string> more = {"--out",     run_dir(), "--engine",  "reference",
                                         "--bin-dir", bin(),     "--workers", "1"};
  const auto with = [&](std::vector<std::string> words) {
    words.insert(words.end(), more.begin(), more.end());
    return tandem(words);
  };
  EXPECT_EQ(with({"run", one, broken}).code, 2);
  EXPECT_FALSE(fs::exists(run_dir())) << "all are read before the first is measured";
  EXPECT_EQ(with({"run", one, one}).code, 2) << "two runs in one folder";

  Finished f = with({"run", one, rules, two});
  EXPECT_EQ(f.code, 0) << f.err;
  EXPECT_EQ(f.out, run_dir() + "/one\n" + run_dir() + "/two\n");
  EXPECT_EQ(records("/one").size(), 1u);
  EXPECT_EQ(records("/two").size(), 2u);
  EXPECT_NE(f.err.find("rules.json: the gate's rules and no sweep"), std::string::npos) << f.err;

  fs::remove_all(run_dir() + "/two");
  f = with({"run", one, two, "--resume"});
  EXPECT_EQ(f.code, 0) << f.err;
  EXPECT_EQ(records("/two").size(), 2u) << "one is continued, the other begun";

  fs::remove_all(run_dir());
  environment_["TANDEM_FAKE_FAULTS"] = "1:segv";
  EXPECT_EQ(with({"run", one, two}).code, 1) << "the worse of the two";
  fs::remove_all(run_dir());
  EXPECT_EQ(with({"run", one, two, "--filter", "batch:3"}).code, 0);
  EXPECT_FALSE(fs::exists(run_dir() + "/one")) << "nothing of it was asked for";
  EXPECT_EQ(with({"run", one, two, "--filter", "batch:9"}).code, 2);

  f = tandem({"list", one, two, "--engine", "reference", "--bin-dir", bin(), "--json"});
  EXPECT_EQ(json::parse(f.out).size(), 3u) << f.err;
}

// Without it scripts hear what only people want to.
TEST_F(CommandsTest, QuietSaysFailuresOnly) {
  Finished f = tandem(run_args(sweep({1, 2}), {"--quiet"}));
  EXPECT_EQ(f.code, 0);
  EXPECT_EQ(f.out, run_dir() + "\n");
  EXPECT_EQ(f.err, "") << "the ceilings are measured without a word too";
}

// Without it a list is wider than the window, and its columns cannot be told apart.
TEST_F(CommandsTest, ListsFoldToTheWidth) {
  const std::string path = sweep({1, 2}, {{"tp", {1, 8}}});
  const std::vector<std::string> list = {"list", path, "--engine", "reference", "--bin-dir", bin()};
  const std::string wide = tandem(list).out;
  EXPECT_NE(wide.find("skipped: tp: 8 does not divide"), std::string::npos);
  EXPECT_EQ(lines_of(wide).size(), 5u) << "one line a case where it goes into a file";
  for (const char* columns : {"60", "80", "120"}) {
    environment_["COLUMNS"] = columns;
    const std::string folded = tandem(list).out;
    for (const std::string& line : lines_of(folded)) EXPECT_LE(line.size(), std::stoul(columns)) << line;
    for (const char* part : {"batch:1", "batch:2", "tp:8", "all: decoder", "skipped: tp: 8"})
      EXPECT_NE(folded.find(part), std::string::npos) << part << "\n" << folded;
  }
}

// Without it the time left is nonsense, updates leave lines behind, or a run ends without a single median on the screen.
TEST_F(CommandsTest, ATerminalShowsTheTimeLeftAndThenTheMedians) {
  ASSERT_EQ(tandem(run_args(sweep({1}), {"--workers", "1"})).code, 0);  // the ceilings
  fs::remove_all(run_dir());
  environment_["TANDEM_FAKE_SLEEP_MS"] = "150";
  environment_["TERM"] = "xterm";
  std::vector<std::pair<double, std::string>> pieces;
  const Finished f = on_terminal(run_args(sweep({1, 2, 3, 4, 5}), {"--workers", "4"}), 60, &pieces);
  ASSERT_EQ(f.code, 0) << f.err;
  // Updates begin with a carriage return and clear the line; each must be short of the width.
  const std::regex update("\r\x1b\\[K(checked[^\r\n]*)");
  int updates = 0;
  for (std::sregex_iterator it(f.err.begin(), f.err.end(), update), end; it != end; ++it, ++updates)
    EXPECT_LT((*it)[1].length(), 60) << (*it)[1].str();
  EXPECT_GT(updates, 20);
  const std::regex left("timed ([0-9]+)/20, (?:([0-9]+) h )?(?:([0-9]+) min )?([0-9]+) (s|min) left");
  double ends = 0;
  for (const auto& [at, text] : pieces) {
    if (text.find("timed 20/20") != std::string::npos && ends == 0) ends = at;
  }
  int judged = 0;
  for (const auto& [at, text] : pieces) {
    std::smatch m;
    if (!std::regex_search(text, m, left) || m[1] == "0") continue;
    const double truth = ends - at, said = std::stod(m[4]);
    EXPECT_EQ(m[5], "s") << text;
    EXPECT_LE(said, 2 * truth + 1.5) << text;  // seconds are rounded up
    EXPECT_GE(said, truth / 2 - 0.5) << text;
    ++judged;
  }
  EXPECT_GE(judged, 10);
  const size_t table = f.err.find("median");
  ASSERT_NE(table, std::string::npos) << f.err;
  EXPECT_NE(f.err.find("303 us", table), std::string::npos) << f.err.substr(table);
  EXPECT_EQ(f.err.find("\x1b[3"), std::string::npos) << "no colour";
}

// Without it the page's tables of several cards are of another model, or of other ceilings, than their commands print.
TEST_F(CommandsTest, TheTablesOfSeveralCardsAreOnThePage) {
  const std::string page = read_file("harness/parallel/RANKS.md");
  const std::string begin = "\n$ build/bin/tandem list ";
  size_t at = page.find(begin);
  for (int table = 0; table < 2; ++table, at = page.find(begin, at + 1)) {
    ASSERT_NE(at, std::string::npos);
    const std::string block = page.substr(at + 3, page.find("```", at) - at - 3);
    const size_t end = block.find('\n') + 1;
    std::vector<std::string> words;
    std::istringstream command(block.substr(0, end));
    for (std::string word; command >> word;) words.push_back(word);
    const Finished f = tandem({words.begin() + 1, words.end()});
    EXPECT_EQ(f.code, 0) << f.err;
    EXPECT_EQ(f.out, block.substr(end)) << "put on the page what this prints: " << block.substr(0, end);
    EXPECT_NE(f.err.find("a model, not a measurement"), std::string::npos) << f.err;
  }
}

// Without it a terminal that cannot clear a line is written full of codes.
TEST_F(CommandsTest, ADumbTerminalGetsPlainLines) {
  environment_["TERM"] = "dumb";
  const Finished f = on_terminal(run_args(sweep({1, 2}), {"--workers", "1"}), 80);
  EXPECT_EQ(f.code, 0);
  EXPECT_EQ(f.err.find('\x1b'), std::string::npos) << f.err;
  EXPECT_NE(f.err.find("time [2/2]"), std::string::npos) << f.err;
}

// Without it a flag that was added is not completed, or one that is gone still is.
TEST_F(CommandsTest, CompletionKnowsEveryFlag) {
  const std::string script = folder_ / "complete.sh";
  std::ofstream(script)
      << "source scripts/completions/tandem.bash\n"
         "COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _tandem; printf '%s\\n' \"${COMPREPLY[@]}\"\n";
  const auto completed = [&](const std::string& words) {
    const std::string out = folder_ / "completed";
    EXPECT_EQ(std::system(fmt::format("bash {} {} {} >{} 2>&1", script, TANDEM_BINARY, words, out).c_str()),
              0);
    const auto lines = lines_of(read_file(out));
    return std::set<std::string>(lines.begin(), lines.end());
  };
  std::set<std::string> all = {"help"};
  for (const std::string& name : commands()) {
    all.insert(name);
    const auto found = completed(name + " --");
    const std::string help = tandem({name, "--help"}).out;
    std::set<std::string> flags;
    const std::regex flag("\n  (?:-[a-z],)?(--[a-z0-9-]+)");
    for (std::sregex_iterator it(help.begin(), help.end(), flag), end; it != end; ++it)
      flags.insert((*it)[1]);
    EXPECT_GE(flags.size(), 1u) << help;
    for (const std::string& one : flags) EXPECT_TRUE(found.contains(one)) << name << " " << one;
  }
  EXPECT_EQ(completed("''"), all);
  EXPECT_EQ(completed("he"), std::set<std::string>{"help"});
  EXPECT_EQ(completed("run --work"), std::set<std::string>{"--workers"});
  EXPECT_EQ(completed("help prof"), std::set<std::string>{"profile"});
}

// Without it `tandem profile` measures 21 cases on a CPU and then says 84 times that it cannot profile them.
TEST_F(CommandsTest, ProfileOfWhatCannotBeProfiledIsRefusedOnce) {
  for (const char* suite : {"encoder", "decoder", "generate"}) {
    fs::remove(bin() / fmt::format("suite_{}", suite));
    fs::create_symlink(fs::path(TANDEM_BINARY).parent_path() / fmt::format("suite_{}", suite),
                       bin() / fmt::format("suite_{}", suite));
  }
  const Finished f = tandem({"profile", "suites/smoke.json", "--filter", "model:tiny", "--engine",
                             "reference", "--out", run_dir(), "--bin-dir", bin()});
  EXPECT_EQ(f.code, 3) << f.err;
  EXPECT_EQ(f.err,
            "tandem: profile: nothing can be profiled: engine 'reference' runs on the CPU; profiles are of a "
            "card\n");
  EXPECT_FALSE(fs::exists(run_dir()));
}

// Without it the words of a doctor must be parsed by whoever wants to act on them.
TEST_F(CommandsTest, DoctorSpeaksJson) {
  const Finished f = tandem({"doctor", "--bin-dir", bin(), "--json"});
  const json found = json::parse(f.out);
  std::set<std::string> states;
  for (const json& one : found) {
    states.insert(one["state"].get<std::string>());
    EXPECT_FALSE(one["what"].get<std::string>().empty());
    EXPECT_EQ(one["consequence"].is_null(), one["state"].get<std::string>() == "ok");
  }
  EXPECT_TRUE(states.contains("ok") && states.contains("missing")) << f.out;
}

}  // namespace
}  // namespace tandem
