// Revisions of a git repository, and their builds: one worktree in the cache folder moves from revision to revision, so that each
// build is one of what changed; the binaries of each are kept.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace tandem {

class Repository {
 public:
  /// Throws UsageError where `folder` is in no git repository.
  explicit Repository(const std::filesystem::path& folder);

  const std::filesystem::path& root() const { return root_; }
  /// The full hash of a commit. Throws UsageError naming `flag`.
  std::string commit(const std::string& flag, const std::string& revision) const;
  /// First parents after `good`, up to `bad`, the oldest first. Throws UsageError where `good` is no ancestor of `bad`.
  std::vector<std::string> between(const std::string& good, const std::string& bad) const;
  /// "0123456789ab subject of the commit".
  std::string words(const std::string& commit) const;

 private:
  std::filesystem::path root_;
};

/// How a revision becomes binaries.
struct BuildRecipe {
  std::string command;  ///< for /bin/sh, run in the root of the revision's tree
  std::string bin;      ///< folder of the suite binaries, from there
};

class Builds {
 public:
  /// `log_dir`: what builds print goes to files there. `name` tells the worktree of this bisection from those of others.
  /// Throws UsageError where there is no cache folder.
  Builds(const Repository& repository, BuildRecipe recipe, std::filesystem::path log_dir,
         const std::string& name);
  /// Takes the worktree away, whatever happened.
  ~Builds();
  Builds(const Builds&) = delete;
  Builds& operator=(const Builds&) = delete;

  struct Built {
    std::filesystem::path bin;  ///< empty: it does not build
    std::string why;            ///< it does not
  };
  /// The binaries of a commit, built now or by an earlier bisection with the same command. Throws IoError, Interrupted.
  Built build(const std::string& commit);

  const std::filesystem::path& worktree() const { return worktree_; }

 private:
  void check_out(const std::string& commit);
  void remove_worktree() noexcept;

  const Repository& repository_;
  BuildRecipe recipe_;
  std::filesystem::path log_dir_, worktree_, kept_;
};

}  // namespace tandem
