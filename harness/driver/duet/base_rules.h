// Where a duet takes its sweep and the gate's rules from: side A, the base, so that a change cannot choose what it is judged by.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "harness/driver/duet/duet.h"

namespace tandem {

/// One file, and where it comes from, in words that are recorded and printed.
struct FromBase {
  std::string file;  ///< empty: built-in rules
  std::string from;
};

struct BaseRules {
  FromBase sweep, policy;
  std::vector<std::string> remarks;  ///< lines that the user should see
};

/// Two builds: suites/X.json and the rules suites/gates.json as side A was built with them; what is named with --sweep and
/// --policy goes before. A sweep that lies in no folder `suites` is taken as named, and so is everything where both sides are
/// one build. Where A keeps nothing the files of the working folder are taken, and `remarks` says so.
/// Throws UsageError where no sweep is named.
BaseRules base_rules(const DuetArgs& args);

/// The rules into the duet's folder, where `tandem-report gate` finds them. On resume what is kept there holds. Throws UsageError
/// where --policy names other rules than those that are kept, IoError.
void keep_policy(const std::filesystem::path& folder, const FromBase& policy, bool named);

}  // namespace tandem
