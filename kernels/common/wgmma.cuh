// wgmma (PTX ISA, "Asynchronous warpgroup level matrix instructions") in the shapes that attention and products need.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

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
#define TANDEM_WGMMA_FLOATS1 TANDEM_WGMMA_ROW(0)
#define TANDEM_WGMMA_FLOATS2 TANDEM_WGMMA_FLOATS1, TANDEM_WGMMA_ROW(1)
#define TANDEM_WGMMA_FLOATS4 TANDEM_WGMMA_FLOATS2, TANDEM_WGMMA_ROW(2), TANDEM_WGMMA_ROW(3)
#define TANDEM_WGMMA_FLOATS8 TANDEM_WGMMA_ROWS8(0)
#define TANDEM_WGMMA_INTS(j) "+r"(c[j][0]), "+r"(c[j][1]), "+r"(c[j][2]), "+r"(c[j][3])
#define TANDEM_WGMMA_INTS1 TANDEM_WGMMA_INTS(0)
#define TANDEM_WGMMA_INTS2 TANDEM_WGMMA_INTS1, TANDEM_WGMMA_INTS(1)
#define TANDEM_WGMMA_INTS4 TANDEM_WGMMA_INTS2, TANDEM_WGMMA_INTS(2), TANDEM_WGMMA_INTS(3)
#define TANDEM_WGMMA_INTS8 \
  TANDEM_WGMMA_INTS4, TANDEM_WGMMA_INTS(4), TANDEM_WGMMA_INTS(5), TANDEM_WGMMA_INTS(6), TANDEM_WGMMA_INTS(7)
// COLUMNS / 8 groups of accumulators C; A, B and P number the operands after them. TYPES: k of the shape, accumulators, a, b.
#define TANDEM_WGMMA_DEFINE_NARROW(T, C, TYPES, SCALES, COLUMNS, GROUPS, LIST, SUMS, A, B, P)         \
  template <>                                                                                         \
  __device__ inline void wgmma_shared<T>(C(&c)[GROUPS][4], uint64_t a, uint64_t b, bool accumulate) { \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %" P ", 0; wgmma.mma_async.sync.aligned.m64n" COLUMNS \
                 "k" TYPES " {" LIST "}, %" A ", %" B ", p" SCALES ";}"                               \
                 : SUMS                                                                               \
                 : "l"(a), "l"(b), "r"(accumulate ? 1 : 0));                                          \
  }
