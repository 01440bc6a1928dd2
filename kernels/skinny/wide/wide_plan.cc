#include "kernels/skinny/wide/wide_plan.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include <fmt/format.h>

#include "kernels/skinny/formats/sparse_map.h"
#include "kernels/skinny/formats/weight_format.h"

namespace tandem::kernels {
namespace {

constexpr int kWarpRows = kWideGroupRows / 4;
constexpr int kBatches[] = {8, 16, 32, 64};

int log2_of(int power_of_two) {
  return std::bit_width(static_cast<unsigned>(power_of_two)) - 1;
}
/// Elements of k that 128 stored bytes of a weight row hold, or stand for.
int wide_unit(const SkinnyProblem& p) {
  if (p.sparse == SparseWeights::kTwoOfFour) return kWideRowBytes;
  return 8 * kWideRowBytes / dtype_bits(p.weights());
}
int x_element_bytes(const SkinnyProblem& p) {
  return p.x_codes ? 1 : static_cast<int>(dtype_bytes(p.dtype));
}
/// Do weights pass through registers (wide_unpack.cuh)?
bool unpacks(const SkinnyProblem& p) {
  return p.weights() != p.dtype && !p.x_codes;
}
/// Of a thread, about: what the compiler took.
int registers(const SkinnyProblem& p, int batch) {
  if (unpacks(p)) return 160;
  if (p.sparse == SparseWeights::kTwoOfFour) return batch >= 32 ? 136 : 128;
  if (p.sparse == SparseWeights::kBitmap) return 136;
  return p.weights() != DType::kF8 ? 96 : batch == 64 ? 128 : 112;
}
}  // namespace

int wide_batch(int m) {
  return *std::ranges::find_if(kBatches, [&](int b) { return b >= m || b == 64; });
}

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
  p.unit = wide_unit(problem);
  p.x_boxes = p.unit * x_element_bytes(problem) / kWideRowBytes;
  p.units = ceil_div(problem.k, p.unit);
  // A block that finishes all rows stores those past m too.
  const int shared_rows = c.cluster == 1 ? p.batch : p.m;
  while (p.cluster() << p.share_shift < shared_rows) ++p.share_shift;
  p.ld = p.tile_outputs() + 4;

  p.bulk_sums = c.cluster > 1 && c.batch >= 32;

  const int slots = std::max(1, card.multiprocessors * c.blocks_per_sm / c.cluster);
  int columns = ceil_div(p.tiles, ceil_div(p.tiles, slots));  // every block has as many tiles, or one less
  if (c.cluster > 1) columns = p.tiles;                       // the exchange is good for one tile
  const bool one_tile = columns == p.tiles;
  p.grid = columns * c.cluster;

  const int slice = ceil_div(p.units, c.cluster);
  const bool row_scales = weight_format(problem).row_scales;
  const int ends = problem.stats ? static_cast<int>(kWideEnds) : row_scales ? 2 : 1;
  const int bias_bytes = round_up(4 * p.tile_rows() * ends, 16);
  const int stats_bytes = problem.stats ? 16 * p.share() : 0;
  const int barrier_bytes = 8 * ((problem.sparse == SparseWeights::kBitmap ? 3 : 2) * kWideMaxStages + 1);
  // The head exchanges the keys of its warps, after the last tile.
  const int leaving_bytes = p.bulk_sums ? 4 * p.planes() * p.batch * p.ld : 0;
  const int sums_bytes = problem.head ? 8 * 4 * p.groups * p.batch : round_up(4 * p.sums_floats(), 16);
  const bool over_stages =
      !problem.head && c.cluster == 1 && one_tile;  // a block's own, after its last product
  p.own_bytes = problem.sparse == SparseWeights::kTwoOfFour ? kWideMetadataBytes
                : problem.sparse == SparseWeights::kBitmap  ? kBitmapRing<16>
                                                            : 0;
  p.weights_staged = problem.sparse != SparseWeights::kBitmap;
  const int own_bytes = 4 * p.groups * p.own_bytes;
  const int others =
      (over_stages ? 0 : sums_bytes) + own_bytes + bias_bytes + stats_bytes + barrier_bytes + kWideAlignment;
  const int budget = card.shared_bytes / c.blocks_per_sm - 1024 - others;
  // x stays if that leaves the weights a ring of 48 KiB.
  constexpr int kRingBytes = 48 << 10;
  p.resident = !one_tile && p.weights_staged && slice * p.x_bytes() + kRingBytes <= budget;
  p.stage_bytes = p.weight_bytes() + (p.resident ? 0 : p.x_bytes());
  const int room = budget - (p.resident ? slice * p.x_bytes() : 0);
  p.stages = std::min({room / p.stage_bytes, kWideMaxStages, slice * ceil_div(p.tiles, columns)});
  int at = std::max({p.stages * p.stage_bytes, over_stages ? sums_bytes : 0, leaving_bytes});
  at = round_up(at, kWideAlignment);
  p.x_offset = at;
  at += p.resident ? slice * p.x_bytes() : 0;
  p.sums_offset = over_stages ? 0 : at;
  at += over_stages ? 0 : sums_bytes;
  p.own_offset = at;
  p.bias_offset = at + own_bytes;
  p.stats_offset = p.bias_offset + bias_bytes;
  p.barrier_offset = p.stats_offset + stats_bytes;
  p.shared_bytes = p.barrier_offset + barrier_bytes + kWideAlignment;
  return p;
}

