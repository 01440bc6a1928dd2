#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <memory>
#include <set>

#include "harness/base/error.h"
#include "harness/base/process.h"
#include "harness/base/random.h"
#include "harness/driver/commands/commands.h"
#include "harness/driver/duet/base_rules.h"
#include "harness/driver/duet/duet.h"
#include "harness/driver/duet/duet_args.h"
#include "harness/driver/duet/duet_profile.h"
#include "harness/driver/duet/duet_state.h"
#include "harness/driver/duet/report_tool.h"
#include "harness/sweep/files.h"

namespace tandem {
namespace fs = std::filesystem;
namespace {

constexpr const char* kSide[] = {"a", "b"};
constexpr const char* kChoices = "gemm-choices.json";  // of an engine that searches; lies in the run folder
constexpr const char* kValidations = "validation.jsonl";

/// The two sides' forms of one case; one of them where the other side cannot compute it.
struct Twin {
  std::optional<Case> side[2];
};
/// Cases that share a worker process, by what they have in common on both sides.
using Group = std::map<std::string, Twin>;

/// The id that the gate calls a case by.
std::string id_of(const Twin& twin) {
  return case_id(twin.side[0] ? *twin.side[0] : *twin.side[1]);
}

/// The gate's word on each case, by its id.
std::map<std::string, std::string> verdict_of_cases(const nlohmann::json& verdict) {
  std::map<std::string, std::string> words;
  for (const auto& c : verdict.at("cases")) words.emplace(c.at("id"), c.at("verdict"));
  return words;
}

class Duet {
 public:
  explicit Duet(DuetArgs args)
      : args_(std::move(args)),
        tool_(args_.run.bin_dir),
        asked_(state_of(args_)),
        rules_(base_rules(args_)) {}

  int run();
  int records() const;

 private:
  void open();
  void extend();
  void make_sessions();
  void check_sides();
  void match_cases();
  void refuse_nothing() const;
  int rounds();
  void round(int pair);
  void turn(int pair, int group);
  void judge();
  bool within_budget(int until) const;
  int finish();
  void profile();
  double spent_s() const { return before_s_ + (start_s_ ? steady_s() - *start_s_ : 0); }
  void save() {
    state_.spent_s = spent_s();
    write_duet(folder_, state_);
  }
  bool measurable_on(int side, const Case& c) const;
  bool has_left(const Twin& twin) const;
  int comparable_cases() const;

