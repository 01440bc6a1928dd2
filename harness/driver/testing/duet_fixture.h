// What the duet's tests share: fake suites, a fake gate, and what a duet says that it did.
#pragma once

#include <algorithm>

#include "harness/driver/testing/driver_fixture.h"

namespace tandem::testing {

/// One timed case as the fake suite's log has it.
struct Timed {
  std::string id, side;
  int pair = 0;
};

class DuetTest : public DriverTest {
 protected:
  /// A gate that is planned at 2, 4 and 6 pairs (or the first of them) and decides at look `decides`. What it says of the
  /// cases at look N lies in the file cases-N; the table has the exit code of the last look.
  void fake_gate(int decides, const std::string& verdict = "same", int code = 0) {
    fs::create_directories(folder_ / "tools");
    const fs::path tool = folder_ / "tools" / "tandem-report";
    std::ofstream(tool) << fmt::format(
        R"(#!/bin/sh
echo "$*" >> {0}/asked
case "$*" in
  *--plan*/1\ *) echo '{{"pairs": [2]}}'; exit 0;;
  *--plan*/2\ *) echo '{{"pairs": [2, 4]}}'; exit 0;;
  *--plan*) echo '{{"pairs": [2, 4, 6]}}'; exit 0;;
  *--json*) ;;
  *) echo table; exit {3};;
esac
look=${{4%/*}}
cases=$(cat {0}/cases-$look 2>/dev/null || echo '[]')
if [ $look -ge {1} ]; then
  echo '{{"stop": true, "alpha_of_look": 0.005, "counts": {{"{2}": 1, "unknown": 0}}, "cases": '$cases'}}'
  exit {3}
fi
[ "$look" = "${{4#*/}}" ] && stop=true || stop=false
echo '{{"stop": '$stop', "alpha_of_look": 0.005, "counts": {{"unknown": 1}}, "cases": '$cases'}}'
exit 4
)",
        folder_.string(), decides, verdict, code);
    fs::permissions(tool, fs::perms::owner_all);
    environment_["PATH"] = (folder_ / "tools").string() + ":" + std::getenv("PATH");
  }

  std::vector<std::string> duet_args(const std::string& sweep, std::vector<std::string> more = {}) const {
    std::vector<std::string> args = {"duet", sweep, "--out",    run_dir(),   "--a",    bin(),
                                     "--b",  bin(), "--engine", "reference", "--seed", "5"};
    if (std::find(more.begin(), more.end(), "--looks") == more.end())
      more.insert(more.end(), {"--looks", "3"});
    args.insert(args.end(), more.begin(), more.end());
    return args;
  }

  std::vector<Timed> timed() const {
    std::vector<Timed> found;
    for (const std::string& line : log_lines()) {
      std::istringstream words(line);
      Timed t;
      int attempt = 0, pid = 0;
      if (words >> t.id >> t.pair >> attempt >> pid >> t.side) found.push_back(t);
    }
    return found;
  }

  json state() const { return json::parse(read_file(run_dir() + "/duet.json")); }

  /// A sweep of two groups, of three and of two cases.
  std::string two_groups() {
    const json sweep = {
        {"groups",
         {{{"suite", "decoder"}, {"model", "tiny"}, {"precision", "fp32"}, {"batch", {1, 2, 3}}},
          {{"suite", "encoder"}, {"model", "tiny"}, {"precision", "fp32"}, {"batch", {4, 5}}}}}};
    std::ofstream(folder_ / "two.json") << sweep;
    return folder_ / "two.json";
  }
};

/// What a duet says of itself, without its times.
inline json without_times(json state) {
  state.erase("spent_s");
  state.erase("budget_s");
  for (json& look : state["taken"]) {
    look.erase("spent_s");
    look.erase("of");
    look.erase("stop");
  }
  return state;
}

}  // namespace tandem::testing
