// From the partial sums in shared memory to y: the sum over warps and over the cluster's blocks in a fixed order, then
// bias, activation, gate and residual.
#pragma once

#include "harness/model/config.h"
#include "kernels/common/barrier_ptx.cuh"
#include "kernels/common/device.cuh"
#include "kernels/skinny/args.h"
#include "kernels/skinny/choose/skinny_config.h"
#include "kernels/skinny/tile_ends.cuh"
#include "kernels/skinny/words.cuh"

namespace tandem::kernels {

/// `kind` is the value of tandem::Activation, or -1 for none.
__device__ inline float activate(int kind, float v) {
  switch (kind) {
    case static_cast<int>(Activation::kRelu):
      return v < 0.0f ? 0.0f : v;  // a NaN stays
    case static_cast<int>(Activation::kGelu):
      return 0.5f * v * (1.0f + erff(v * 0.70710678f));
    case static_cast<int>(Activation::kGeluTanh):
      return 0.5f * v * (1.0f + tanhf(0.79788456f * (v + 0.044715f * v * v * v)));
    case static_cast<int>(Activation::kSilu):
      return v / (1.0f + expf(-v));
    case static_cast<int>(Activation::kTanh):
      return tanhf(v);
    case static_cast<int>(Activation::kSigmoid):
      return 1.0f / (1.0f + expf(-v));
    default:
      return v;
  }
}

/// An element that the previous kernel may have written, from L2.
template <typename T>
__device__ inline float load_fresh_element(const T* p) {
  if constexpr (sizeof(T) == 4) {
    return __ldcg(p);
  } else {
    const unsigned short bits = __ldcg(reinterpret_cast<const unsigned short*>(p));
    return to_float(*reinterpret_cast<const T*>(&bits));
  }
}

/// A block's view of the tile it finishes. An output is numbered b << output_shift | column in the tile.
struct TileView {
  int tile;
  int rank;  // of the block in its cluster
  int row0;  // first row of x
  int rows;  // of x
};

/// 0 where there is no such output or no residual.
template <typename T>
__device__ inline float load_residual(const SkinnyArgs& a, const TileView& view, int output) {
  const int b = output >> a.plan.output_shift();
  const int column = view.tile * a.plan.tile_outputs() + (output & (a.plan.tile_outputs() - 1));
  if (a.residual == nullptr || b >= view.rows || column >= a.plan.n) return 0.0f;
  const int64_t at = (view.row0 + b) * a.ld_residual + column;
  return a.residual_float ? load_fresh_element(static_cast<const float*>(a.residual) + at)
                          : load_fresh_element(static_cast<const T*>(a.residual) + at);
}

/// The first output that this thread will write, so that its residual can be requested before the product.
__device__ inline int first_output(const SkinnyPlan& p, int rank) {
  return (p.cluster_shift > 0 ? rank << p.share_shift : 0) + static_cast<int>(threadIdx.x);
}

/// Sum over the warps that split k, of row b of the pass and row `local` of the tile.
template <int kPassRows>
__device__ inline float sum_warps(const SkinnyPlan& p, const float* red, int b, int local) {
  float sum = 0.0f;
#pragma unroll
  for (int w = 0; w < kSkinnyWarps; ++w) {
    if (w < p.warps_k()) sum += red[(w * kPassRows + b) * p.red_ld + local];
  }
  return sum;
}

/// The sum of codes of row `local` of the tile as a number.
template <class Format>
__device__ inline float scaled(const TileEnds& ends, int local, float sum) {
  if constexpr (Format::kRowScales) sum *= ends.row_scales[local];
  return sum;
}

/// One output; `residual` counts only if there is one. Skips what is outside y.
template <typename T>
__device__ inline void write_output(const SkinnyArgs& a, const TileView& view, const float* bias, int output,
                                    float value, float up, float residual) {
  const int outputs = a.plan.tile_outputs();
  const int b = output >> a.plan.output_shift();
  const int local = output & (outputs - 1);
  const int column = view.tile * outputs + local;
  if (b >= view.rows || column >= a.plan.n) return;
  float v = activate(a.activation, value + bias[local]);
  if (a.plan.gated) v *= up + bias[local + outputs];
  v += residual;
  const int64_t at = (view.row0 + b) * a.ldy + column;
  if (a.y_float) {
    static_cast<float*>(a.y)[at] = v;
  } else {
    static_cast<T*>(a.y)[at] = from_float<T>(v);
  }
}

/// Rows [b0, b0 + kPassRows) of x, when the block has all of k. red: float [warps_k][kPassRows][red_ld].
template <class Format, int kPassRows>
__device__ inline void finish_pass(const SkinnyArgs& a, const TileView& view, const float* red,
                                   const TileEnds& ends, int b0, float residual) {
  using T = typename Format::T;
  const SkinnyPlan& p = a.plan;
  const int count = min(kPassRows, view.rows - b0) << p.output_shift();
  const int first = b0 << p.output_shift();
#pragma unroll 1
  for (int i = threadIdx.x; i < count; i += kSkinnyThreads) {
    const int b = i >> p.output_shift();
    const int local = i & (p.tile_outputs() - 1);
    if (b0 > 0 || i >= kSkinnyThreads) residual = load_residual<T>(a, view, first + i);
    const float value = scaled<Format>(ends, local, sum_warps<kPassRows>(p, red, b, local));
    const int other = local + p.tile_outputs();
    const float up = p.gated ? scaled<Format>(ends, other, sum_warps<kPassRows>(p, red, b, other)) : 0.0f;
    write_output<T>(a, view, ends.bias, first + i, value, up, residual);
  }
}

/// Stores into the shared memory of block `rank` of the cluster, at the place that `to` has in this block, and counts the
/// 4 bytes on that block's barrier.
__device__ inline void push(float* to, uint64_t* barrier, int rank, float value) {
  store_cluster(cluster_address(shared_address(to), rank), value,
                cluster_address(shared_address(barrier), rank));
}

/// Rows [b0, b0 + kPassRows) of x, when the cluster's blocks share k: pushes each partial sum to the block that will finish
/// that output. recv: float [cluster][planes][share], at the same place in every block, as is the barrier.
template <int kPassRows>
__device__ inline void push_pass(const SkinnyArgs& a, const TileView& view, const float* red, float* recv,
                                 uint64_t* barrier, int b0) {
  const SkinnyPlan& p = a.plan;
  const int count = min(kPassRows, view.rows - b0) << p.output_shift();
#pragma unroll 1
  for (int i = threadIdx.x; i < count; i += kSkinnyThreads) {
    const int b = i >> p.output_shift();
    const int local = i & (p.tile_outputs() - 1);
    const int output = (b0 << p.output_shift()) + i;
    const int owner = output >> p.share_shift;
    float* to = recv + (view.rank * p.planes() << p.share_shift) + (output & (p.share() - 1));
    push(to, barrier, owner, sum_warps<kPassRows>(p, red, b, local));
    if (p.gated)
      push(to + p.share(), barrier, owner, sum_warps<kPassRows>(p, red, b, local + p.tile_outputs()));
  }
}

/// Outputs of a tile that this block of the cluster finishes.
__device__ inline int shared_outputs(const SkinnyPlan& p, int rows, int rank) {
  return min(p.share(), max(0, (rows << p.output_shift()) - (rank << p.share_shift)));
}

/// The outputs that this block finishes, after every block of the cluster has pushed.
template <class Format>
__device__ inline void finish_share(const SkinnyArgs& a, const TileView& view, const TileEnds& ends,
                                    const float* recv, float residual) {
  using T = typename Format::T;
  const SkinnyPlan& p = a.plan;
  const int count = shared_outputs(p, view.rows, view.rank);
#pragma unroll 1
  for (int i = threadIdx.x; i < count; i += kSkinnyThreads) {
    const int output = (view.rank << p.share_shift) + i;
    if (i >= kSkinnyThreads) residual = load_residual<T>(a, view, output);
    float value = 0.0f;
    float up = 0.0f;
#pragma unroll 2
    for (int source = 0; source < p.cluster(); ++source) {
      const float* from = recv + (source * p.planes() << p.share_shift) + i;
      value += from[0];
      if (p.gated) up += from[p.share()];
    }
    if constexpr (!Format::kPlain) {
      const int local = output & (p.tile_outputs() - 1);
      value = scaled<Format>(ends, local, value);
      if (p.gated) up = scaled<Format>(ends, local + p.tile_outputs(), up);
    }
    write_output<T>(a, view, ends.bias, output, value, up, residual);
  }
}

}  // namespace tandem::kernels
