// A model of a pass on several cards: what each card does at measured rates, what it launches, and what the cards say to each
// other. A way to plan for machines that are not here. Its terms are rates and counts; nothing in it is fitted to the time of
// a pass.
#pragma once

#include <optional>

#include "harness/cost/ceilings.h"
#include "harness/cost/cost.h"

namespace tandem {

/// How cards are joined. The defaults are published figures of 8 H100 or H200 cards in a host, not measurements of ours.
struct Links {
  /// Of one card to its peers, one direction, 1e9 bytes/s. NVLink 4: 18 links of 25 GB/s (NVIDIA H100 whitepaper).
  double card_gbs = 450;
  /// A collective of a few bytes within a host. An all-reduce of 512 bytes over 2 H100 takes this long with the kernels of
  /// sglang (pull request 2904), its launch included.
  double call_us = 3.7;
  int cards_per_host = 8;
  /// Of one card to other hosts, one direction, 1e9 bytes/s: a network adapter of 400 Gb/s each, as DGX H200 has them.
  double network_gbs = 50;
  /// From host to host and back for a few bytes. No default: networks differ.
  std::optional<double> network_us = {};
};

/// An all-reduce of `bytes` a rank: within a host the faster of one exchange (each rank reads all others') and two (each sums
/// its share, then gathers); over hosts the shares travel between the two halves of the second. Throws UsageError naming a
/// link that is not over 0, or network_us where ranks are on several hosts and it is absent; and for hosts that do not
/// divide the ranks.
double all_reduce_us(double bytes, int ranks, const Links& links);

struct ModelTime {
  double work_us = 0;      ///< phase by phase, the longer of bytes and operations of one rank
  double launches_us = 0;  ///< each at a dependent empty node of a graph
  double comm_us = 0;      ///< exposed: nothing is overlapped with it
  double total_us() const { return work_us + launches_us + comm_us; }
};
/// Of a cost that was made for `ranks`. Absent where a ceiling is missing. Throws as all_reduce_us().
std::optional<ModelTime> model_us(const Cost& cost, const Ceilings& ceilings, int ranks, const Links& links);

}  // namespace tandem