#define TANDEM_WGMMA_DEFINE_ALL_NARROW(T, C, TYPES, SCALES, SUMS)                                      \
  TANDEM_WGMMA_DEFINE_NARROW(T, C, TYPES, SCALES, "8", 1, TANDEM_WGMMA_4, SUMS##1, "4", "5", "6")      \
  TANDEM_WGMMA_DEFINE_NARROW(T, C, TYPES, SCALES, "16", 2, TANDEM_WGMMA_8, SUMS##2, "8", "9", "10")    \
  TANDEM_WGMMA_DEFINE_NARROW(T, C, TYPES, SCALES, "32", 4, TANDEM_WGMMA_16, SUMS##4, "16", "17", "18") \
  TANDEM_WGMMA_DEFINE_NARROW(T, C, TYPES, SCALES, "64", 8, TANDEM_WGMMA_32, SUMS##8, "32", "33", "34")
#define TANDEM_WGMMA_DEFINE_FROM_REGISTERS(COLUMNS, GROUPS, LIST, SUMS, A0, A1, A2, A3, B, P)               \
  __device__ inline void wgmma_from_registers(float(&c)[GROUPS][4], const uint32_t(&a)[4], uint64_t b,      \
                                              bool accumulate) {                                            \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %" P ", 0; wgmma.mma_async.sync.aligned.m64n" COLUMNS       \
                 "k16.f32.bf16.bf16 {" LIST "}, {%" A0 ", %" A1 ", %" A2 ", %" A3 "}, %" B ", p, 1, 1, 0;}" \
                 : SUMS                                                                                     \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate ? 1 : 0));            \
  }
#define TANDEM_WGMMA_DEFINE_SPARSE(COLUMNS, GROUPS, LIST, SUMS, A, B, M, S, P)                           \
  template <int kThreads>                                                                                \
  __device__ inline void wgmma_sparse(float(&c)[GROUPS][4], uint64_t a, uint64_t b, uint32_t metadata) { \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %" P ", 0; wgmma.mma_async.sp.sync.aligned.m64n" COLUMNS \
                 "k32.f32.bf16.bf16 {" LIST "}, %" A ", %" B ", %" M ", %" S ", p, 1, 1, 0, 0;}"         \
                 : SUMS                                                                                  \
                 : "l"(a), "l"(b), "r"(metadata), "n"(kThreads), "r"(1));                                \
  }
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
/// 32, 64 or 128; of bytes [64, 32] and [N, 32]. c[j] of a thread: as mma.m16n8k16's accumulators for columns 8 j, rows 16
/// (warp % 4) onwards. The sums of e4m3 keep 13 bits after the point of the largest term: add few products at a time.
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

/// The same of int8, exact 32-bit integers.
template <typename T>
__device__ inline void wgmma_shared(int (&c)[1][4], uint64_t a, uint64_t b, bool accumulate);
template <typename T>
__device__ inline void wgmma_shared(int (&c)[2][4], uint64_t a, uint64_t b, bool accumulate);
template <typename T>
__device__ inline void wgmma_shared(int (&c)[4][4], uint64_t a, uint64_t b, bool accumulate);
template <typename T>
__device__ inline void wgmma_shared(int (&c)[8][4], uint64_t a, uint64_t b, bool accumulate);

/// c [64, 64 or 128] (+)= a b, a [64, 16] in registers as mma.m16n8k16's operand, b [16, 64 or 128] in shared memory with
/// the columns contiguous ("transposed").
template <typename T>
__device__ inline void wgmma_registers(float (&c)[8][4], const uint32_t (&a)[4], uint64_t b, bool accumulate);
template <typename T>
__device__ inline void wgmma_registers(float (&c)[16][4], const uint32_t (&a)[4], uint64_t b,
                                       bool accumulate);

TANDEM_WGMMA_DEFINE(__half, "f16")
TANDEM_WGMMA_DEFINE(__nv_bfloat16, "bf16")
TANDEM_WGMMA_DEFINE_ALL_NARROW(__half, float, "16.f32.f16.f16", ", 1, 1, 0, 0", TANDEM_WGMMA_FLOATS)
TANDEM_WGMMA_DEFINE_ALL_NARROW(__nv_bfloat16, float, "16.f32.bf16.bf16", ", 1, 1, 0, 0", TANDEM_WGMMA_FLOATS)
TANDEM_WGMMA_DEFINE_ALL_NARROW(__nv_fp8_e4m3, float, "32.f32.e4m3.e4m3", ", 1, 1", TANDEM_WGMMA_FLOATS)
TANDEM_WGMMA_DEFINE_ALL_NARROW(int8_t, int, "32.s32.s8.s8", "", TANDEM_WGMMA_INTS)

// c [64, N] (+)= a b^T, a [64, 16] of bf16 in registers as mma.m16n8k16's operand, b [N, 16] as wgmma_shared has it, N 8 to 64.
TANDEM_WGMMA_DEFINE_FROM_REGISTERS("8", 1, TANDEM_WGMMA_4, TANDEM_WGMMA_FLOATS1, "4", "5", "6", "7", "8", "9")
TANDEM_WGMMA_DEFINE_FROM_REGISTERS("16", 2, TANDEM_WGMMA_8, TANDEM_WGMMA_FLOATS2, "8", "9", "10", "11", "12",
                                   "13")
TANDEM_WGMMA_DEFINE_FROM_REGISTERS("32", 4, TANDEM_WGMMA_16, TANDEM_WGMMA_FLOATS4, "16", "17", "18", "19",
                                   "20", "21")
TANDEM_WGMMA_DEFINE_FROM_REGISTERS("64", 8, TANDEM_WGMMA_32, TANDEM_WGMMA_FLOATS8, "32", "33", "34", "35",
                                   "36", "37")

// c [64, N] += a b^T, of bf16 in shared memory, a [64, 32] of which two of every four neighbours are stored, 16 contiguous ones a
// row, b [N, 32], N 8 to 64. `metadata` and kThreads as mma_sp_16832 (mma_ptx.cuh) has them, of the 16 rows of each warp; it must
// not be changed before the product's wait.
TANDEM_WGMMA_DEFINE_SPARSE("8", 1, TANDEM_WGMMA_4, TANDEM_WGMMA_FLOATS1, "4", "5", "6", "7", "8")
TANDEM_WGMMA_DEFINE_SPARSE("16", 2, TANDEM_WGMMA_8, TANDEM_WGMMA_FLOATS2, "8", "9", "10", "11", "12")
TANDEM_WGMMA_DEFINE_SPARSE("32", 4, TANDEM_WGMMA_16, TANDEM_WGMMA_FLOATS4, "16", "17", "18", "19", "20")
TANDEM_WGMMA_DEFINE_SPARSE("64", 8, TANDEM_WGMMA_32, TANDEM_WGMMA_FLOATS8, "32", "33", "34", "35", "36")

#undef TANDEM_WGMMA_DEFINE_SPARSE
#undef TANDEM_WGMMA_DEFINE
#undef TANDEM_WGMMA_DEFINE_ALL_NARROW
#undef TANDEM_WGMMA_DEFINE_NARROW
#undef TANDEM_WGMMA_DEFINE_FROM_REGISTERS
#undef TANDEM_WGMMA_INTS8
#undef TANDEM_WGMMA_INTS4
#undef TANDEM_WGMMA_INTS2
#undef TANDEM_WGMMA_INTS1
#undef TANDEM_WGMMA_INTS
#undef TANDEM_WGMMA_FLOATS8
#undef TANDEM_WGMMA_FLOATS4
#undef TANDEM_WGMMA_FLOATS2
#undef TANDEM_WGMMA_FLOATS1
#undef TANDEM_WGMMA_ROWS8
#undef TANDEM_WGMMA_ROW
#undef TANDEM_WGMMA_64
#undef TANDEM_WGMMA_32
#undef TANDEM_WGMMA_16
#undef TANDEM_WGMMA_8
#undef TANDEM_WGMMA_4

}  // namespace tandem::kernels
