// `tandem duet`: two builds, or two settings of one, in interleaved pairs of fresh processes on one card.
//
// Pair p of a group is one worker process of each side, one right after the other, both with worker index p and the same
// cases in the same order. Which side goes first is drawn from the seed for each pair and group alone. Orders that are tied to
// each other (A B, then B A) or made to balance would break the test: it is exact, whatever the noise, because the labels of
// each pair could be swapped without those of any other. Pairs are added until the gate has a verdict on every case, the looks
// are spent or the time is; a case that has its verdict gets no more. A duet that ended without one for each goes on where --resume gives it more time or looks,
// and comes to what it would have, had it had them from the start: looks are where the plan has them, never where time ran out.
#pragma once

#include <string>
#include <vector>

#include "harness/driver/session/session.h"

namespace tandem {

/// As given on the command line.
struct DuetArgs {
  RunArgs
      run;  ///< sweep, out, engine, peers, filter, device, resume, timeout_s, level1_bytes, seed; bin_dir: our own
  std::string bin[2];                       ///< folders of suite binaries; empty: our own
  std::vector<std::string> set[2];          ///< AXIS=VALUE
  std::vector<std::string> environment[2];  ///< NAME=VALUE
  std::string budget = "8m";
  int looks = 8;
  std::string sample = "0.1:0.5";  ///< least and most seconds of samples of a case in one process
  std::string policy;              ///< a file of rules; empty: side A's
  std::string sweep;               ///< a sweep taken as it is; empty: run.sweep, as side A has it
  bool own_choices = false;
  bool profile = false;  ///< profile the slower cases on both sides at the end
};

/// Prints the gate's table; returns its exit code. Throws UsageError, DeviceError, IoError, Interrupted.
int duet_command(const DuetArgs& args);

/// "8m", "90s", "1h30m", "90": seconds. Throws UsageError naming --budget.
double parse_budget_s(const std::string& text);

/// Which side (0 or 1) goes first in pair `pair` of group `group`: a function of these and the seed, so that a duet that is
/// continued or extended has the order of one run through.
int first_side(uint64_t seed, int pair, int group);

}  // namespace tandem
