// Barriers in shared memory that count arrivals and bytes of background copies (PTX ISA, "mbarrier"), by shared address, and
// stores to other blocks of a cluster that are counted so.
#pragma once

#include <cstdint>

#include "kernels/common/memory_ptx.cuh"

namespace tandem::kernels {

// `barrier` is the shared address of eight bytes.
__device__ inline void barrier_init(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
/// This thread arrives once all copies (cp_async_16) that it has started so far are complete.
__device__ inline void cp_async_arrive(uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}
/// barrier_wait for code that runs on sm_80 too, which can test a barrier but not sleep on it. `barrier` is a pointer.
__device__ inline void barrier_poll(const uint64_t* barrier, uint32_t parity) {
  const uint32_t address = shared_address(barrier);
  uint32_t done = 0;
  while (done == 0) {
    asm volatile(
        "{.reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
        : "=r"(done)
        : "r"(address), "r"(parity)
        : "memory");
  }
}
/// This thread arrives now: what it has written is seen by who waits. Runs on sm_80 too.
__device__ inline void barrier_arrive_written(uint32_t barrier) {
  asm volatile("{.reg .b64 state; mbarrier.arrive.shared::cta.b64 state, [%0];}" ::"r"(barrier) : "memory");
}

// What follows is for sm_90: elsewhere it does nothing, and nothing may rely on it.
/// Makes initialised barriers visible to the copy engine and to the cluster.
__device__ inline void fence_barrier_init() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}
__device__ inline void barrier_arrive(uint32_t barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
#endif
}
/// Arrives, and lets the phase end only after `bytes` have been delivered in the background.
__device__ inline void barrier_arrive_expect(uint32_t barrier, int bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
#endif
}
/// Waits until the phase of this parity has ended; a new barrier answers parity 1 at once.
__device__ inline void barrier_wait(uint32_t barrier, uint32_t parity) {
#if __CUDA_ARCH__ >= 900
  uint32_t done = 0;
  while (done == 0) {
    asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
                 : "=r"(done)
                 : "r"(barrier), "r"(parity)
                 : "memory");
  }
#endif
}
/// barrier_wait for a barrier's first phase, which stores of other blocks of the cluster complete: it acquires at the
/// cluster's scope.
__device__ inline void barrier_wait_cluster(uint32_t barrier) {
#if __CUDA_ARCH__ >= 900
  uint32_t done = 0;
  while (done == 0) {
    asm volatile(
        "{.reg .pred p; mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], 0; "
        "selp.u32 %0, 1, 0, p;}"
        : "=r"(done)
        : "r"(barrier)
        : "memory");
  }
#endif
}

/// This block's place in its cluster; 0 where a cluster is one block.
__device__ inline int cluster_rank() {
  uint32_t rank = 0;
#if __CUDA_ARCH__ >= 900
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return static_cast<int>(rank);
}
/// All threads of the cluster. Relaxed: orders nothing but barriers fenced before it; cheaper than a release, which waits for
/// every outstanding store.
__device__ inline void cluster_arrive_relaxed() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}
__device__ inline void cluster_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}
/// The address that `shared` has in block `rank` of the cluster.
__device__ inline uint32_t cluster_address(uint32_t shared, uint32_t rank) {
  uint32_t remote = 0;
#if __CUDA_ARCH__ >= 900
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(shared), "r"(rank));
#endif
  return remote;
}
/// Two floats into another block's shared memory, counted as eight bytes on that block's barrier.
__device__ inline void store_cluster(uint32_t remote, float first, float second, uint32_t remote_barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(remote),
      "f"(first), "f"(second), "r"(remote_barrier)
      : "memory");
#endif
}

/// The same with one float, four bytes.
__device__ inline void store_cluster(uint32_t remote, float value, uint32_t remote_barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];" ::"r"(remote),
               "f"(value), "r"(remote_barrier)
               : "memory");
#endif
}

}  // namespace tandem::kernels
