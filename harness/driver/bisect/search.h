// Which revision to try next: the middle of those that may be the first bad one, around those that cannot be tried.
#pragma once

#include <optional>
#include <vector>

namespace tandem {

enum class Mark : unsigned char { kUntried, kGood, kBad, kSkipped };

/// Revisions by number, the oldest first; what lies before number 0 is good.
class Search {
 public:
  /// `revisions` of them, of which the last is bad.
  explicit Search(int revisions);

  /// The untried one nearest to the middle between the last good and the first bad; nothing when none is left between them.
  std::optional<int> next() const;
  void mark(int revision, Mark mark) { marks_.at(revision) = mark; }

  int last_good() const;  ///< -1: the one before all
  int first_bad() const;
  /// Those that may be the first bad one: it alone when it is found, and the skipped ones just before it.
  std::vector<int> suspects() const;
  /// Most revisions that may yet have to be tried.
  int steps() const;

 private:
  std::vector<Mark> marks_;
};

}  // namespace tandem
