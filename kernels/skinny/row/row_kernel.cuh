// The product of one row of x, 16-bit types and codes: nothing but loads that are all in flight before the previous kernel ends.
//
// A warp owns `kSets` pairs of weight rows (gated: a gate row and its up row) and at most kRowUnits / kSets units of their k, all
// of it in registers; longer rows are shared by several warps. Several pairs are for codes whose rows are so short that one pair
// leaves registers empty. x is staged once by the whole block, normalised on the way if asked.
// Blocks are small (4 to 16 warps), so that the next kernel's blocks find room, and its weights are under way, while this
// one still runs. What the epilogue may need is requested together with the weights or with x.
//
// A warp runs through this code about once, so its length is time: instructions come from a cache that a chain of
// different kernels keeps cold. Hence templates for what is fixed, loops that are not unrolled, and one copy of each part.
#pragma once

#include "kernels/skinny/head.cuh"
#include "kernels/skinny/row/row_bitmap.cuh"
#include "kernels/skinny/row/row_stage.cuh"

namespace tandem::kernels {

// A lane holds 16 bytes of both weight rows of a pair in each of kRowUnits slots: pair after pair, the units of one after the
// other.

/// The products of a warp's weight rows with x. Elements as they are: CUDA cores, x in registers.
template <class Format, int kSets>
struct RowCore {
  static_assert(kSets == 1);
  static constexpr int kV = Format::kElements;
  static constexpr int kUnit = kWarp * kV;
  uint4 x[kRowUnits];

  /// `left`: elements of k from the lane's first one, which lies at `at` of the staged row.
  __device__ void take_x(const typename Format::X* xs, int at, int left) {
#pragma unroll
    for (int u = 0; u < kRowUnits; ++u) {
      x[u] = u * kUnit < left ? *reinterpret_cast<const uint4*>(xs + at + u * kUnit) : make_uint4(0, 0, 0, 0);
    }
  }
  __device__ void multiply(int slot, const uint4 (&w)[2][kRowUnits], float (&sum)[2]) const {
    float xf[kV];
    unpack_words<typename Format::T>(x[slot], xf);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      float wf[kV];
      unpack_words<typename Format::T>(w[j][slot], wf);
      float part = wf[0] * xf[0];
#pragma unroll
      for (int i = 1; i < kV; ++i) part = fmaf(wf[i], xf[i], part);
      sum[j] += part;
    }
  }
};

/// The same with codes: tensor cores, each group of four lanes on the diagonal of a tile (DiagonalMap), which spares the step
/// from words to floats. x stays in shared memory.
template <class Format, int kSets>
requires(!Format::kPlain && !Format::kBitmap) struct RowCore<Format, kSets> {
  using X = typename Format::X;
  using Acc = typename Format::Acc;
  static constexpr int kUnit = kWarp * Format::kElements;
  static constexpr int kPiece = kVec<X>;
  static constexpr int kPartPieces = Format::kPieces / Format::kParts;
  static constexpr int kUnits = kRowUnits / kSets;
  const X* x;
  int units;
  uint16_t scales[2][kRowUnits];    // with group scales: of the lanes' group in each slot, as bits of bf16
  uint16_t metadata[2][kRowUnits];  // of 2:4: of the lane's k in each slot

  __device__ void take_x(const X* xs, int at, int left) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    x = xs + (at - lane * Format::kElements) + lane * kPiece;  // its first piece
    units = ceil_div(left + lane * Format::kElements, kUnit);  // of the warp that reach below k
  }
  /// `sum`: the first rows of all pairs, then the second ones. For the warp together.
  __device__ void multiply(int slot, const uint4 (&w)[2][kRowUnits], float (&sum)[2 * kSets]) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int u = slot % kUnits;
    if (u >= units) return;
    Acc c[4] = {};
    if constexpr (Format::kTwoOfFour) {
      // A product takes the stored values as they are; its metadata says which x they meet.
      const int t = MmaMap::thread(lane);
      const uint32_t own = metadata[0][slot] | uint32_t{metadata[1][slot]} << 16;
      const uint32_t pairs = TwoOfFourMap::exchange_nibbles(own, __shfl_xor_sync(0xffffffffu, own, 1), t);
      const uint32_t indices = TwoOfFourMap::exchange_bytes(pairs, __shfl_xor_sync(0xffffffffu, pairs, 2), t);
      const uint4 first = *reinterpret_cast<const uint4*>(x + u * kUnit);
      const uint4 second = *reinterpret_cast<const uint4*>(x + u * kUnit + kWarp * kPiece);
      const uint4(&pair)[2] = {w[0][slot], w[1][slot]};
      mma_sp_16832<0>(c, pair[0].x, pair[1].x, pair[0].y, pair[1].y, first, indices);
      mma_sp_16832<1>(c, pair[0].z, pair[1].z, pair[0].w, pair[1].w, second, indices);
    } else {
#pragma unroll
      for (int part = 0; part < Format::kParts; ++part) {
        uint32_t first[4 * kPartPieces];
        uint32_t second[4 * kPartPieces];
        Format::unpack(stored_part<Format>(w[0][slot], part).words, first);
        Format::unpack(stored_part<Format>(w[1][slot], part).words, second);
#pragma unroll
        for (int piece = 0; piece < kPartPieces; ++piece) {
          const X* from = x + u * kUnit + (part * kPartPieces + piece) * kWarp * kPiece;
          const uint4 xw = *reinterpret_cast<const uint4*>(from);
          const int i = 4 * piece;
          Format::multiply(c, first[i], second[i], first[i + 1], second[i + 1], xw.x, xw.y);
          Format::multiply(c, first[i + 2], second[i + 2], first[i + 3], second[i + 3], xw.z, xw.w);
        }
      }
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float part = row_diagonal(c, lane, j);
      float& to = sum[j * kSets + slot / kUnits];
      if constexpr (Format::kGroupScales) {
        to = fmaf(part, __uint_as_float(uint32_t{scales[j][slot]} << 16), to);
      } else {
        to += part;
      }
    }
  }
};

