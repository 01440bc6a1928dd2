#include "harness/driver/bisect/revisions.h"

#include <fmt/format.h>
#include <unistd.h>

#include <deque>
#include <fstream>

#include "harness/base/error.h"
#include "harness/base/process.h"
#include "harness/base/sha256.h"
#include "harness/driver/talk/progress.h"
#include "harness/sweep/files.h"

namespace tandem {
namespace fs = std::filesystem;
namespace {

constexpr double kGitAllowed_s = 300;
constexpr double kBuildAllowed_s = 7200;  // between two lines of a build
constexpr size_t kShown = 12;             // hex digits of a commit
constexpr size_t kLastLines = 3;          // of a failed build

struct Said {
  std::vector<std::string> lines;
  ProcessEnd end;
};

Said git(const fs::path& folder, const std::vector<std::string>& words) {
  Said said;
  std::vector<std::string> command = {"git", "-C", folder};
  command.insert(command.end(), words.begin(), words.end());
  said.end = run_process({.command = command,
                          .on_line = [&](const std::string& line) { said.lines.push_back(line); },
                          .allowed_s = [] { return kGitAllowed_s; }});
  if (said.end.how == ProcessEnd::How::kInterrupted) throw Interrupted("interrupted");
  return said;
}

/// One that must not fail.
std::vector<std::string> git_or_throw(const fs::path& folder, const std::vector<std::string>& words) {
  Said said = git(folder, words);
  if (said.end.clean()) return said.lines;
  throw IoError(fmt::format("git {}: {}", fmt::join(words, " "), said.end.talk));
}

std::string one_line(std::string text) {
  for (char& c : text) {
    if (c == '\n') c = ' ';
  }
  return text;
}

}  // namespace

Repository::Repository(const fs::path& folder) {
  const Said said = git(folder, {"rev-parse", "--show-toplevel"});
  if (!said.end.clean() || said.lines.empty()) {
    throw UsageError(fmt::format("--repo: {} is in no git repository", folder.string()));
  }
  root_ = said.lines[0];
}

std::string Repository::commit(const std::string& flag, const std::string& revision) const {
  const Said said =
      git(root_, {"rev-parse", "--verify", "--quiet", "--end-of-options", revision + "^{commit}"});
  if (!said.end.clean() || said.lines.empty()) {
    throw UsageError(fmt::format("{}: '{}' is no commit of {}", flag, revision, root_.string()));
  }
  return said.lines[0];
}

std::vector<std::string> Repository::between(const std::string& good, const std::string& bad) const {
  if (!git(root_, {"merge-base", "--is-ancestor", good, bad}).end.clean()) {
    throw UsageError(
        fmt::format("--good: {} is no ancestor of --bad {}", good.substr(0, kShown), bad.substr(0, kShown)));
  }
  return git_or_throw(root_, {"rev-list", "--reverse", "--first-parent", good + ".." + bad});
}

std::string Repository::words(const std::string& commit) const {
  return git_or_throw(root_, {"log", "-1", "--format=%h %s", fmt::format("--abbrev={}", kShown), commit})
      .at(0);
}

Builds::Builds(const Repository& repository, BuildRecipe recipe, fs::path log_dir, const std::string& name)
    : repository_(repository), recipe_(std::move(recipe)), log_dir_(std::move(log_dir)) {
  const fs::path cache = user_cache_dir();
  if (cache.empty()) throw UsageError("bisect: no cache folder; set HOME or XDG_CACHE_HOME");
  const fs::path own = cache / "bisect" / sha256_hex(repository.root().string()).substr(0, kShown);
  kept_ = own / "builds" / sha256_hex(recipe_.command + '\n' + recipe_.bin).substr(0, kShown);
  worktree_ = own / ("source-" + sha256_hex(name).substr(0, kShown));
  std::error_code ec;
  fs::create_directories(kept_, ec);
  if (ec) throw IoError(fmt::format("cannot write {}: {}", kept_.string(), ec.message()));
  remove_worktree();  // of a start that was killed
}

Builds::~Builds() {
  remove_worktree();
}

/// By hand, as git may no longer be started once an interrupt has come.
void Builds::remove_worktree() noexcept {
  try {
    std::ifstream in(worktree_ / ".git");
    std::string word, administration;
    if (in >> word >> administration && word == "gitdir:") {
      const fs::path folder = worktree_ / administration;  // absolute, where git is not told otherwise
      if (folder.parent_path().filename() == "worktrees") fs::remove_all(folder);
    }
    fs::remove_all(worktree_);
  } catch (const std::exception& e) {
    say(fmt::format("warning: the worktree {} is left: {}", worktree_.string(), e.what()));
  }
}

void Builds::check_out(const std::string& commit) {
  if (fs::exists(worktree_ / ".git")) {
    git_or_throw(worktree_, {"checkout", "--quiet", "--force", "--detach", commit});
    git_or_throw(worktree_,
                 {"clean", "--quiet", "-d", "--force"});  // not what .gitignore names, such as build/
    return;
  }
  git_or_throw(repository_.root(), {"worktree", "prune"});
  git_or_throw(repository_.root(), {"worktree", "add", "--quiet", "--force", "--detach", worktree_, commit});
}

Builds::Built Builds::build(const std::string& commit) {
  const fs::path kept = kept_ / commit;
  if (fs::exists(kept)) return {.bin = kept, .why = ""};
  check_out(commit);
  const fs::path bin = worktree_ / recipe_.bin;
  fs::remove_all(bin);  // what an earlier revision built and this one does not
  const fs::path log = log_dir_ / fmt::format("build-{}.log", commit.substr(0, kShown));
  std::ofstream out(log);
  std::deque<std::string> last;
  const ProcessEnd end = run_process(
      {.command = {"/bin/sh", "-c", fmt::format("cd \"$1\" || exit\nexec 2>&1\n{}", recipe_.command), "sh",
                   worktree_},
       .on_line =
           [&](const std::string& line) {
             out << line << '\n';
             last.push_back(line);
             if (last.size() > kLastLines) last.pop_front();
           },
       .allowed_s = [] { return kBuildAllowed_s; }});
  if (end.how == ProcessEnd::How::kInterrupted) throw Interrupted("interrupted");
  if (!end.clean()) {
    return {.bin = {},
            .why = one_line(
                fmt::format("the build {}: {} ({})", end.describe(), fmt::join(last, " | "), log.string()))};
  }
  if (!fs::is_directory(bin)) {
    return {.bin = {}, .why = fmt::format("the build left no folder {} ({})", recipe_.bin, log.string())};
  }
  // Under its name only when it is whole.
  const fs::path copy = kept_ / fmt::format("{}.{}.tmp", commit, ::getpid());
  fs::remove_all(copy);
  fs::copy(bin, copy, fs::copy_options::recursive | fs::copy_options::copy_symlinks);
  std::error_code ec;
  fs::rename(copy, kept, ec);
  if (ec) fs::remove_all(copy);  // another bisection was quicker
  return {.bin = kept, .why = ""};
}

}  // namespace tandem
