#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "harness/base/error.h"
#include "harness/base/json_text.h"
#include "harness/base/process.h"
#include "harness/driver/bisect/bisect.h"
#include "harness/driver/bisect/revisions.h"
#include "harness/driver/bisect/search.h"
#include "harness/driver/commands/commands.h"
#include "harness/driver/duet/report_tool.h"
#include "harness/record/environment.h"
#include "harness/sweep/files.h"

namespace tandem {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

constexpr const char* kSchema = "1.0.0";
constexpr const char* kFile = "bisect.json";
constexpr double kDuetAllowed_s = 24 * 3600;  // between two lines: a duet has time-outs of its own
constexpr size_t kMostShown = 5;

/// A regular expression that matches this text alone.
std::string exactly(const std::string& text) {
  std::string pattern = "^";
  for (const char c : text) {
    if (std::string_view(R"(\^$.[]|()*+?{})").find(c) != std::string_view::npos) pattern += '\\';
    pattern += c;
  }
  return pattern + "$";
}

/// The one case of the sweep that is meant. Throws UsageError, DeviceError where it is skipped for the device.
std::string find_case(const RunArgs& run, const std::string& name) {
  const RunPlan plan = plan_run(run);
  std::map<std::string, const SkippedCase*> names;
  for (const Case& c : plan.sweep.cases) names[case_name(c)] = nullptr;
  for (const SkippedCase& s : plan.sweep.skipped) names[case_name(s.c)] = &s;
  std::vector<std::string> found;
  for (const auto& [full, skipped] : names) {
    if (full.find(name) != std::string::npos) found.push_back(full);
  }
  if (names.contains(name)) found = {name};
  if (found.empty()) {
    throw UsageError(
        fmt::format("--case: '{}' is in none of the {} cases' names; `tandem list {}` shows them", name,
                    names.size(), run.sweep));
  }
  if (found.size() > 1) {
    const size_t shown = std::min(found.size(), kMostShown);
    throw UsageError(fmt::format("--case: '{}' is in {} names: {}{}", name, found.size(),
                                 fmt::join(found.begin(), found.begin() + shown, " "),
                                 shown < found.size() ? " ..." : ""));
  }
  if (const SkippedCase* skipped = names[found[0]]) {
    const std::string why = fmt::format("--case: {} cannot be measured here: {}", found[0], skipped->reason);
    if (skipped->for_device) throw DeviceError(why);
    throw UsageError(why);
  }
  return found[0];
}

/// What a duet said of one revision.
struct Tried {
  std::string revision;
  Mark mark = Mark::kUntried;
  std::string note;  ///< "slower: +5.0 %", or why it was skipped
};

constexpr std::pair<Mark, const char*> kMarks[] = {
    {Mark::kGood, "good"}, {Mark::kBad, "bad"}, {Mark::kSkipped, "skipped"}};

const char* mark_name(Mark mark) {
  for (const auto& [m, name] : kMarks) {
    if (m == mark) return name;
  }
  return "untried";
}

class Bisection {
 public:
  explicit Bisection(const BisectArgs& args)
      : args_(args),
        repository_(args.repository),
        good_(repository_.commit("--good", args.good)),
        bad_(repository_.commit("--bad", args.bad)),
        tool_(args.duet.run.bin_dir) {}

  int run();

 private:
  struct Outcome {
    Mark mark = Mark::kSkipped;
    std::string note;
    int code = 0;  ///< of the duet
  };

  void open();
  void save(const char* end = nullptr) const;
  void read_tried(const json& state);
  Outcome compare(const fs::path& a, const std::string& revision_a, const std::string& revision_b);
  std::string duet(const fs::path& a, const fs::path& b, const fs::path& folder, int& code) const;
  void take(int number);
  void check_ends();
  void confirm(int found);
  int finish();
  std::string resume_command() const;

