#include "harness/driver/duet/base_rules.h"

#include <fmt/format.h>

#include "harness/base/error.h"
#include "harness/driver/session/build_of.h"
#include "harness/sweep/files.h"

namespace tandem {
namespace fs = std::filesystem;
namespace {

constexpr const char* kRules = "gates.json";
constexpr const char* kBuiltIn = "built-in rules";

fs::path folder_of(const DuetArgs& args, int side) {
  return fs::weakly_canonical(args.bin[side].empty() ? args.run.bin_dir : fs::path(args.bin[side]));
}

std::string content_of(const fs::path& file) {
  std::error_code ec;
  return fs::is_regular_file(file, ec) ? read_file(file) : "";
}

/// The build in words: its source and revision where it says them.
std::string build_words(const fs::path& bin_dir) {
  const auto note = build_note(bin_dir);
  if (!note) return bin_dir;
  if (note->revision.empty()) return note->source;
  return fmt::format("{} at {}{}", note->source, note->revision.substr(0, 12),
                     note->dirty ? ", changed" : "");
}

class Base {
 public:
  explicit Base(const DuetArgs& args) : bin_dir_(folder_of(args, 0)) {}

  /// `name` of suites/ as A was built with it; empty where it has none.
  FromBase kept(const std::string& name) const {
    const fs::path file = kept_suite_file(bin_dir_, name);
    if (file.empty()) return {};
    return {.file = file,
            .from = fmt::format("suites/{} as side A was built with it ({})", name, build_words(bin_dir_))};
  }

  /// Is another file of that name at hand, which someone may think is used?
  void remark(const FromBase& used, const std::string& name, const fs::path& here, const char* flag,
              std::vector<std::string>& remarks) const {
    const auto note = build_note(bin_dir_);
    const std::string content = content_of(used.file);
    const fs::path source = note ? fs::path(note->source) / "suites" / name : fs::path();
    const auto differs = [&](const fs::path& file) {
      std::error_code ec;
      return fs::is_regular_file(file, ec) && read_file(file) != content;
    };
    if (note && differs(source)) {
      remarks.push_back(
          fmt::format("{} was changed after side A was built; not used: build A again, or {} {}",
                      source.string(), flag, source.string()));
    } else if (differs(here)) {
      remarks.push_back(fmt::format("{} is not what side A has, and is not used; {} {} would use it",
                                    here.string(), flag, here.string()));
    }
  }

 private:
  fs::path bin_dir_;
};

}  // namespace

BaseRules base_rules(const DuetArgs& args) {
  BaseRules found;
  if (args.sweep.empty() && args.run.sweep.empty()) throw UsageError("SWEEP is required, or --sweep FILE");
  const fs::path usual = fs::path("suites") / kRules;
  const fs::path bin_dir = folder_of(args, 0);
  const fs::path named = args.sweep.empty() ? sweep_file(bin_dir, args.run.sweep) : fs::path(args.run.sweep);
  const bool two_builds = bin_dir != folder_of(args, 1);
  const bool in_suites =
      !named.empty() && fs::absolute(named).lexically_normal().parent_path().filename() == "suites";
  const Base base(args);
  bool missed = false;

  found.sweep = {.file = named, .from = named};
  if (!args.sweep.empty()) {
    found.sweep = {.file = args.sweep, .from = args.sweep};
  } else if (two_builds && in_suites) {
    const std::string name = named.filename();
    if (const FromBase kept = base.kept(name); !kept.file.empty()) {
      found.sweep = kept;
      base.remark(kept, name, named, "--sweep", found.remarks);
    } else if (keeps_suites(bin_dir)) {
      found.remarks.push_back(
          fmt::format("side A was built without suites/{}: {} is used as it is", name, named.string()));
    } else {
      missed = true;
    }
  }

  std::error_code ec;
  const bool here = fs::is_regular_file(usual, ec);
  if (!args.policy.empty()) {
    found.policy = {.file = args.policy, .from = args.policy};
  } else if (two_builds && keeps_suites(bin_dir)) {
    // A base without rules of its own is judged by the built-in ones: those here may be the change's.
    found.policy = base.kept(kRules);
    if (found.policy.file.empty()) found.policy.from = kBuiltIn;
    base.remark(found.policy, kRules, usual, "--policy", found.remarks);
  } else {
    found.policy = here ? FromBase{.file = usual, .from = usual} : FromBase{.file = "", .from = kBuiltIn};
    missed = missed || (two_builds && here);
  }
  if (missed) {
    found.remarks.push_back(
        fmt::format("side A keeps no suites/ beside its binaries ({}): what is named is taken from the "
                    "working folder, which may be B's own",
                    bin_dir.string()));
  }
  return found;
}

void keep_policy(const fs::path& folder, const FromBase& policy, bool named) {
  const fs::path kept = folder / kRules;
  std::string content = "{}\n";
  if (!policy.file.empty()) {
    try {
      content = read_file(policy.file);
    } catch (const IoError& e) {
      throw UsageError(fmt::format("--policy: {}", e.what()));
    }
  }
  if (!fs::exists(kept)) {
    write_file_atomic(kept, content);
  } else if (named && read_file(kept) != content) {
    throw UsageError(
        fmt::format("--policy: {} was begun with other rules; start a new duet", folder.string()));
  }
}

}  // namespace tandem
