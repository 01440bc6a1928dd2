// PTX of sm_90a: the tensor copy engine and what goes around warpgroup products.
// Only code for sm_90a may call these.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "kernels/common/barrier_ptx.cuh"
#include "kernels/common/wgmma.cuh"

namespace tandem::kernels {

/// The box at column x, row y of a two-dimensional tensor map, into shared memory; counted on `barrier`.
__device__ inline void copy_box(uint32_t shared, const CUtensorMap* map, int x, int y, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], "
      "[%2];" ::"r"(shared),
      "l"(map), "r"(barrier), "r"(x), "r"(y)
      : "memory");
}
/// The same for a four-dimensional map.
__device__ inline void copy_box(uint32_t shared, const CUtensorMap* map, int x, int y, int z, int w,
                                uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, "
      "%6}], "
      "[%2];" ::"r"(shared),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z), "r"(w)
      : "memory");
}
/// The box of a two-dimensional map into every block of the cluster that `blocks` has a bit of, at the place that `shared` and
/// `barrier` have in each of them: every one's own barrier counts the bytes that it gets.
__device__ inline void copy_box_to_blocks(uint32_t shared, const CUtensorMap* map, int x, int y,
                                          uint32_t barrier, uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
      "[%1, {%3, %4}], [%2], %5;" ::"r"(shared),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "h"(blocks)
      : "memory");
}
/// Bytes (a multiple of 16) of this block's shared memory into another's, counted on that one's barrier. Must be complete
/// before this block ends.
__device__ inline void copy_to_block(uint32_t remote, uint32_t shared, int bytes, uint32_t remote_barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          remote),
      "r"(shared), "r"(bytes), "r"(remote_barrier)
      : "memory");
}
/// Arrives at a barrier of any block of the cluster, by its cluster_address(). Orders this thread's own stores for its own block
/// alone: a release at the cluster's scope would wait for all of them. Enough to give back what products have read.
__device__ inline void barrier_arrive_cluster(uint32_t remote_barrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(remote_barrier) : "memory");
}
__device__ inline void prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/// Ordinary stores to shared memory become visible to later warpgroup products.
__device__ inline void fence_async_proxy() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
/// Four 8x8 matrices of 16-bit elements into shared memory; lane i gives the address of row i % 8 of matrix i / 8. r[m] of a lane
/// holds row lane / 4 and columns 2 (lane % 4) and the next of matrix m.
__device__ inline void stmatrix_x4(uint32_t address, const uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(r[0]),
               "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}
/// Barrier `id` (1 to 15) of the 128 threads of a warpgroup.
__device__ inline void warpgroup_barrier(int id) {
  asm volatile("bar.sync %0, 128;" ::"r"(id) : "memory");
}
/// Barrier Id of so many threads of the block: the number is in the instruction, the count in a register, where
/// warpgroup_barrier has them the other way round. A register for both would cost the block all sixteen barriers.
template <int Id>
__device__ inline void named_barrier(int threads) {
  asm volatile("bar.sync %0, %1;" ::"n"(Id), "r"(threads) : "memory");
}

/// A barrier of the block whose number is in a register: waits for so many threads, or only counts those of this warp.
__device__ inline void wait_turn(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ inline void give_turn(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

template <int Registers>
__device__ inline void more_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}
template <int Registers>
__device__ inline void fewer_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}

/// Before the first product of a batch: registers written so far are visible to it.
__device__ inline void wgmma_begin() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ inline void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Waits until at most Pending committed batches are still running.
template <int Pending>
__device__ inline void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}
/// Registers that a running product reads or writes must not be touched by the compiler before its wait: name them after it.
template <int N>
__device__ inline void hold(float (&c)[N][4]) {
#pragma unroll
  for (int j = 0; j < N; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) asm volatile("" : "+f"(c[j][e])::"memory");
  }
}
template <int N>
__device__ inline void hold(int (&c)[N][4]) {
#pragma unroll
  for (int j = 0; j < N; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) asm volatile("" : "+r"(c[j][e])::"memory");
  }
}
template <int N>
__device__ inline void hold(uint32_t (&c)[N][4]) {
#pragma unroll
  for (int j = 0; j < N; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) asm volatile("" : "+r"(c[j][e])::"memory");
  }
}

/// Matrix descriptor of a tile whose rows are 128 bytes, swizzled by the copy engine in groups of eight rows (1024 bytes,
/// aligned): 128-byte swizzle, stride 1024 between groups. `block_bytes`: distance of the next 64 columns where the
/// contiguous dimension is the product's outer one, ignored otherwise.
__device__ inline uint64_t tile_descriptor(uint32_t address, uint32_t block_bytes) {
  return static_cast<uint64_t>((address & 0x3ffffu) >> 4) | static_cast<uint64_t>(block_bytes >> 4) << 16 |
         static_cast<uint64_t>(1024u >> 4) << 32 | uint64_t{1} << 62;
}

}  // namespace tandem::kernels
