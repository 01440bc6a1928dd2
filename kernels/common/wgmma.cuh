// wgmma (PTX ISA, "Asynchronous warpgroup level matrix instructions") in the shapes that attention and skinny products need.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace tandem::kernels {

#define TANDEM_WGMMA_4 "%0, %1, %2, %3"
#define TANDEM_WGMMA_8 TANDEM_WGMMA_4 ", %4, %5, %6, %7"
#define TANDEM_WGMMA_16 TANDEM_WGMMA_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define TANDEM_WGMMA_32                                                                   \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, " \
  "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define TANDEM_WGMMA_64                                                                     \
  TANDEM_WGMMA_32                                                                           \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, " \
  "%49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define TANDEM_WGMMA_ROW(j) "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3])
#define TANDEM_WGMMA_ROWS8(j)                                                                     \
  TANDEM_WGMMA_ROW(j), TANDEM_WGMMA_ROW(j + 1), TANDEM_WGMMA_ROW(j + 2), TANDEM_WGMMA_ROW(j + 3), \
      TANDEM_WGMMA_ROW(j + 4), TANDEM_WGMMA_ROW(j + 5), TANDEM_WGMMA_ROW(j + 6), TANDEM_WGMMA_ROW(j + 7)
#define TANDEM_WGMMA_ROWS1 TANDEM_WGMMA_ROW(0)
#define TANDEM_WGMMA_ROWS2 TANDEM_WGMMA_ROWS1, TANDEM_WGMMA_ROW(1)
#define TANDEM_WGMMA_ROWS4 TANDEM_WGMMA_ROWS2, TANDEM_WGMMA_ROW(2), TANDEM_WGMMA_ROW(3)
// COLUMNS / 8 groups of accumulators; A, B and P number the operands behind them.
#define TANDEM_WGMMA_DEFINE_NARROW(T, TYPE, COLUMNS, GROUPS, LIST, ROWS, A, B, P)                         \
  template <>                                                                                             \
  __device__ inline void wgmma_shared<T>(float(&c)[GROUPS][4], uint64_t a, uint64_t b, bool accumulate) { \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %" P ", 0; wgmma.mma_async.sync.aligned.m64n" COLUMNS     \
                 "k16.f32." TYPE "." TYPE " {" LIST "}, %" A ", %" B ", p, 1, 1, 0, 0;}"                  \
                 : ROWS                                                                                   \
                 : "l"(a), "l"(b), "r"(accumulate ? 1 : 0));                                              \
  }
#define TANDEM_WGMMA_DEFINE_ALL_NARROW(T, TYPE)                                                       \
  TANDEM_WGMMA_DEFINE_NARROW(T, TYPE, "8", 1, TANDEM_WGMMA_4, TANDEM_WGMMA_ROWS1, "4", "5", "6")      \
  TANDEM_WGMMA_DEFINE_NARROW(T, TYPE, "16", 2, TANDEM_WGMMA_8, TANDEM_WGMMA_ROWS2, "8", "9", "10")    \
  TANDEM_WGMMA_DEFINE_NARROW(T, TYPE, "32", 4, TANDEM_WGMMA_16, TANDEM_WGMMA_ROWS4, "16", "17", "18") \
  TANDEM_WGMMA_DEFINE_NARROW(T, TYPE, "64", 8, TANDEM_WGMMA_32, TANDEM_WGMMA_ROWS8(0), "32", "33", "34")
#define TANDEM_WGMMA_DEFINE(T, TYPE)                                                                       \
  template <>                                                                                              \
  __device__ inline void wgmma_shared<T>(float(&c)[16][4], uint64_t a, uint64_t b, bool accumulate) {      \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %66, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE \
                 "." TYPE " {" TANDEM_WGMMA_64 "}, %64, %65, p, 1, 1, 0, 0;}"                              \
                 : TANDEM_WGMMA_ROWS8(0), TANDEM_WGMMA_ROWS8(8)                                            \
                 : "l"(a), "l"(b), "r"(accumulate ? 1 : 0));                                               \
  }                                                                                                        \
  template <>                                                                                              \
  __device__ inline void wgmma_registers<T>(float(&c)[8][4], const uint32_t(&a)[4], uint64_t b,            \
                                            bool accumulate) {                                             \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %37, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPE  \
                 "." TYPE " {" TANDEM_WGMMA_32 "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;}"                \
                 : TANDEM_WGMMA_ROWS8(0)                                                                   \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate ? 1 : 0));           \
  }                                                                                                        \
  template <>                                                                                              \
  __device__ inline void wgmma_registers<T>(float(&c)[16][4], const uint32_t(&a)[4], uint64_t b,           \
                                            bool accumulate) {                                             \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %69, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE \
                 "." TYPE " {" TANDEM_WGMMA_64 "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;}"                \
                 : TANDEM_WGMMA_ROWS8(0), TANDEM_WGMMA_ROWS8(8)                                            \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate ? 1 : 0));           \
  }

/// c [64, N] (+)= a b^T, both in shared memory, a [64, 16] and b [N, 16] with the 16 contiguous, N the accumulators' 8, 16,
/// 32, 64 or 128. c[j] of a thread: as mma.m16n8k16's accumulators for columns 8 j, rows 16 (warp % 4) onwards.
template <typename T>
__device__ inline void wgmma_shared(float (&c)[1][4], uint64_t a, uint64_t b, bool accumulate);
template <typename T>
__device__ inline void wgmma_shared(float (&c)[2][4], uint64_t a, uint64_t b, bool accumulate);
template <typename T>
__device__ inline void wgmma_shared(float (&c)[4][4], uint64_t a, uint64_t b, bool accumulate);
template <typename T>
__device__ inline void wgmma_shared(float (&c)[8][4], uint64_t a, uint64_t b, bool accumulate);
template <typename T>
__device__ inline void wgmma_shared(float (&c)[16][4], uint64_t a, uint64_t b, bool accumulate);

/// c [64, 64 or 128] (+)= a b, a [64, 16] in registers as mma.m16n8k16's operand, b [16, 64 or 128] in shared memory with
/// the columns contiguous ("transposed").
template <typename T>
__device__ inline void wgmma_registers(float (&c)[8][4], const uint32_t (&a)[4], uint64_t b, bool accumulate);
template <typename T>
__device__ inline void wgmma_registers(float (&c)[16][4], const uint32_t (&a)[4], uint64_t b,
                                       bool accumulate);

TANDEM_WGMMA_DEFINE(__half, "f16")
TANDEM_WGMMA_DEFINE(__nv_bfloat16, "bf16")
TANDEM_WGMMA_DEFINE_ALL_NARROW(__half, "f16")
TANDEM_WGMMA_DEFINE_ALL_NARROW(__nv_bfloat16, "bf16")

#undef TANDEM_WGMMA_DEFINE
#undef TANDEM_WGMMA_DEFINE_ALL_NARROW
#undef TANDEM_WGMMA_DEFINE_NARROW
#undef TANDEM_WGMMA_ROWS4
#undef TANDEM_WGMMA_ROWS2
#undef TANDEM_WGMMA_ROWS1
#undef TANDEM_WGMMA_ROWS8
#undef TANDEM_WGMMA_ROW
#undef TANDEM_WGMMA_64
#undef TANDEM_WGMMA_32
#undef TANDEM_WGMMA_16
#undef TANDEM_WGMMA_8
#undef TANDEM_WGMMA_4

}  // namespace tandem::kernels
