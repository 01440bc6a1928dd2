// duet.json: what a duet was asked for, how far it is, and every look that was taken. Rewritten whole after each pair.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace tandem {

/// One side: which build, and what is set for it.
struct DuetSide {
  std::string bin_dir;
  std::map<std::string, std::string> set;          ///< axis to value
  std::map<std::string, std::string> environment;  ///< variable to value
};

/// One look at the data: what it could spend and what it found.
struct DuetLook {
  int look = 1, of = 1;
  int pairs = 0;
  double spent_s = 0;
  double alpha = 0;
  nlohmann::json counts = {};  ///< cases by verdict
  bool stop = false;
  int code = 0;
};

/// A case that was decided and gets no more pairs.
struct DuetLeft {
  int look = 1;         ///< that decided it
  std::string verdict;  ///< the gate's word
};

/// Which side went first in a pair of processes; or, on resume, that the pair was cut between its halves and left.
struct DuetTurn {
  int pair = 0;
  int group = 0;
  int first = 0;  ///< side
  bool broken = false;
};

struct DuetState {
  uint64_t seed = 0;
  double budget_s = 0;
  int looks = 1;
  std::string sample;
  std::string filter;
  bool own_choices = false;
  std::string sweep_from, policy_from;  ///< where the sweep and the gate's rules come from, in words
  DuetSide sides[2];
  std::vector<std::string> groups;  ///< what the turns' numbers stand for
  int cases = 1;                    ///< that the plan is made for: those that both sides can compute
  std::vector<std::vector<std::string>> members;  ///< ids of each group's cases: A's, or B's where A has none
  std::vector<int> plan;                          ///< pairs at each look; empty until both sides are checked
  std::vector<DuetTurn> turns;
  std::vector<DuetLook> taken;
  std::map<std::string, DuetLeft> left;  ///< by the id of the case: A's, or B's where A has none
  int pairs = 0;                         ///< whole rounds: pairs of processes of every group
  double spent_s = 0;  ///< on pairs and looks, over all starts; checking the sides does not count
  std::string end;     ///< "": under way; "decided", "budget spent", "looks spent", "nothing to measure"

  /// Axes that a side sets: left out when cases of the sides are matched.
  std::vector<std::string> axes() const;
};

/// Throws IoError.
void write_duet(const std::filesystem::path& folder, const DuetState& state);
/// Throws UsageError naming the file for anything that write_duet would not have written.
DuetState read_duet(const std::filesystem::path& folder);

}  // namespace tandem
