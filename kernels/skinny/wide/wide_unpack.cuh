// Weights of codes out of a stage into registers, as the 64-row operand of a product of bf16, and the scales of their groups.
#pragma once

#include "kernels/common/hopper_ptx.cuh"
#include "kernels/skinny/formats/format.cuh"
#include "kernels/skinny/wide/wide_args.h"
#include "kernels/skinny/wide/wide_format.cuh"

namespace tandem::kernels {

/// Products of 16 k that one box of x (64 k) makes.
inline constexpr int kWideSteps = 4;

__device__ inline uint32_t load_shared_16(uint32_t from) {
  uint16_t v;
  asm volatile("ld.shared.u16 %0, [%1];" : "=h"(v) : "r"(from) : "memory");
  return v;
}
__device__ inline uint4 load_shared_words(uint32_t from) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(from)
               : "memory");
  return v;
}

/// The operands of box `box` of x. `rows`: shared address of the warp's first weight row in the stage, a multiple of 1024.
template <class Format>
__device__ inline void wide_unpack(uint32_t rows, int box, int lane, uint32_t (&a)[kWideSteps][4]) {
  constexpr int kEightRows = 8 * kWideRowBytes;
  const int row = lane >> 2;
  if constexpr (Format::kGroupScales) {
    // The four lanes of a row read the same 16 bytes: 32 codes, two steps, of which each takes its byte of every word.
    const uint32_t select = 0x4400u + 0x1111u * (lane & 3);
    const auto pair = [&](uint32_t codes) { return bf16x2_of_i4(__byte_perm(codes, codes >> 4, select)); };
#pragma unroll
    for (int two = 0; two < kWideSteps / 2; ++two) {
      const uint32_t from = rows + wide_swizzled(row, 16 * (kWideSteps / 2 * box + two));
      const uint4 first = load_shared_words(from);
      const uint4 second = load_shared_words(from + kEightRows);
      uint32_t(&low)[4] = a[2 * two];
      uint32_t(&high)[4] = a[2 * two + 1];
      low[0] = pair(first.x);
      low[1] = pair(second.x);
      low[2] = pair(first.y);
      low[3] = pair(second.y);
      high[0] = pair(first.z);
      high[1] = pair(second.z);
      high[2] = pair(first.w);
      high[3] = pair(second.w);
      // Before the next loads: their words take registers too.
#pragma unroll
      for (int i = 0; i < 4; ++i) asm volatile("" : "+r"(low[i]), "+r"(high[i]));
    }
  } else {
    const auto pair = [](uint32_t from) {
      return bf16x2_of_i8(__byte_perm(load_shared_16(from), 0x43434343u, 0x4140));
    };
#pragma unroll
    for (int step = 0; step < kWideSteps; ++step) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t from =
            rows + wide_swizzled(row, wide_pair_of_bytes(lane, kWideSteps * box + step, half));
        a[step][2 * half] = pair(from);
        a[step][2 * half + 1] = pair(from + kEightRows);
      }
    }
  }
}

/// The scales of the lane's two weight rows, kWideScaleUnits units at a time, requested as long before they are used.
struct WideScales {
  uint32_t now[2][2] = {};  // [row][word]: two bf16 each
  uint32_t next[2][2] = {};

  /// Requests those of the units from `unit` of the slice on.
  __device__ void request(const WideArgs& a, int tile, int first_unit, int unit, int warp, int lane) {
    const WidePlan& p = a.plan;
    const int group = 2 * (first_unit + unit) + wide_lane_group(lane);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const WideOutput out = wide_output(p.gated, warp, lane, half);
      const int column = tile * p.tile_outputs() + out.column;
      const bool there = column < p.n;
      const auto* from = static_cast<const unsigned short*>(a.scales) +
                         static_cast<int64_t>(there ? column + out.plane * p.n : 0) * a.groups;
#pragma unroll
      for (int word = 0; word < 2; ++word) {
        const int at = group + 2 * word;
        const uint32_t low = there && at < a.groups ? __ldg(from + at) : 0;
        const uint32_t high = there && at + 1 < a.groups ? __ldg(from + at + 1) : 0;
        next[half][word] = low | high << 16;
      }
    }
  }
  __device__ void turn() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      now[half][0] = next[half][0];
      now[half][1] = next[half][1];
    }
  }
  /// Both groups of unit `unit`, of row `half`.
  __device__ uint32_t of_unit(int unit, int half, int lane) const {
    const uint32_t word = wide_scale_word(unit) != 0 ? now[half][1] : now[half][0];
    return __shfl_sync(0xffffffffu, word, (lane & ~3) | wide_scale_lane(unit));
  }
};

}  // namespace tandem::kernels