/// Sums each of the values over the warp. Lane `l` gets that of value reduced_value(l, kCount).
template <int kCount>
__device__ inline float row_reduce(float (&v)[kCount]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  int bit = kWarp / 2;
#pragma unroll
  for (int width = kCount; width > 1; width /= 2, bit /= 2) {
    const bool high = (lane & bit) != 0;
#pragma unroll
    for (int i = 0; i < width / 2; ++i) {
      const float send = high ? v[i] : v[i + width / 2];
      v[i] = (high ? v[i + width / 2] : v[i]) + __shfl_xor_sync(0xffffffffu, send, bit);
    }
  }
#pragma unroll
  for (; bit > 0; bit /= 2) v[0] += __shfl_xor_sync(0xffffffffu, v[0], bit);
  return v[0];
}

template <class Format, int kSets, bool kNormed, bool kHead>
__global__ void __launch_bounds__(kWarp* kRowMaxWarps, 1)
    skinny_row_kernel(const __grid_constant__ SkinnyArgs a) {
  using T = typename Format::T;
  using X = typename Format::X;
  using Stored = typename Format::Stored;
  constexpr int kV = Format::kElements;
  constexpr int kUnit = kWarp * kV;
  extern __shared__ __align__(128) unsigned char shared[];
  const SkinnyPlan& p = a.plan;
  X* xs = reinterpret_cast<X*>(shared);
  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kWarp, 0);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  constexpr int kUnits = kRowUnits / kSets;
  const int first_pair = (warp >> p.wk_shift) * kSets;
  const int wk = warp & (p.warps_k() - 1);
  const int row = static_cast<int>(blockIdx.y);
  const UnitRange mine = warp_units(p, UnitRange{0, p.units}, wk);
  const int k0 = mine.begin * kUnit + lane * kV;
  const int left = min(mine.end * kUnit, p.k) - k0;  // elements of k from this lane's first one
  // A lane for each of the warp's rows ends up with its sum and writes it; gated, the gate row's lane writes for both.
  const int half = lane / 16;
  const int pair = first_pair + reduced_value(lane, 2 * kSets) % kSets;
  const bool writer = wk == 0 && reduced_writer(lane, 2 * kSets) && (!p.gated || half == 0);

  uint4 w[2][kRowUnits];
  RowCore<Format, kSets> core;
  float bias[2] = {0.0f, 0.0f};                         // gated: of the gate and of the up row
  [[maybe_unused]] float row_scales[2] = {0.0f, 0.0f};  // as bias
  [[maybe_unused]] float x_scale = 1.0f;
  constexpr bool kDefers = kNormed && kDefersNorm<Format>;
  [[maybe_unused]] float mean = 0.0f;                 // of the row, where a norm is applied to the sums
  [[maybe_unused]] float of_gamma[2] = {0.0f, 0.0f};  // as bias: the row of w times gamma,
  [[maybe_unused]] float of_beta[2] = {0.0f, 0.0f};   // and times beta
  float residual = 0.0f;
  const auto column_of = [&](int tile) {
    return tile * p.tile_outputs() + (p.gated ? pair : 2 * pair + half);
  };
  const auto load_residual_of = [&](int tile) {
    const int column = column_of(tile);
    if (kHead || a.residual == nullptr || !writer || column >= p.n) return;
    const int64_t at = row * a.ld_residual + column;
    residual = a.residual_float ? load_fresh_element(static_cast<const float*>(a.residual) + at)
                                : load_fresh_element(static_cast<const T*>(a.residual) + at);
  };

  // The weights of one slot.
  [[maybe_unused]] const auto request = [&](int tile, int slot) {
    constexpr int kShift = Format::kStoredShift;
    const int at = slot % kUnits * kUnit;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int weights_row = weight_row(p, tile, row_of_pair(p, first_pair + slot / kUnits, j));
      const Stored* from = static_cast<const Stored*>(a.w) +
                           static_cast<int64_t>(weights_row) * (p.k >> kShift) + ((k0 + at) >> kShift);
      w[j][slot] = at < left ? load_stream(from) : make_uint4(0, 0, 0, 0);
      if constexpr (Format::kGroupScales) {
        const auto* scales = static_cast<const uint16_t*>(a.scales) +
                             static_cast<int64_t>(weights_row) * ceil_div(p.k, kScaleGroup) +
                             (k0 + at) / kScaleGroup;
        // The lane that holds a short last group's sum may be past k itself.
        core.scales[j][slot] = at < left + MmaMap::thread(lane) * kV ? __ldg(scales) : uint16_t{0};
      }
      if constexpr (Format::kTwoOfFour) {
        const auto* metadata = static_cast<const uint16_t*>(a.metadata) +
                               (static_cast<int64_t>(weights_row) * p.k + k0 + at) / TwoOfFourMap::kLane;
        core.metadata[j][slot] = at < left ? __ldg(metadata) : TwoOfFourMap::kNothing;
      }
    }
  };

  Candidate best[1];
  int flip = 0;
  const int first = static_cast<int>(blockIdx.x);
  const int stride = static_cast<int>(gridDim.x);
  // The first round only requests: weights of tile `next`, then x.
