#include "harness/cost/links.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "harness/base/error.h"

namespace tandem {
namespace {

void positive(std::string_view name, double value) {
  if (!(value > 0) || !std::isfinite(value))
    throw UsageError(fmt::format("{}: {} is not allowed; a number over 0", name, value));
}

double us(double bytes, double gbs) {
  return bytes / (gbs * 1e3);
}

}  // namespace

double all_reduce_us(double bytes, int ranks, const Links& links) {
  positive("card-gbs", links.card_gbs);
  positive("call-us", links.call_us);
  positive("network-gbs", links.network_gbs);
  positive("cards-per-host", links.cards_per_host);
  if (ranks <= 1) return 0;
  const int near = std::min(ranks, links.cards_per_host);
  if (ranks % near != 0)
    throw UsageError(fmt::format("cards-per-host: {} does not divide {} ranks", near, ranks));
  const double others = near - 1;
  const double once = links.call_us + us(others * bytes, links.card_gbs);
  const double twice = 2 * links.call_us + us(2 * others / near * bytes, links.card_gbs);
  const int hosts = ranks / near;
  if (hosts == 1) return std::min(once, twice);
  if (!links.network_us)
    throw UsageError(fmt::format("network-us: must be given, {} ranks are on {} hosts", ranks, hosts));
  positive("network-us", *links.network_us);
  // Every rank sums its share of the bytes with the ranks of the same place on the other hosts.
  const double share = bytes / near;
  const double across = 2 * *links.network_us + us(2.0 * (hosts - 1) / hosts * share, links.network_gbs);
  return (near == 1 ? 0 : twice) + across;
}

std::optional<ModelTime> model_us(const Cost& cost, const Ceilings& ceilings, int ranks, const Links& links) {
  Cost alone = cost;  // what ranks exchange is counted by the links' latency too
  for (PhaseCost& p : alone.phases) p.link_bytes = 0;
  const auto work = floor_phases_us(alone, ceilings);
  if (!work || !ceilings.empty_node_us) return std::nullopt;
  ModelTime time{.work_us = *work};
  for (const PhaseCost& p : cost.phases) {
    time.launches_us += p.launches * *ceilings.empty_node_us;
    time.comm_us += p.collectives * all_reduce_us(p.collective_bytes, ranks, links);
  }
  return time;
}

}  // namespace tandem