  BisectArgs args_;
  Repository repository_;
  std::string good_, bad_, case_;
  ReportTool tool_;
  fs::path folder_;
  std::vector<std::string> revisions_;
  std::vector<Tried> tried_;
  std::optional<Search> search_;
  std::optional<Builds> builds_;
  fs::path good_bin_;
};

std::string Bisection::resume_command() const {
  const DuetArgs& d = args_.duet;
  std::vector<std::string> words = {own_command(), "bisect"};
  if (!d.run.sweep.empty()) words.push_back(d.run.sweep);
  words.insert(words.end(), {"--good", args_.good, "--bad", args_.bad, "--case", args_.name, "--out", folder_,
                             "--resume"});
  const BisectArgs usual;
  if (args_.repository != usual.repository) words.insert(words.end(), {"--repo", args_.repository});
  if (!args_.build.empty()) words.insert(words.end(), {"--build", args_.build});
  if (args_.bin != usual.bin) words.insert(words.end(), {"--bin", args_.bin});
  if (d.budget != usual.duet.budget) words.insert(words.end(), {"--budget", d.budget});
  if (d.looks != usual.duet.looks) words.insert(words.end(), {"--looks", std::to_string(d.looks)});
  if (d.sample != usual.duet.sample) words.insert(words.end(), {"--sample", d.sample});
  if (d.run.timeout_s) words.insert(words.end(), {"--timeout", fmt::format("{}", *d.run.timeout_s)});
  if (!d.policy.empty()) words.insert(words.end(), {"--policy", d.policy});
  if (!d.sweep.empty()) words.insert(words.end(), {"--sweep", d.sweep});
  if (d.run.engine != "auto") words.insert(words.end(), {"--engine", d.run.engine});
  for (const std::string& peer : d.run.peers) words.insert(words.end(), {"--peer", peer});
  if (d.run.device != 0) words.insert(words.end(), {"--device", std::to_string(d.run.device)});
  return shell_command(words);
}

void Bisection::save(const char* end) const {
  json tried = json::array();
  for (const Tried& t : tried_)
    tried.push_back({{"revision", t.revision}, {"mark", mark_name(t.mark)}, {"note", t.note}});
  json suspects = json::array();
  for (const int i : search_->suspects()) suspects.push_back(revisions_[i]);
  const json j = {{"schema", kSchema}, {"good", good_},        {"bad", bad_},
                  {"case", case_},     {"build", args_.build}, {"bin", args_.bin},
                  {"tried", tried},    {"suspects", suspects}, {"end", end != nullptr ? json(end) : json()}};
  write_file_atomic(folder_ / kFile, j.dump(1) + "\n");
}

void Bisection::read_tried(const json& state) {
  const std::pair<const char*, std::string> fields[] = {
      {"good", good_}, {"bad", bad_}, {"case", case_}, {"build", args_.build}, {"bin", args_.bin}};
  for (const auto& [field, value] : fields) {
    if (state.at(field).get<std::string>() != value) {
      throw UsageError(fmt::format("--resume: {} was begun with another --{}; start a new bisection",
                                   folder_.string(), field));
    }
  }
  for (const json& t : state.at("tried")) {
    const std::string revision = t.at("revision"), mark = t.at("mark");
    const auto at = std::find(revisions_.begin(), revisions_.end(), revision);
    for (const auto& [m, name] : kMarks) {
      if (mark == name && at != revisions_.end()) {
        tried_.push_back({revision, m, t.at("note")});
        search_->mark(static_cast<int>(at - revisions_.begin()), m);
      }
    }
  }
}

void Bisection::open() {
  folder_ = args_.duet.run.out.empty() ? default_run_folder("bisect") : args_.duet.run.out;
  folder_ = fs::absolute(folder_).lexically_normal();
  const fs::path file = folder_ / kFile;
  if (args_.duet.run.resume) {
    if (!fs::exists(file)) throw UsageError(fmt::format("--resume: {} holds no bisection", folder_.string()));
    try {
      read_tried(parse_json(read_file(file)));
    } catch (const json::exception& e) {
      throw UsageError(fmt::format("{}: not a bisection: {}", file.string(), e.what()));
    }
    return;
  }
  if (fs::exists(folder_) && (!fs::is_directory(folder_) || !fs::is_empty(folder_))) {
    throw UsageError(
        fmt::format("--out: {} is not empty; add --resume to continue a bisection, or give another folder",
                    folder_.string()));
  }
  std::error_code ec;
  fs::create_directories(folder_, ec);
  if (ec) throw IoError(fmt::format("cannot write {}: {}", folder_.string(), ec.message()));
  save();
}

/// Runs the duet of two builds, or goes on with it. Its last words.
std::string Bisection::duet(const fs::path& a, const fs::path& b, const fs::path& folder, int& code) const {
  const DuetArgs& d = args_.duet;
  // What the shell says on stderr is shown as it comes.
  std::vector<std::string> words = {
      "/bin/sh", "-c", "exec \"$@\" 2>&1", "sh", fs::read_symlink("/proc/self/exe"), "duet"};
  if (!d.run.sweep.empty()) words.push_back(d.run.sweep);
  words.insert(words.end(), {"--a", a, "--b", b, "--filter", exactly(case_), "--out", folder, "--budget",
                             d.budget, "--looks", std::to_string(d.looks), "--sample", d.sample, "--engine",
                             d.run.engine, "--device", std::to_string(d.run.device)});
  if (!d.policy.empty()) words.insert(words.end(), {"--policy", d.policy});
  if (!d.sweep.empty()) words.insert(words.end(), {"--sweep", d.sweep});
  for (const std::string& peer : d.run.peers) words.insert(words.end(), {"--peer", peer});
  if (d.run.timeout_s) words.insert(words.end(), {"--timeout", fmt::format("{}", *d.run.timeout_s)});
  if (fs::exists(folder / "duet.json")) words.emplace_back("--resume");
  std::string last;
  const ProcessEnd end = run_process({.command = words,
                                      .on_line =
                                          [&](const std::string& line) {
                                            say("  " + line);
                                            if (!line.empty()) last = line;
                                          },
                                      .allowed_s = [] { return kDuetAllowed_s; }});
  if (end.how == ProcessEnd::How::kInterrupted) throw Interrupted("interrupted");
  code = end.how == ProcessEnd::How::kExited ? end.code : -1;
  return end.how == ProcessEnd::How::kExited ? last : end.describe();
}

/// Is the second revision slower than the first, whose binaries are in `a`?
Bisection::Outcome Bisection::compare(const fs::path& a, const std::string& revision_a,
                                      const std::string& revision_b) {
  say(fmt::format("building {}", repository_.words(revision_b)));
  const Builds::Built built = builds_->build(revision_b);
  if (built.bin.empty()) return {.mark = Mark::kSkipped, .note = built.why, .code = 0};
  const fs::path folder =
      folder_ / fmt::format("duet-{}-{}", revision_a.substr(0, 12), revision_b.substr(0, 12));
  Outcome outcome;
  const std::string last = duet(a, built.bin, folder, outcome.code);
  if (outcome.code == static_cast<int>(ExitCode::kNoDevice)) throw DeviceError(last);
  if (outcome.code != 0 && outcome.code != 1 &&
      outcome.code != static_cast<int>(ExitCode::kNotEnoughEvidence)) {
    outcome.note = fmt::format("the duet: {}", last);
    return outcome;
  }
  const json cases = tool_.verdict(folder).content.value("cases", json::array());
  if (cases.size() != 1) {
    outcome.note = fmt::format("the duet has {} cases", cases.size());
    return outcome;
  }
  const std::string verdict = cases[0].value("verdict", "");
  const json ratio = cases[0].value("ratio", json());
  outcome.note = verdict;
  if (ratio.is_number()) outcome.note += fmt::format(", {:+.2f} %", 100 * (ratio.get<double>() - 1));
  if (const std::string note = cases[0].value("note", ""); !note.empty())
    outcome.note += fmt::format(" ({})", note);
  if (verdict == "slower") outcome.mark = Mark::kBad;
  if (verdict == "same" || verdict == "faster") outcome.mark = Mark::kGood;
  return outcome;
}

/// Both ends must build, and the bad one must be slower.
void Bisection::check_ends() {
  say(fmt::format("building {}", repository_.words(good_)));
  const Builds::Built good = builds_->build(good_);
  if (good.bin.empty())
    throw UsageError(fmt::format("--good: {} does not build: {}", good_.substr(0, 12), good.why));
  good_bin_ = good.bin;
  if (std::any_of(tried_.begin(), tried_.end(), [&](const Tried& t) { return t.revision == bad_; })) return;
  const Outcome outcome = compare(good_bin_, good_, bad_);
  if (outcome.mark == Mark::kBad) {
    tried_.push_back({bad_, outcome.mark, outcome.note});
    save();
    return;
  }
  const std::string text = fmt::format("--bad: {} is not slower than --good {}: {}", bad_.substr(0, 12),
                                       good_.substr(0, 12), outcome.note);
  if (outcome.code == static_cast<int>(ExitCode::kNotEnoughEvidence))
    throw NotEnoughEvidence(text + "; more --budget may tell");
  throw UsageError(text);
}

void Bisection::take(int number) {
  say(fmt::format("{} revision{} may be it, about {} more to try", search_->suspects().size(),
                  search_->suspects().size() == 1 ? "" : "s", search_->steps()));
  const std::string& revision = revisions_[number];
  const Outcome outcome = compare(good_bin_, good_, revision);
  search_->mark(number, outcome.mark);
  tried_.push_back({revision, outcome.mark, outcome.note});
  save();
  say(fmt::format("{}: {}: {}", repository_.words(revision), mark_name(outcome.mark), outcome.note));
}

/// The found one against the one before it: its own part, where small ones may have added up.
void Bisection::confirm(int found) {
  if (found == 0) return;
  const std::string& before = revisions_[found - 1];
  const Builds::Built built = builds_->build(before);
  if (built.bin.empty()) return;
  const Outcome outcome = compare(built.bin, before, revisions_[found]);
  fmt::print("  alone, over the revision before it: {}\n", outcome.note);
  if (outcome.mark != Mark::kBad)
    fmt::print("  smaller changes may have added up to it: see {}\n", (folder_ / kFile).string());
}

int Bisection::finish() {
  const std::vector<int> suspects = search_->suspects();
  const auto note_of = [&](int i) {
    for (const Tried& t : tried_) {
      if (t.revision == revisions_[i]) return fmt::format("{}: {}", mark_name(t.mark), t.note);
    }
    return std::string("not tried");
  };
  if (suspects.size() == 1) {
    save("found");
    fmt::print("{}\n  is the first at which {} is slower than at {}: {}\n",
               repository_.words(revisions_[suspects[0]]), case_, good_.substr(0, 12), note_of(suspects[0]));
    confirm(suspects[0]);
    std::fflush(stdout);
    return static_cast<int>(ExitCode::kGood);
  }
  save("narrowed");
  fmt::print("one of {} is the first at which {} is slower than at {}:\n", suspects.size(), case_,
             good_.substr(0, 12));
  for (const int i : suspects) fmt::print("{}\n  {}\n", repository_.words(revisions_[i]), note_of(i));
  std::fflush(stdout);
  return static_cast<int>(ExitCode::kNotEnoughEvidence);
}

int Bisection::run() {
  if (good_ == bad_) throw UsageError("--good and --bad are the same commit");
  revisions_ = repository_.between(good_, bad_);
  search_.emplace(static_cast<int>(revisions_.size()));
  if (args_.duet.run.sweep.empty() && args_.duet.sweep.empty())
    throw UsageError("SWEEP is required, or --sweep FILE");
  RunArgs all = args_.duet.run;
  if (!args_.duet.sweep.empty()) all.sweep = args_.duet.sweep;
  case_ = find_case(all, args_.name);
  if (args_.build.empty()) args_.build = default_build_command();
  open();
  try {
    builds_.emplace(repository_, BuildRecipe{args_.build, args_.bin}, folder_, folder_.string());
    say(fmt::format(
        "{} revisions after {}; case {}; {}\nbuild, in {}: {}\nbinaries: {} (--build and --bin change them)",
        revisions_.size(), good_.substr(0, 12), case_, folder_.string(), builds_->worktree().string(),
        args_.build, args_.bin));
    check_ends();
    while (const auto number = search_->next()) take(*number);
    return finish();
  } catch (const Interrupted&) {
    throw Interrupted(fmt::format("interrupted; continue with: {}", resume_command()));
  } catch (const IoError& e) {
    throw IoError(fmt::format("{}; continue with: {}", e.what(), resume_command()));
  }
}

}  // namespace

std::string default_build_command() {
  const BuildInfo& own = build_info();
  std::string command =
      fmt::format("cmake -S . -B build/bisect -G Ninja -DCMAKE_BUILD_TYPE={} -DTANDEM_TESTS=OFF", own.type);
  if (own.cuda_architectures)
    command += fmt::format(" -DTANDEM_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES={}", *own.cuda_architectures);
  return command + " && cmake --build build/bisect";
}

int bisect_command(const BisectArgs& args) {
  if (args.duet.run.resume && args.duet.run.out.empty())
    throw UsageError("--resume: needs --out DIR, the bisection to continue");
  parse_budget_s(args.duet.budget);
  catch_interrupts();
  return Bisection(args).run();
}

}  // namespace tandem