std::string wide_problem(const SkinnyConfig& c, const SkinnyProblem& problem, const SkinnyCard& card) {
  if (!card.sm90a) return "wide needs sm_90a";
  if (problem.dtype == DType::kF32) return "wide has no f32";
  if (problem.input_dtype.has_value() != problem.x_codes)
    return "wide takes x that is to be quantised as codes (x_scales)";
  if (problem.head && problem.weights() == DType::kI4) return "the head takes no weights of i4";
  if (problem.norm) return "wide fuses no norm";
  if (problem.stats &&
      (problem.head || problem.sparse != SparseWeights::kNone ||
       !skinny_stats_supports(problem.dtype, problem.m, problem.n, problem.k, problem.weights())))
    return "statistics need a product of bf16 weights that are all stored, of 5 to 64 rows";
  if (problem.sparse == SparseWeights::kBitmap && c.batch > kBitmapMaxRows) return "batch must be 8 or 16";
  if (problem.sparse == SparseWeights::kTwoOfFour && problem.k % wide_unit(problem) != 0)
    return fmt::format("wide needs k a multiple of {} with 2:4", wide_unit(problem));
  if (c.rows != kWarpRows) return "wide takes 16 rows a warp";
  if (std::ranges::find(kBatches, c.batch) == std::end(kBatches)) return "batch must be 8, 16, 32 or 64";
  if (problem.m > c.batch) return "batch must be at least m";
  if (c.warps_n != 4 && c.warps_n != 8) return "warps_n must be 4 or 8";
  if (problem.sparse == SparseWeights::kBitmap && c.warps_n != 4) return "warps_n must be 4 with a bitmap";
  if (c.cluster < 1 || c.cluster > kWideMaxCluster || !std::has_single_bit(static_cast<unsigned>(c.cluster)))
    return "cluster must be 1, 2, 4, 8 or 16";
  if (c.cluster > 1 && problem.head) return "the head takes no cluster";
  if (c.cluster > ceil_div(problem.k, wide_unit(problem)))
    return fmt::format("cluster has more blocks than k has units of {}", wide_unit(problem));
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
  const int batch = wide_batch(problem.m);
  const auto consider = [&](const SkinnyConfig& c) {
    if (!wide_problem(c, problem, card).empty()) return;
    if (c.blocks_per_sm > 1) {  // the same grid and ring under another name
      SkinnyConfig fewer = c;
      --fewer.blocks_per_sm;
      const WidePlan a = plan_wide(c, problem, card);
      const WidePlan b = plan_wide(fewer, problem, card);
      if (a.grid == b.grid && a.stages == b.stages && a.resident == b.resident) return;
    }
    found.push_back(c);
  };
  for (int warps_n : {4, 8}) {
    for (int cluster : {1, 2, 4, 8, 16}) {
      for (int blocks_per_sm : {1, 2, 3}) {
        consider({.kind = SkinnyConfig::Kind::kWide,
                  .rows = kWarpRows,
                  .batch = batch,
                  .warps_n = warps_n,
                  .cluster = cluster,
                  .blocks_per_sm = blocks_per_sm});
      }
    }
  }
  return found;
}