  DuetArgs args_;
  ReportTool tool_;
  DuetState asked_, state_;
  BaseRules rules_;
  RunArgs side_args_[2];
  fs::path folder_;
  std::unique_ptr<Session> sessions_[2];
  std::vector<Group> groups_;
  std::optional<double> start_s_;  // none until both sides are checked: the budget is for pairs
  double before_s_ = 0;
  int rounds_since_look_ = 0;
  double shortest_round_s_ = 0, longest_round_s_ = 0;  // since the last look, after which rounds are shorter
};

void Duet::open() {
  folder_ = args_.run.out;
  const bool exists = fs::exists(folder_ / "duet.json");
  if (args_.run.resume && !fs::exists(folder_)) {
    throw UsageError(fmt::format("--resume: {} does not exist", folder_.string()));
  }
  if (exists && !args_.run.resume) {
    throw UsageError(
        fmt::format("--out: {} holds a duet already; add --resume to continue it, or give another folder",
                    folder_.string()));
  }
  if (!exists && fs::exists(folder_) && (!fs::is_directory(folder_) || !fs::is_empty(folder_))) {
    // What a start that was cut off before duet.json was there leaves is its temporary file alone.
    for (const auto& entry : fs::directory_iterator(folder_)) {
      if (entry.path().filename().string().starts_with("duet.json.")) continue;
      throw UsageError(fmt::format("--out: {} is not empty and not a duet: it holds '{}'", folder_.string(),
                                   entry.path().filename().string()));
    }
  }
  if (exists) {
    state_ = read_duet(folder_);
    check_same(state_, asked_, args_);
    before_s_ = state_.spent_s;
    keep_policy(folder_, rules_.policy, !args_.policy.empty());
    extend();
    return;
  }
  state_ = asked_;
  state_.sweep_from = rules_.sweep.from;
  state_.policy_from = rules_.policy.from;
  std::error_code ec;
  fs::create_directories(folder_, ec);
  if (ec) throw IoError(fmt::format("cannot write {}: {}", folder_.string(), ec.message()));
  save();
  keep_policy(folder_, rules_.policy, false);
}

/// More time, or more looks, for a duet that ended for want of them.
void Duet::extend() {
  const bool more_looks = asked_.looks > state_.looks;
  if (more_looks && state_.looks == 1 && !state_.taken.empty()) {
    throw UsageError(fmt::format("--looks: {} has spent all of its alpha at its one look; start a new duet",
                                 folder_.string()));
  }
  const bool goes_on = (state_.end == "budget spent" && asked_.budget_s > state_.budget_s) ||
                       (state_.end == "looks spent" && more_looks);
  state_.budget_s = asked_.budget_s;
  if (goes_on) state_.end.clear();
  if (!more_looks || state_.end == "decided") return;
  const std::vector<int> before = state_.plan;
  state_.looks = asked_.looks;
  if (before.empty()) return;
  state_.plan = tool_.plan(folder_, state_.cases, state_.looks);
  if (!std::equal(before.begin(), before.end(), state_.plan.begin())) {
    throw UsageError(fmt::format("--looks: {} was planned at {} pairs, by other rules; start a new duet",
                                 folder_.string(), fmt::join(before, ", ")));
  }
}

void Duet::make_sessions() {
  RunPlan plans[2];
  RunArgs(&sides)[2] = side_args_;
  for (int i = 0; i < 2; ++i) {
    sides[i] = args_.run;
    sides[i].sweep = rules_.sweep.file;
    sides[i].bin_dir = asked_.sides[i].bin_dir;
    sides[i].set = asked_.sides[i].set;
    sides[i].environment = asked_.sides[i].environment;
    sides[i].workers = 1;  // for the validation pass alone; pairs are counted here
    plans[i] = plan_run(sides[i]);
  }
  if (args_.run.out.empty()) {
    args_.run.out = default_run_folder("duet-" + fs::path(rules_.sweep.file).stem().string());
  }
  open();
  say(fmt::format("sweep: {}\nrules: {}", state_.sweep_from, state_.policy_from));
  for (const std::string& remark : rules_.remarks) say(remark);
  for (int i = 0; i < 2; ++i) {
    sides[i].seed = state_.seed;
    sides[i].out = folder_ / kSide[i];
    sides[i].resume = fs::exists(sides[i].out);
    sessions_[i] = std::make_unique<Session>(sides[i], std::move(plans[i]));
  }
}

void Duet::check_sides() {
  sessions_[0]->prepare();
  say(fmt::format("checking side a: {}", state_.sides[0].bin_dir));
  sessions_[0]->check();
  const auto share = [&](const char* name) {
    const fs::path from = folder_ / kSide[0] / name, to = folder_ / kSide[1] / name;
    if (fs::exists(from) && !fs::exists(to)) write_file_atomic(to, read_file(from));
  };
  // B starts from A's algorithm choices and searches only what A never needed: two searches of one product may end
  // differently, and the difference would be taken for one of the builds.
  if (!state_.own_choices) share(kChoices);
  // A validation holds for a binary, whoever asked for it; lines of other binaries are passed over.
  if (state_.sides[0].environment == state_.sides[1].environment) share(kValidations);
  sessions_[1]->prepare();
  say(fmt::format("checking side b: {}", state_.sides[1].bin_dir));
  sessions_[1]->check();
  start_s_ = steady_s();
}

void Duet::match_cases() {
  const std::vector<std::string> axes_set = state_.axes();
  std::map<std::string, Group> by_key;
  for (int i = 0; i < 2; ++i) {
    for (const Case& c : sessions_[i]->measurable()) {
      Case twin = c;
      for (const std::string& name : axes_set) axis(name).set(twin, axis(name).get(Case{}));
      std::optional<Case>& place = by_key[group_key(twin)][case_id(twin)].side[i];
      if (place) {
        throw UsageError(
            fmt::format("{} and {} are the same case once {} is left out of account; set it for both sides",
                        case_name(*place), case_name(c), fmt::join(axes_set, " ")));
      }
      place = c;
    }
  }
  std::vector<std::string> names;
  for (auto& [key, group] : by_key) {
    names.push_back(key);
    groups_.push_back(std::move(group));
  }
  if (!state_.groups.empty() && state_.groups != names) {
    throw UsageError(fmt::format("--resume: {} was made with other cases; start a new duet", args_.run.out));
  }
  state_.groups = names;
  state_.members.clear();
  for (const Group& group : groups_) {
    std::vector<std::string>& ids = state_.members.emplace_back();
    for (const auto& [key, twin] : group) ids.push_back(id_of(twin));
  }
}

bool Duet::measurable_on(int side, const Case& c) const {
  return !sessions_[side]->folder().failed(case_id(c));
}

/// A decided case has its verdict: the time is for the others.
bool Duet::has_left(const Twin& twin) const {
  return state_.left.contains(id_of(twin));
}

int Duet::comparable_cases() const {
  int n = 0;
  for (const Group& group : groups_) {
    for (const auto& [key, twin] : group) n += twin.side[0] && twin.side[1] ? 1 : 0;
  }
  return n;
}

void Duet::turn(int pair, int group_number) {
  const Group& group = groups_[group_number];
  std::vector<std::string> keys;
  int recorded = 0, wanted = 0;
  for (const auto& [key, twin] : group) {
    const bool both =
        twin.side[0] && twin.side[1] && measurable_on(0, *twin.side[0]) && measurable_on(1, *twin.side[1]);
    // What one side alone can compute is measured once, so that the gate has something to miss.
    if ((!both && pair > 0) || has_left(twin)) continue;
    keys.push_back(key);
    for (int i = 0; i < 2; ++i) {
      if (!twin.side[i]) continue;
      ++wanted;
      recorded += sessions_[i]->folder().recorded(case_id(*twin.side[i]), pair) ? 1 : 0;
    }
  }
  if (keys.empty() || recorded == wanted) return;
  const int first = first_side(state_.seed, pair, group_number);
  state_.turns.push_back({.pair = pair, .group = group_number, .first = first, .broken = recorded > 0});
  // A pair that a kill cut apart is no pair: its halves would lie before and after the break.
  if (recorded > 0) return;
  const uint64_t key = mix64(state_.seed ^ mix64((static_cast<uint64_t>(pair) << 20) + group_number));
  for (size_t i = keys.size(); i > 1; --i) {
    std::swap(keys[i - 1], keys[uniform_below(key, i, static_cast<uint32_t>(i))]);
  }
  for (const int side : {first, 1 - first}) {
    std::vector<Case> cases;
    for (const std::string& k : keys) {
      if (group.at(k).side[side]) cases.push_back(*group.at(k).side[side]);
    }
    if (!cases.empty()) sessions_[side]->time(cases, pair);
  }
}

void Duet::round(int pair) {
  const double start = steady_s();
  std::vector<int> order(groups_.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i);
  const uint64_t key = mix64(state_.seed + mix64(static_cast<uint64_t>(pair)));
  for (size_t i = order.size(); i > 1; --i) {
    std::swap(order[i - 1], order[uniform_below(key, i, static_cast<uint32_t>(i))]);
  }
  for (const int group : order) turn(pair, group);
  state_.pairs = pair + 1;
  save();
  const double took = steady_s() - start;
  shortest_round_s_ = rounds_since_look_ == 0 ? took : std::min(shortest_round_s_, took);
  longest_round_s_ = rounds_since_look_ == 0 ? took : std::max(longest_round_s_, took);
  ++rounds_since_look_;
  say(fmt::format("pair {}: {:.1f} s; {:.0f} s of {:.0f} s", pair + 1, took, spent_s(), state_.budget_s));
}

/// Takes the next look.
void Duet::judge() {
  const int look = static_cast<int>(state_.taken.size()) + 1;
  const int of = state_.looks;
  const auto [verdict, code] = tool_.judge(folder_, look, of);
  DuetLook taken{.look = look,
                 .of = of,
                 .pairs = state_.pairs,
                 .spent_s = spent_s(),
                 .alpha = verdict.value("alpha_of_look", 0.0),
                 .counts = nlohmann::json::object(),
                 .stop = verdict.at("stop"),
                 .code = code};
  std::string found;
  for (const auto& [word, count] : verdict.at("counts").items()) {
    if (!count.is_number_integer() || count == 0) continue;
    taken.counts[word] = count;
    found += fmt::format("{}{} {}", found.empty() ? "" : ", ", count.dump(), word);
  }
  state_.taken.push_back(taken);
  for (const auto& [id, word] : verdict_of_cases(verdict)) {
    if (word != "unknown") state_.left.try_emplace(id, DuetLeft{.look = look, .verdict = word});
  }
  const bool open = taken.counts.contains("unknown");
  if (!open || taken.stop) state_.end = open && look == of ? "looks spent" : "decided";
  rounds_since_look_ = 0;
  save();
  say(fmt::format("look {} of {}, {} pairs: {}", look, of, state_.pairs, found.empty() ? "no case" : found));
}

/// Without a case on either side there is nothing to look at: says why.
void Duet::refuse_nothing() const {
  if (!groups_.empty()) return;
  for (const auto& session : sessions_) {
    for (const SkippedCase& s : session->plan().sweep.skipped) {
      if (s.for_device) throw DeviceError(fmt::format("no case can be measured here: {}", s.reason));
    }
  }
  for (const auto& session : sessions_) {
    for (const Record& r : session->folder().records()) {
      throw UsageError(
          fmt::format("no case can be measured on either side: {}: {}", r.name, r.reason.value_or("")));
    }
  }
  throw UsageError("no case can be measured on either side");
}

/// Is there time for another pair, and hope for the next look? Pairs that no look sees are not worth their time. The first
/// pair is run in any case: without one there is nothing to say.
bool Duet::within_budget(int until) const {
  if (state_.pairs == 0) return true;
  const double left_s = state_.budget_s - spent_s();
  if (rounds_since_look_ == 0) return longest_round_s_ <= left_s;
  return longest_round_s_ <= left_s && (until - state_.pairs) * shortest_round_s_ <= left_s;
}

int Duet::rounds() {
  refuse_nothing();
  if (state_.plan.empty()) {
    state_.cases = std::max(1, comparable_cases());
    state_.plan = tool_.plan(folder_, state_.cases, state_.looks);
    save();
  }
  say(fmt::format("{} cases in {} groups, looks at {} pairs; {}", comparable_cases(), groups_.size(),
                  fmt::join(state_.plan, ", "), args_.run.out));
  while (state_.end.empty()) {
    const int until = state_.plan.at(state_.taken.size());
    while (state_.pairs < until && within_budget(until)) round(state_.pairs);
    if (state_.pairs == until) {
      judge();
      continue;
    }
    say(fmt::format("the look at {} pairs is beyond the budget of {:.0f} s", until, state_.budget_s));
    state_.end = "budget spent";
    save();
  }
  return finish();
}

/// Both sides' profiles of what the last look calls slower.
void Duet::profile() {
  if (groups_.empty()) match_cases();  // a duet that had ended before
  const auto verdicts = verdict_of_cases(tool_.verdict(folder_).content);
  std::vector<std::array<std::string, 2>> ids;
  for (const Group& group : groups_) {
    for (const auto& [key, twin] : group) {
      if (!twin.side[0] || !twin.side[1]) continue;
      const std::string id = case_id(*twin.side[0]);
      const auto verdict = verdicts.find(id);
      if (verdict != verdicts.end() && verdict->second == "slower")
        ids.push_back({id, case_id(*twin.side[1])});
    }
  }
  profile_slower(ids, side_args_, {sessions_[0].get(), sessions_[1].get()});
}

int Duet::finish() {
  if (args_.profile) profile();
  for (const auto& session : sessions_) session->folder().derive_benchmark_json();
  const ReportTool::Table table = tool_.table(folder_);
  fmt::print("{}", table.text);
  std::fflush(stdout);
  const size_t looks = state_.taken.size();
  say(fmt::format("{}: {} after {} pair{}, {} look{}, {:.0f} s\nagain: {}", args_.run.out, state_.end,
                  state_.pairs, state_.pairs == 1 ? "" : "s", looks, looks == 1 ? "" : "s", state_.spent_s,
                  shell_command({tool_.program(), "gate", args_.run.out})));
  return table.code;
}

int Duet::records() const {
  size_t n = 0;
  for (const auto& session : sessions_) n += session ? session->folder().records().size() : 0;
  return static_cast<int>(n);
}

int Duet::run() {
  make_sessions();
  try {
    if (!state_.end.empty()) {
      for (const auto& session : sessions_) session->prepare();
      return finish();
    }
    check_sides();
    match_cases();
    return rounds();
  } catch (const Interrupted&) {
    throw Interrupted(
        fmt::format("interrupted with {} records; continue with: {}", records(), resume_command(args_)));
  } catch (const IoError& e) {
    throw IoError(fmt::format("{}; the {} records before are kept, continue with: {}", e.what(), records(),
                              resume_command(args_)));
  }
}

}  // namespace

int first_side(uint64_t seed, int pair, int group) {
  // Keys of groups are mixed: neighbours in a stream of one key would share draws.
  const uint64_t key = mix64(mix64(seed ^ 0x5eed) + static_cast<uint64_t>(group));
  return static_cast<int>(uniform_below(key, static_cast<uint64_t>(pair), 2));
}

int duet_command(const DuetArgs& args) {
  if (args.run.resume && args.run.out.empty()) {
    throw UsageError("--resume: needs --out DIR, the duet to continue");
  }
  check_sample(args.sample);
  catch_interrupts();
  try {
    return Duet(args).run();
  } catch (const IoError&) {  // could not be written
    throw;
  } catch (const Error& e) {
    if (e.exit_code() != ExitCode::kFailed) throw;
    throw NoVerdict(e.what());  // 1 would say that B is slower
  }
}

}  // namespace tandem
