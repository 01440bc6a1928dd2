#include "kernels/skinny/wide_plan.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include <fmt/format.h>

namespace tandem::kernels {
namespace {

constexpr int kWarpRows = kWideGroupRows / 4;
constexpr int kBatches[] = {8, 16, 32, 64};

int log2_of(int power_of_two) {
  return std::bit_width(static_cast<unsigned>(power_of_two)) - 1;
}
int align_16(int bytes) {
  return (bytes + 15) / 16 * 16;
}

}  // namespace

WidePlan plan_wide(const SkinnyConfig& c, const SkinnyProblem& problem, const SkinnyCard& card) {
  WidePlan p;
  p.m = problem.m;
  p.n = problem.n;
  p.k = problem.k;
  p.gated = problem.gated;
  p.batch = c.batch;
  p.groups = c.warps_n / 4;
  p.tiles = ceil_div(problem.n, p.tile_outputs());
  p.cluster_shift = log2_of(c.cluster);
  p.units = ceil_div(problem.k, kWideUnit);
  while (p.cluster() << p.share_shift < p.m) ++p.share_shift;
  p.ld = p.tile_outputs() + 4;

  const int slots = std::max(1, card.multiprocessors * c.blocks_per_sm / c.cluster);
  int columns = ceil_div(p.tiles, ceil_div(p.tiles, slots));  // every block has as many tiles, or one less
  if (c.cluster > 1) columns = p.tiles;                       // the exchange is good for one tile
  p.grid = columns * c.cluster;
  const bool one_tile = columns == p.tiles;

  const int slice = ceil_div(p.units, c.cluster);
  const int bias_bytes = align_16(4 * p.tile_rows());
  const int barrier_bytes = 8 * (2 * kWideMaxStages + 1);
  // The head exchanges the keys of its warps, after the last tile.
  const int sums_bytes = problem.head ? 8 * 4 * p.groups * p.batch : align_16(4 * p.sums_floats());
  const bool over_stages =
      !problem.head && c.cluster == 1 && one_tile;  // a block's own, after its last product
  const int others = (over_stages ? 0 : sums_bytes) + bias_bytes + barrier_bytes + kWideAlignment;
  const int budget = card.shared_bytes / c.blocks_per_sm - 1024 - others;
  // x stays if that leaves the weights a ring of 48 KiB.
  constexpr int kRingBytes = 48 << 10;
  p.resident = !one_tile && slice * p.x_bytes() + kRingBytes <= budget;
  const int room = budget - (p.resident ? slice * p.x_bytes() : 0);
  p.stages = std::min({room / p.stage_bytes(), kWideMaxStages, slice * ceil_div(p.tiles, columns)});
  int at = std::max(p.stages * p.stage_bytes(), over_stages ? sums_bytes : 0);
  p.x_offset = at;
  at += p.resident ? slice * p.x_bytes() : 0;
  p.sums_offset = over_stages ? 0 : at;
  at += over_stages ? 0 : sums_bytes;
  p.bias_offset = at;
  p.barrier_offset = p.bias_offset + bias_bytes;
  p.shared_bytes = p.barrier_offset + barrier_bytes + kWideAlignment;
  return p;
}

std::string wide_problem(const SkinnyConfig& c, const SkinnyProblem& problem, const SkinnyCard& card) {
  if (!card.wide()) return "wide needs sm_90a";
  if (problem.dtype == DType::kF32) return "wide has no f32";
  if (problem.norm) return "wide fuses no norm";
  if (c.rows != kWarpRows) return "wide takes 16 rows a warp";
  if (std::ranges::find(kBatches, c.batch) == std::end(kBatches)) return "batch must be 8, 16, 32 or 64";
  if (problem.m > c.batch) return "batch must be at least m";
  if (c.warps_n != 4 && c.warps_n != 8) return "warps_n must be 4 or 8";
  if (c.cluster < 1 || c.cluster > 16 || !std::has_single_bit(static_cast<unsigned>(c.cluster)))
    return "cluster must be 1, 2, 4, 8 or 16";
  if (c.cluster > 1 && problem.head) return "the head takes no cluster";
  if (c.cluster > ceil_div(problem.k, kWideUnit)) return "cluster has more blocks than k has units of 64";
  if (c.blocks_per_sm < 1 || c.blocks_per_sm > 4) return "blocks_per_sm must be 1 to 4";
  if (problem.gated && problem.n % 8 != 0) return "a gated product needs n a multiple of 8";
  const WidePlan p = plan_wide(c, problem, card);
  const int needed = std::min(2, ceil_div(p.units, c.cluster));
  if (p.stages < needed || p.shared_bytes > card.shared_bytes)
    return fmt::format("has no room for {} stages in shared memory", needed);
  return "";
}

std::vector<SkinnyConfig> wide_configs(const SkinnyProblem& problem, const SkinnyCard& card) {
  std::vector<SkinnyConfig> found;
  const int batch = *std::ranges::find_if(kBatches, [&](int b) { return b >= problem.m || b == 64; });
  for (int warps_n : {4, 8}) {
    for (int cluster : {1, 2, 4, 8, 16}) {
      for (int blocks_per_sm : {1, 2, 3}) {
        const SkinnyConfig c{.kind = SkinnyConfig::Kind::kWide,
                             .rows = kWarpRows,
                             .batch = batch,
                             .warps_n = warps_n,
                             .cluster = cluster,
                             .blocks_per_sm = blocks_per_sm};
        if (!wide_problem(c, problem, card).empty()) continue;
        if (blocks_per_sm > 1) {  // the same grid and ring under another name
          SkinnyConfig fewer = c;
          --fewer.blocks_per_sm;
          const WidePlan a = plan_wide(c, problem, card);
          const WidePlan b = plan_wide(fewer, problem, card);
          if (a.grid == b.grid && a.stages == b.stages && a.resident == b.resident) continue;
        }
        found.push_back(c);
      }
    }
  }
  return found;
}

double estimate_wide_us(const SkinnyConfig& c, const SkinnyProblem& problem, const SkinnyCard& card) {
  constexpr double kStream = 4.4e6;    // bytes per us from memory
  constexpr double kL2 = 6.5e6;        // bytes per us from L2 to all multiprocessors
  constexpr double kPort = 90e3;       // bytes per us into one multiprocessor
  constexpr double kClock = 1755.0;    // cycles per us
  constexpr double kLatency_us = 1.2;  // of a request to memory under load
  constexpr double kLink_us = 1.3;     // x through L2, the last products, the outputs, the next kernel's wait
  constexpr double kCluster_us = 0.3;  // the exchange
  constexpr double kWave_us = 1.0;     // blocks that had to wait for others to end
  const WidePlan p = plan_wide(c, problem, card);
  const int rounds = ceil_div(p.tiles << p.cluster_shift, p.grid);
  const double slice = static_cast<double>(p.units) / c.cluster;
  const double w_block = rounds * slice * p.weight_bytes();
  const double x_block = slice * p.x_bytes() * (p.resident ? 1 : rounds);
  const double weights = static_cast<double>(p.tiles) * p.units * p.weight_bytes();
  const double sms = card.multiprocessors;
  const double per_sm = std::ceil(p.grid / sms);
  const double resident = std::max(1, card.shared_bytes / (p.shared_bytes + 1024));
  const double shared_by = std::min(resident, per_sm);

  const double memory = std::max(weights / kStream, (weights + p.grid * x_block) / kL2);
  const double port = per_sm * (w_block + x_block) / kPort;
  const double flight = per_sm * w_block / (shared_by * p.stages * p.weight_bytes()) * kLatency_us;
  const double unit_us =
      4.0 * p.groups * std::max(16, p.batch / 2) / kClock;  // of tensor cores, or of their reads
  const double compute = per_sm * rounds * slice * unit_us;
  // Products on what lay in shared memory before x came, and the copy of the partial sums.
  const double tail = std::min<double>(p.stages, slice) * unit_us * 1.5 +
                      4.0 * p.batch * p.tile_rows() * (c.cluster > 1 ? 2 : 1) / 60e3;
  return std::max({memory, port, flight, compute}) + tail + kLink_us + (c.cluster > 1 ? kCluster_us : 0) +
         (std::ceil(per_sm / resident) - 1) * kWave_us;
}

}  // namespace tandem::kernels