#pragma unroll 1
  for (int tile = first - stride, next = first; tile < p.tiles; tile = next, next += stride) {
    const bool real = tile >= 0;
    float sum[2 * kSets] = {};
    if (real) __syncwarp();  // lanes that wrote nothing come early
    if constexpr (Format::kBitmap) {
      real ? core.multiply(a, first_pair, sum) : core.request(a, mine, first_pair, next);
    } else {
      if constexpr (Format::kPlain || kSets > 2) {
        // A slot's next weights are under way while the other slots are multiplied.
#pragma unroll
        for (int slot = 0; slot < kRowUnits; ++slot) {
          if (real) core.multiply(slot, w, sum);
          if (next < p.tiles) request(next, slot);
        }
      } else {
        // What is multiplied takes so many instructions that the first weights would wait for them in a cold cache.
        if (real) {
#pragma unroll
          for (int slot = 0; slot < kRowUnits; ++slot) core.multiply(slot, w, sum);
        }
        if (next < p.tiles) {
#pragma unroll
          for (int slot = 0; slot < kRowUnits; ++slot) request(next, slot);
        }
      }
    }
    const float bias_now[2] = {bias[0], bias[1]};
    [[maybe_unused]] const float scales_now[2] = {row_scales[0], row_scales[1]};
    const float residual_now = residual;
    [[maybe_unused]] const float gamma_now[2] = {of_gamma[0], of_gamma[1]};
    [[maybe_unused]] const float beta_now[2] = {of_beta[0], of_beta[1]};
    if (next < p.tiles) {
      const int column = column_of(next);
      if (a.bias != nullptr && writer && column < p.n) {
        bias[0] = to_float(static_cast<const T*>(a.bias)[column]);
        if (p.gated) bias[1] = to_float(static_cast<const T*>(a.bias)[p.n + column]);
      }
      if constexpr (kDefers) {
        if (a.norm_sums != nullptr && writer && column < p.n) {
          const int rows = p.gated ? 2 * p.n : p.n;
          of_gamma[0] = __ldg(a.norm_sums + column);
          of_beta[0] = __ldg(a.norm_sums + rows + column);
          if (p.gated) {
            of_gamma[1] = __ldg(a.norm_sums + p.n + column);
            of_beta[1] = __ldg(a.norm_sums + rows + p.n + column);
          }
        }
      }
      if constexpr (Format::kRowScales) {
        if (writer && column < p.n) {
          const auto* scales = static_cast<const float*>(a.scales);
          row_scales[0] = __ldg(scales + column);
          if (p.gated) row_scales[1] = __ldg(scales + p.n + column);
        }
      }
      if (real) load_residual_of(next);
    }
    if (!real) {
      T* norm_weights = reinterpret_cast<T*>(shared + p.norm_offset);
      if constexpr (kNormed) row_request_norm_weights(a, norm_weights);
      touch_params(a);
      pdl_launch_dependents();
      pdl_wait();
      load_residual_of(next);
      [[maybe_unused]] auto* stats = reinterpret_cast<float2*>(shared + p.bias_offset);
      [[maybe_unused]] auto* scratch = reinterpret_cast<float*>(shared + p.red_offset);
      [[maybe_unused]] bool defers = false;
      if constexpr (kDefers) defers = defers_norm(a);
      if constexpr (kNormed) {
        if constexpr (kDefers) {
          if (defers) row_stage_scaled<Format>(a, xs, scratch, stats, norm_weights, row);
        }
        if (!defers) x_scale = row_stage_norm<Format>(a, xs, scratch, stats, norm_weights, row);
      } else {
        constexpr int kHeld = kSets == 1 ? 8 : 1;  // several pairs: rows are short
        auto* maxima =
            reinterpret_cast<uint32_t*>(reinterpret_cast<float2*>(shared + p.bias_offset) + kRowMaxWarps);
        x_scale = row_stage_raw<Format, kHeld>(a, xs, maxima, row);
      }
      __syncthreads();
      core.take_x(xs, k0, left);
      if constexpr (kDefers) {
        if (defers) {
          const RowNorm norm = row_norm(a, stats);
          x_scale = norm.inverse;
          mean = norm.mean;
          if (a.norm_out != nullptr) row_write_norm<T>(a, scratch, norm_weights, norm, row);
        }
      }
      continue;
    }

    float v = row_reduce(sum);
    if (kSets == 1 && p.wk_shift > 0) {
      // Two buffers, so that one barrier a tile is enough.
      auto* stats = reinterpret_cast<float2*>(shared + p.bias_offset);
      float* parts = reinterpret_cast<float*>(stats + kRowMaxWarps) + flip * 2 * kRowMaxWarps;
      if (lane % 16 == 0) parts[2 * warp + half] = v;
      __syncthreads();
      v = 0.0f;
#pragma unroll 4
      for (int q = 0; q < p.warps_k(); ++q) v += parts[2 * ((pair << p.wk_shift) + q) + half];
      flip ^= 1;
    }
    float up = p.gated ? __shfl_xor_sync(0xffffffffu, v, 16) : 0.0f;
    if constexpr (Format::kRowScales) {
      v *= scales_now[0];
      up *= scales_now[1];
    }
    if constexpr (kDefers) {
      v = fmaf(x_scale, fmaf(-mean, gamma_now[0], v), beta_now[0]);
      up = fmaf(x_scale, fmaf(-mean, gamma_now[1], up), beta_now[1]);
    } else if constexpr (Format::kQuantises) {
      v *= x_scale;
      up *= x_scale;
    }
    const int column = column_of(tile);
    if (!writer || column >= p.n) continue;
    if constexpr (kHead) {
      const float logit = v * a.head.scale + bias_now[0];
      if (a.head.logits != nullptr) a.head.logits[static_cast<int64_t>(row) * p.n + column] = logit;
      best[0].take(logit, column);
    } else {
      float out = v + bias_now[0];
      if (a.activation >= 0) out = activate(a.activation, out);
      if (p.gated) out *= up + bias_now[1];
      out += residual_now;
      const int64_t at = row * a.ldy + column;
      if (a.y_float) {
        static_cast<float*>(a.y)[at] = out;
      } else {
        static_cast<T*>(a.y)[at] = from_float<T>(out);
      }
    }
  }
  if constexpr (kHead) finish_head<1, 1>(a, row, 1, best, shared);
}

}  // namespace tandem::kernels