double estimate_wide_us(const SkinnyConfig& c, const SkinnyProblem& problem, const SkinnyCard& card) {
  // Fitted to two sweeps on an H200, except the outputs' cost, whose code has changed since.
  constexpr double kStream = 4.1e6;    // bytes per us from memory
  constexpr double kL2 = 5.5e6;        // bytes per us to all multiprocessors, x included
  constexpr double kLink_us = 2.2;     // a link of a chain that does next to nothing
  constexpr double kUnit_us = 0.17;    // of a block: a stage's barriers and copies
  constexpr double kCluster_us = 0.2;  // of an exchange, and again for each doubling above 4 blocks
  constexpr double kBlock_us = 0.3;    // of every further block on a multiprocessor
  constexpr double kWave_us = 0.7;     // blocks that have to wait for others to end
  constexpr double kUnpack_us = 0.1;   // a multiprocessor's instructions for 8 KiB of 8-bit codes
  constexpr double kRound_us =
      1.5;  // of a block's further tile, whose stages wait for the outputs of the last
  const WidePlan p = plan_wide(c, problem, card);
  const int rounds = ceil_div(p.tiles, p.grid >> p.cluster_shift);
  const double slice = static_cast<double>(p.units) / c.cluster;
  const double x_block = slice * p.x_bytes() * (p.resident ? 1 : rounds);
  // Stored bytes of 128 of a row: with 2:4 their metadata too; of a bitmap as if half were kept.
  const double stored = problem.sparse == SparseWeights::kTwoOfFour ? 1.125
                        : problem.sparse == SparseWeights::kBitmap  ? 0.5625
                                                                    : 1.0;
  const double weights = static_cast<double>(p.tiles) * p.units * p.tile_rows() * kWideRowBytes * stored;
  const double per_sm = std::ceil(static_cast<double>(p.grid) / card.multiprocessors);
  const int by_registers = 65536 / (p.threads() * registers(problem, p.batch));
  const double resident = std::clamp(card.shared_bytes / (p.shared_bytes + 1024), 1, by_registers);
  // A cluster needs its multiprocessors in one processing cluster, where some stay without.
  const double usable = card.multiprocessors * (c.cluster >= 8 ? 0.85 : c.cluster == 4 ? 0.97 : 1.0);
  const double waves = std::ceil(p.grid / (usable * resident));

  const double memory = std::max(weights / kStream, (weights + p.grid * x_block) / kL2);
  // Not measured yet: what unpacking adds. The sums of a group of 4-bit codes are added on their own.
  constexpr double kExpand_us = 0.12;  // for 64 x 64 elements of a bitmap; not measured yet
  const double unpack_us = problem.sparse == SparseWeights::kBitmap ? kExpand_us
                           : !unpacks(problem)                      ? 0.0
                           : p.x_boxes == 2                         ? kUnpack_us
                                                                    : 2 * kUnpack_us + 0.0008 * p.batch;
  const double unit_us = kUnit_us + 0.05 * (p.groups - 1) + 0.0012 * p.batch * p.x_boxes + unpack_us;
  const double issue = per_sm * rounds * slice * p.groups * unpack_us;
  const double block = std::max(waves * rounds * slice * unit_us, issue);
  const double cluster = c.cluster == 1 ? 0 : kCluster_us * (1 + std::max(0, p.cluster_shift - 2));
  const double outputs = per_sm * rounds * p.batch * p.tile_rows() / c.cluster * 60e-6;
  return std::max(memory, block) + kLink_us + cluster + outputs + (per_sm - 1) * kBlock_us +
         (waves - 1) * kWave_us + (problem.head ? 0 : (rounds - 1) * kRound_us);
}

}  // namespace tandem::kernels
