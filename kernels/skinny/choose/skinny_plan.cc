#include "kernels/skinny/choose/skinny_plan.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include <fmt/format.h>

#include "harness/base/host_device.h"
#include "kernels/skinny/args.h"
#include "kernels/skinny/choose/skinny_measured.h"
#include "kernels/skinny/formats/sparse_map.h"
#include "kernels/skinny/formats/weight_format.h"
#include "kernels/skinny/wide/wide_plan.h"

namespace tandem::kernels {
namespace {

using Kind = SkinnyConfig::Kind;

int log2_of(int power_of_two) {
  return std::bit_width(static_cast<unsigned>(power_of_two)) - 1;
}
bool is_one_of_1_2_4_8(int v) {
  return v == 1 || v == 2 || v == 4 || v == 8;
}
/// Of gamma, beta, and x in memory.
int element_bytes(const SkinnyProblem& p) {
  return static_cast<int>(dtype_bytes(p.dtype));
}

const char* kind_text(Kind kind) {
  return kind == Kind::kDot ? "dot" : kind == Kind::kMma ? "mma" : kind == Kind::kRow ? "row" : "wide";
}

int unit_of(const SkinnyConfig& c, const SkinnyProblem& p) {
  return (c.kind == Kind::kMma ? MmaMap::kLanes : 32) * weight_format(p).elements();
}

/// The kernels that exist (skinny_dispatch.cuh instantiates exactly these).
struct Shape {
  Kind kind;
  int rows;
  int batch;
  bool f32;
  bool half;
  bool product;
  bool head;
  bool codes = false;  // quantised weights; the head not of kI4
};
constexpr Shape kShapes[] = {
    {Kind::kDot, 1, 1, true, false, true, false},         {Kind::kDot, 2, 1, true, true, true, true},
    {Kind::kDot, 2, 2, true, true, true, true},           {Kind::kDot, 2, 4, true, true, true, true},
    {Kind::kDot, 2, 8, true, false, true, true},          {Kind::kMma, 8, 8, false, true, true, false, true},
    {Kind::kMma, 8, 16, false, true, true, false},        {Kind::kMma, 16, 8, false, true, true, true, true},
    {Kind::kMma, 16, 16, false, true, true, true, true},  {Kind::kMma, 16, 32, false, true, true, true, true},
    {Kind::kMma, 16, 64, false, true, true, false, true}, {Kind::kMma, 32, 32, false, true, true, false},
    {Kind::kMma, 32, 64, false, true, true, true, true},  {Kind::kRow, 2, 1, false, true, true, true, true},
    {Kind::kRow, 4, 1, false, false, true, true, true},   {Kind::kRow, 8, 1, false, false, true, true, true},
};

bool kernel_exists(const SkinnyConfig& c, const SkinnyProblem& p) {
  if (p.sparse != SparseWeights::kNone) {
    const bool rows = c.rows == 2 || (c.rows == 2 * row_sets(weight_format(p).elements()) &&
                                      p.sparse == SparseWeights::kTwoOfFour);
    return c.kind == Kind::kRow && rows && c.batch == 1 && !p.head;
  }
  const bool codes = !weight_format(p).plain();
  if (p.input_dtype && c.kind != Kind::kRow) return false;  // several rows that are quantised come as codes
  if (p.weights() == DType::kI4 && (p.head || (c.kind == Kind::kMma && c.rows == 32))) return false;
  if (c.kind == Kind::kRow && c.rows > 2 && c.rows != 2 * row_sets(weight_format(p).elements())) return false;
  return std::ranges::any_of(kShapes, [&](const Shape& s) {
    return s.kind == c.kind && s.rows == c.rows && s.batch == c.batch &&
           (codes                    ? s.codes
            : p.dtype == DType::kF32 ? s.f32
                                     : s.half) &&
           (p.head ? s.head : s.product);
  });
}

/// Blocks that a multiprocessor's registers hold: what the kernels' launch bounds ask for.
int blocks_by_registers(const SkinnyConfig& c, const WeightFormat& format) {
  return c.kind == Kind::kMma ? mma_blocks(c.rows, c.batch, format.pieces()) : 2;
}

/// Shared memory of the kernel of one row: x, the norm's scratch, then the warps' statistics and partial sums, and with a bitmap
/// their rings.
void lay_out_row(SkinnyPlan& p, const SkinnyProblem& problem, int bytes, int warps) {
  const WeightFormat format = weight_format(problem);
  p.x_stride = p.units * p.unit;
  p.chunk_units = p.units;
  p.chunks = 1;
  p.red_offset = p.x_stride * format.x_bytes;
  p.bias_offset = p.red_offset + (problem.norm ? round_up(4 * problem.k, 16) : 0);
  p.norm_offset = p.bias_offset + kRowPartsBytes;
  p.shared_bytes = p.norm_offset + (problem.norm ? 2 * bytes * problem.k : 0);
  if (problem.head) p.shared_bytes = std::max(p.shared_bytes, 1024);
  if (problem.sparse == SparseWeights::kBitmap) {
    p.ring_offset = round_up(p.shared_bytes, 16);
    p.shared_bytes = p.ring_offset + warps * kBitmapRing<BitmapMap::kRows>;
  }
}

/// A bitmap's units pass through a ring, so a warp may have a whole row: rows are split only where there are too few for sixteen
/// warps a multiprocessor.
SkinnyConfig bitmap_config(const SkinnyProblem& problem, const SkinnyCard& card) {
  SkinnyConfig c{.kind = Kind::kRow, .rows = 2, .batch = 1};
  const int units = ceil_div(problem.k, unit_of(c, problem));
  const int pairs = ceil_div(problem.gated ? 2 * problem.n : problem.n, 2) * problem.m;
  int share = 1;
  while (2 * share <= std::min(units, kSkinnyWarps) && 8 * pairs * share < 7 * 16 * card.multiprocessors)
    share *= 2;
  c.warps_n = kSkinnyWarps / share;
  c.blocks_per_sm = 2;
  if (2 * (plan_skinny(c, problem, card).shared_bytes + 1024) <= card.shared_bytes + 1024) return c;
  // Long rows of x: one block with all the warps, so that x is there once, or as many as there is room for.
  c.blocks_per_sm = 1;
  SkinnyConfig all = c;
  all.warps = kRowMaxWarps;
  all.warps_n = std::min(8, all.warps / share);
  const bool fits = plan_skinny(all, problem, card).shared_bytes <= card.shared_bytes;
  return fits && all.warps / all.warps_n <= units ? all : c;
}

/// The cut of one row of x that keeps all of a warp's weights in registers: nearly the best of every sweep so far. Blocks of
/// four warps where eight would leave multiprocessors without one.
SkinnyConfig row_config(const SkinnyProblem& problem, const SkinnyCard& card) {
  SkinnyConfig c{.kind = Kind::kRow, .rows = 2, .batch = 1};
  if (problem.sparse == SparseWeights::kBitmap) return bitmap_config(problem, card);
  const int units = ceil_div(problem.k, unit_of(c, problem));
  int share = 1;
  while (share < kRowMaxWarps && ceil_div(units, share) > kRowUnits) share *= 2;
  const int weight_rows = problem.gated ? 2 * problem.n : problem.n;
  // Several pairs of rows a warp where they spare blocks a round.
  const int sets = weight_format(problem).plain() ? 1 : row_sets(weight_format(problem).elements());
  if (sets > 1 && units <= kRowUnits / sets &&
      ceil_div(weight_rows, 2 * kSkinnyWarps) > 2 * card.multiprocessors) {
    c.rows = 2 * sets;
  }
  const bool few = ceil_div(weight_rows * share, c.rows * kSkinnyWarps) < card.multiprocessors;
  c.warps = std::max(share, few && !problem.head ? 4 : 8);
  c.warps_n = std::min(c.warps / share, 8);
  c.blocks_per_sm = std::max(1, 16 / c.warps);
  return c;
}

/// A head has tiles for every multiprocessor: within 2 % of the best of a sweep over the presets' vocabularies.
SkinnyConfig wide_head_config(const SkinnyProblem& problem) {
  // Codes that are unpacked take the work of both.
  const bool unpacks = weight_format(problem).row_scales && !problem.input_dtype.has_value();
  const bool two_groups = problem.m <= 16 || problem.k <= 512 || unpacks;
  return {.kind = Kind::kWide,
          .rows = 16,
          .batch = wide_batch(problem.m),
          .warps_n = two_groups ? 8 : 4,
          .cluster = 1,
          .blocks_per_sm = 1};
}

}  // namespace

std::string config_text(const SkinnyConfig& c) {
  const std::string blocks = c.kind == Kind::kRow ? fmt::format(" w{}", c.warps) : "";
  return fmt::format("{} r{} b{} wn{} c{} x{}{}", kind_text(c.kind), c.rows, c.batch, c.warps_n, c.cluster,
                     c.blocks_per_sm, blocks);
}

SkinnyPlan plan_skinny(const SkinnyConfig& c, const SkinnyProblem& problem, const SkinnyCard& card) {
  const int bytes = element_bytes(problem);
  const WeightFormat format = weight_format(problem);
  SkinnyPlan p;
  p.m = problem.m;
  p.n = problem.n;
  p.k = problem.k;
  p.gated = problem.gated;
  p.batch = std::min(c.batch, problem.m);
  p.tile_shift = log2_of(c.rows * c.warps_n);
  p.tiles = ceil_div(problem.n, p.tile_outputs());
  p.wk_shift = log2_of(c.warps / c.warps_n);
  p.cluster_shift = log2_of(c.cluster);
  p.unit = unit_of(c, problem);
  p.units = ceil_div(problem.k, p.unit);
  p.red_ld = p.tile_rows() + (p.tile_rows() > 8 ? 8 : 0);
  p.grid_y = ceil_div(problem.m, c.batch);

  const int slots = std::max(1, card.multiprocessors * c.blocks_per_sm / (c.cluster * p.grid_y));
  int columns = ceil_div(p.tiles, ceil_div(p.tiles, slots));  // every block has as many tiles, or one less
  if (c.cluster > 1) columns = p.tiles;                       // the exchange is good for one tile
  if (problem.head) columns = std::min(columns, kHeadMaxBlocks);
  p.grid_x = columns * c.cluster;

  if (c.kind == Kind::kRow) {
    lay_out_row(p, problem, bytes, c.warps);
    return p;
  }
  const bool mma = c.kind == Kind::kMma;
  const int pass_rows = std::min(c.batch, kSkinnyPassRows);
  int red_bytes = 4 * p.warps_k() * pass_rows * p.red_ld;
  if (problem.norm) {
    constexpr int kScratchBytes = 32 << 10;
    p.norm_warps = std::clamp(kScratchBytes / (4 * problem.k), 1, std::min(kSkinnyWarps, p.batch));
    red_bytes = std::max(red_bytes, 4 * p.norm_warps * problem.k);
  }
  if (problem.head) red_bytes = std::max(red_bytes, 1024);
  red_bytes = round_up(red_bytes, 16);
  const int bias_bytes = tile_ends_bytes(p.tile_rows(), !format.plain());
  const int norm_bytes = problem.norm ? 2 * bytes * problem.k : 0;
  while (p.cluster() << p.share_shift < p.batch << p.output_shift()) ++p.share_shift;
  const int recv_bytes = c.cluster == 1 ? 0 : round_up(4 * p.recv_floats(), 16);
  // A slot: 16 bytes of each weight row for every lane, and a word with group scales.
  const int slot_bytes = c.rows / 8 * 512 + (format.group_scales ? 128 : 0);
  const int ring_bytes = mma ? kSkinnyWarps * mma_depth(c.rows) * slot_bytes : 0;
  const int barrier_bytes = mma ? 8 * (kSkinnyStages + 1) : 0;
  const int others = red_bytes + bias_bytes + norm_bytes + recv_bytes + ring_bytes + barrier_bytes;

  // Staged x: all of a block's slice if that leaves room for the multiprocessor's other blocks, in several chunks when it is
  // large, so that the product starts on the first one; else a ring of chunks.
  // With codes no room for rows past m: their core reads the last row in their place (codes_core.cuh).
  const int staged_rows = format.plain() ? c.batch : p.batch;
  const int slice = ceil_div(p.units, c.cluster);
  const int unit_bytes = p.unit * format.x_bytes;
  auto stride_bytes = [&](int units) { return (units * unit_bytes) | 64; };
  constexpr int kChunkBytes = 32 << 10;
  const int budget = std::max(card.shared_bytes / c.blocks_per_sm - 1024 - others, 16 << 10);
  int staged_units = problem.norm ? p.units : slice;
  p.chunk_units = staged_units;
  if (mma && !problem.norm) {
    p.resident = staged_rows * stride_bytes(slice) <= budget;
    const int wanted = p.resident ? kChunkBytes : budget / kSkinnyStages;
    int fits = std::max(1, (wanted / staged_rows - 64) / unit_bytes);
    if (p.resident) fits = std::max(fits, ceil_div(slice, kSkinnyStages));
    if (fits > p.warps_k()) fits = fits / p.warps_k() * p.warps_k();  // even parts for the warps
    if (p.resident) fits = std::max(fits, ceil_div(slice, kSkinnyStages));
    p.chunk_units = std::min(fits, slice);
    if (!p.resident) staged_units = p.chunk_units;
  }
  p.chunks = ceil_div(slice, p.chunk_units);
  p.x_stride = stride_bytes(staged_units) / format.x_bytes;
  p.buffer_elements = p.resident ? 0 : staged_rows * p.x_stride;
  p.ring_offset = (p.resident ? 1 : kSkinnyStages) * staged_rows * p.x_stride * format.x_bytes;
  p.red_offset = p.ring_offset + ring_bytes;
  p.bias_offset = p.red_offset + red_bytes;
  p.norm_offset = p.bias_offset + bias_bytes;
  p.recv_offset = p.norm_offset + norm_bytes;
  p.barrier_offset = p.recv_offset + recv_bytes;
  p.shared_bytes = p.barrier_offset + barrier_bytes;
  return p;
}

std::string config_problem(const SkinnyConfig& c, const SkinnyProblem& problem, const SkinnyCard& card) {
  if (c.kind == Kind::kWide) return wide_problem(c, problem, card);
  if (problem.x_codes) return "must be wide for x of codes, which needs sm_90a";
  if (problem.stats) return "must be wide with statistics, which needs sm_90a";
  if (problem.input_dtype && problem.m > 1)
    return "several rows that are quantised must come as codes (x_scales)";
  if (!kernel_exists(c, problem)) {
    return fmt::format("no {} {} kernel for weights of {} with {} rows a warp and {} rows of x",
                       kind_text(c.kind), problem.head ? "head" : "product", dtype_name(problem.weights()),
                       c.rows, c.batch);
  }
  if (!is_one_of_1_2_4_8(c.warps_n)) return "warps_n must be 1, 2, 4 or 8";
  if (!is_one_of_1_2_4_8(c.cluster)) return "cluster must be 1, 2, 4 or 8";
  if (c.cluster > 1 && !card.sm90a) return "cluster above 1 needs sm_90a";
  if (c.cluster > 1 && problem.head) return "the head takes no cluster";
  if (c.blocks_per_sm < 1 || c.blocks_per_sm > 8) return "blocks_per_sm must be 1 to 8";
  if (c.cluster > 1 && c.kind == Kind::kDot) return "dot takes no cluster";
  if (c.kind == Kind::kMma && problem.m > c.batch) return "batch must be at least m";
  if (c.kind == Kind::kRow) {
    if (c.warps != 4 && c.warps != 8 && c.warps != kRowMaxWarps) return "warps must be 4, 8 or 16";
    if (c.warps_n > c.warps) return "warps_n must be at most warps";
    if (c.cluster > 1) return "row takes no cluster";
    // Of more threads than kSkinnyThreads the arg-max knows the first ones' candidates alone (head.cuh).
    if (problem.head && c.warps != kSkinnyWarps && (c.warps < kSkinnyWarps || c.warps_n > 1))
      return "warps must be 8 for the head, or 16 that share a row";
    if (c.rows > 2 && c.warps_n != c.warps) return "warps_n must be warps for several pairs of rows a warp";
    const int units = ceil_div(problem.k, unit_of(c, problem));
    const int most = 2 * kRowUnits / c.rows;
    if (problem.sparse == SparseWeights::kBitmap) {
      if (units < c.warps / c.warps_n) return "a warp must have a unit of k";
    } else if (ceil_div(units, c.warps / c.warps_n) > most) {
      return fmt::format("{} units of k a warp at most", most);
    }
  } else if (c.warps != kSkinnyWarps) {
    return "warps must be 8";
  }
  if (problem.gated && c.rows * c.warps_n < 2) return "a gated tile needs two weight rows";
  if (problem.norm && !skinny_norm_supports(std::min(problem.m, c.batch), problem.k))
    return "too many rows for a fused norm";
  const int shared = plan_skinny(c, problem, card).shared_bytes;
  if (shared > card.shared_bytes)
    return fmt::format("needs {} bytes of shared memory, the card has {}", shared, card.shared_bytes);
  return "";
}

namespace {

/// A multiprocessor's cycles for the instructions that make a product's words of what a warp loads at a time.
double unpack_cycles(const WeightFormat& format) {
  if (format.plain()) return 0;
  const double instructions = format.bits == 4 ? 68 : 32;
  return instructions / 4;
}

/// Codes only. What a warp needs for a unit of k when it waits for nobody, in cycles: its instructions follow each other. From
/// measured products (NVIDIA H200, 2026-11-29), less what was mended since.
double unit_cycles(const SkinnyConfig& c, const WeightFormat& format) {
  const double base = format.bits == 4 ? 1100 : 650;
  const double tile = format.bits == 4 ? 250 : 110;
  return base * (0.5 + c.rows / 32.0) + tile * c.batch / 8 * std::max(1.0, c.rows / 16.0);
}

}  // namespace

double estimate_us(const SkinnyConfig& c, const SkinnyProblem& problem, const SkinnyCard& card) {
  // Measured on an H200: the read stream. The rest are leads from its data sheet and from public microbenchmarks; they
  // only have to order configs.
  if (c.kind == Kind::kWide) return estimate_wide_us(c, problem, card);
  constexpr double kStream = 4.4e6;    // bytes per us from memory
  constexpr double kL2 = 5.5e6;        // bytes per us from L2 to all multiprocessors
  constexpr double kPort = 60e3;       // bytes per us into one multiprocessor
  constexpr double kClock = 1755.0;    // cycles per us
  constexpr double kLatency_us = 1.3;  // of a load from memory under load
  constexpr double kCluster_us = 0.6;  // waiting for the peers and the exchange
  constexpr double kChunk_us = 0.05;   // a block's barrier and refill of the ring
  constexpr double kTile_us = 0.12;    // a block's end of a tile
  constexpr double kBlock_us = 0.06;   // a block's start
  constexpr double kWave_us = 0.6;     // the start of blocks that had to wait for others to end
  const SkinnyPlan p = plan_skinny(c, problem, card);
  const WeightFormat format = weight_format(problem);
  const double bytes = element_bytes(problem);  // of x in memory
  const double w_bytes = format.bits / 8.0 + (format.group_scales ? 2.0 / kScaleGroup : 0.0);
  const double sms = card.multiprocessors;
  const int blocks = p.grid_x * p.grid_y;
  const double weights = static_cast<double>(p.tiles) * p.tile_rows() * p.k * w_bytes;
  const double slice_k = problem.norm ? p.k : static_cast<double>(p.k) / c.cluster;
  const int rounds = ceil_div(p.tiles * c.cluster, p.grid_x);
  const double x_block = p.batch * slice_k * bytes * (p.resident ? 1 : rounds);
  const double w_block = rounds * p.tile_rows() * static_cast<double>(p.k) / c.cluster * w_bytes;
  const double per_sm = std::ceil(blocks / sms);

  const double memory = std::max(weights / kStream, (weights * p.grid_y + blocks * x_block) / kL2);
  const double port = per_sm * (w_block + x_block) / kPort;
  // Blocks of a multiprocessor at a time; they hide each other's waits.
  const double resident =
      std::clamp(card.shared_bytes / (p.shared_bytes + 1024), 1, blocks_by_registers(c, format));
  const double shared_by = std::min(resident, per_sm);
  const double waits =
      per_sm * kBlock_us + (std::ceil(per_sm / resident) - 1) * kWave_us +
      rounds * (kTile_us + (p.resident ? 0 : p.chunks) * kChunk_us) * per_sm / shared_by / shared_by;
  // What the warps keep in flight bounds the rate.
  const bool mma = c.kind == Kind::kMma;
  const double depth =
      std::min<double>(mma ? mma_depth(c.rows) : 4, static_cast<double>(p.units) / c.cluster / p.warps_k());
  const int loads = mma ? c.rows / 8 : c.rows;
  const double flight = per_sm * w_block / (shared_by * kSkinnyWarps * depth * loads * 512.0) * kLatency_us;
  // Shared-memory reads of x against tensor work (mma), or instructions (dot), a unit.
  const double units_sm = per_sm * rounds * c.warps_n * std::ceil(static_cast<double>(p.units) / c.cluster);
  // Codes: as many shared-memory reads and products as their unit of x has 64 bytes, and what makes words of 16 bytes.
  const double pieces = p.unit * format.x_bytes / 64.0;
  const double cycles =
      mma ? pieces * (4.0 * c.batch / 8 + 8.0 * c.rows / 8) + unpack_cycles(format) * c.rows / 8
          : (8.0 * c.rows + c.batch * (9.0 + 9.0 * c.rows) + 12.0) / 4.0;
  const double compute = units_sm * cycles / kClock;

  double serial = 0;
  double exchange = c.cluster > 1 ? kCluster_us : 0.0;
  if (!format.plain()) {
    constexpr double kStage_us = 0.4;  // a chunk of x through registers, beyond what a product hides
    constexpr double kStore_us =
        2.4e-3;  // a partial sum that arrives in another block's memory: one at a time
    const double waves = std::ceil(per_sm / resident);
    const double warp_units = rounds * std::ceil(static_cast<double>(p.units) / c.cluster / p.warps_k());
    serial = waves * (warp_units * unit_cycles(c, format) / kClock +
                      (p.resident ? 1 : rounds) * p.chunks * kStage_us);
    if (c.cluster > 1) exchange += waves * kStore_us * p.planes() * p.batch * p.tile_outputs();
  }

  const double first_chunk = x_block / (p.resident ? p.chunks : p.chunks * rounds);
  const double exposed = std::min(per_sm, 4.0) * first_chunk / kPort;
  const double sums = 0.02 * p.warps_k() + per_sm * rounds * 4.0 * p.batch * p.tile_rows() *
                                               (p.warps_k() + (c.cluster > 1 ? 2 : 0)) / 200e3;
  return std::max({memory, port, flight, compute, serial}) + waits + exposed + sums + exchange;
}

std::vector<SkinnyConfig> all_configs(const SkinnyProblem& problem, const SkinnyCard& card) {
  std::vector<SkinnyConfig> found;
  const auto consider = [&](const SkinnyConfig& c) {
    if (!config_problem(c, problem, card).empty()) return;
    // The same grid and cut under another name.
    if (c.blocks_per_sm > 1) {
      SkinnyConfig fewer = c;
      --fewer.blocks_per_sm;
      const SkinnyPlan a = plan_skinny(c, problem, card);
      const SkinnyPlan b = plan_skinny(fewer, problem, card);
      if (a.grid_x == b.grid_x && a.chunks == b.chunks && a.resident == b.resident) return;
    }
    found.push_back(c);
  };
  for (const Shape& s : kShapes) {
    // A wider batch than m needs only costs; a narrower one (dot, row) reads the weights more often.
    if (s.batch / 2 >= problem.m && s.batch > (s.kind == Kind::kMma ? 8 : 1)) continue;
    const bool row = s.kind == Kind::kRow;
    for (int warps : row ? std::vector<int>{4, 8, kRowMaxWarps} : std::vector<int>{kSkinnyWarps}) {
      for (int warps_n : {1, 2, 4, 8}) {
        for (int cluster : {1, 2, 4, 8}) {
          for (int blocks_per_sm : {1, 2, 3, 4}) {
            consider({.kind = s.kind,
                      .rows = s.rows,
                      .batch = s.batch,
                      .warps_n = warps_n,
                      .cluster = cluster,
                      .blocks_per_sm = blocks_per_sm,
                      .warps = warps});
          }
        }
      }
    }
  }
  const std::vector<SkinnyConfig> wide = wide_configs(problem, card);
  found.insert(found.end(), wide.begin(), wide.end());
  return found;
}

SkinnyConfig choose_skinny(const SkinnyProblem& problem, const SkinnyCard& card) {
  const int w_rows = problem.gated ? 2 * problem.n : problem.n;
  const bool codes = !weight_format(problem).plain();
  // Several rows of x by the kernel of one read the weights as often: the way left where the wide kernel is none.
  const bool by_rows = problem.sparse != SparseWeights::kNone && wide_configs(problem, card).empty();
  // 2:4 of one row too goes to the wide kernel: the kernel of one row took 27 us for 8192 x 8192 (H200, 2026-11-29).
  const bool wide_row = problem.sparse == SparseWeights::kTwoOfFour && !by_rows;
  if (((problem.m == 1 && !wide_row) || by_rows) && problem.dtype != DType::kF32) {
    const SkinnyConfig row = row_config(problem, card);
    if (config_problem(row, problem, card).empty()) return row;
  }
  if (problem.dtype != DType::kF32 && !codes) {
    for (const MeasuredSkinny& row : kMeasuredSkinny) {
      if (problem.m <= row.max_m && w_rows == row.w_rows && problem.k == row.k &&
          config_problem(row.config, problem, card).empty()) {
        return row.config;
      }
    }
  }
  SkinnyConfig best;
  double best_us = std::numeric_limits<double>::infinity();
  const bool dot = !codes && (problem.dtype == DType::kF32 || problem.m <= 4);
  const bool wide = !dot && !wide_configs(problem, card).empty();
  if (wide && problem.head) {
    const SkinnyConfig head = wide_head_config(problem);
    if (config_problem(head, problem, card).empty()) return head;
  }
  const Kind kind = dot ? Kind::kDot : wide ? Kind::kWide : Kind::kMma;
  for (const SkinnyConfig& c : all_configs(problem, card)) {
    if (c.kind != kind) continue;
    const double us = estimate_us(c, problem, card);
    if (us < best_us) {
      best_us = us;
      best = c;
    }
  }
  return best;
}

}  // namespace tandem::kernels
