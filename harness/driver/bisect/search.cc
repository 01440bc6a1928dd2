#include "harness/driver/bisect/search.h"

#include <algorithm>
#include <cstdlib>

namespace tandem {

Search::Search(int revisions) : marks_(revisions, Mark::kUntried) {
  marks_.back() = Mark::kBad;
}

int Search::first_bad() const {
  return static_cast<int>(std::find(marks_.begin(), marks_.end(), Mark::kBad) - marks_.begin());
}

int Search::last_good() const {
  int found = -1;
  for (int i = 0; i < first_bad(); ++i) {
    if (marks_[i] == Mark::kGood) found = i;
  }
  return found;
}

std::optional<int> Search::next() const {
  const int low = last_good(), high = first_bad();
  std::optional<int> best;
  // Twice the distance to the middle, so that it is whole.
  const auto far = [&](int i) { return std::abs(2 * i - (low + high)); };
  for (int i = low + 1; i < high; ++i) {
    if (marks_[i] == Mark::kUntried && (!best || far(i) < far(*best))) best = i;
  }
  return best;
}

std::vector<int> Search::suspects() const {
  std::vector<int> found;
  for (int i = last_good() + 1; i <= first_bad(); ++i) found.push_back(i);
  return found;
}

int Search::steps() const {
  int steps = 0;
  for (int left = first_bad() - last_good(); left > 1; left = (left + 1) / 2) ++steps;
  return steps;
}

}  // namespace tandem
