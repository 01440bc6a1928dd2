// What the bodies of the decoding kernels need of a block of threads, so that the same source runs as a kernel and, with a
// block of fibers (host_block.h), in the tests of a machine without a GPU. A Block has thread(), threads() (a multiple of 32,
// at most kDecodingThreads), sync(), and add() and set_bits(), atomic on memory that the block shares.
#pragma once

#include <cstdint>

namespace tandem::kernels {

#if defined(__CUDACC__)
#define TANDEM_COOPERATIVE __device__
#define TANDEM_UNROLL _Pragma("unroll")
#else
#define TANDEM_COOPERATIVE
#define TANDEM_UNROLL
#endif

inline constexpr int kDecodingThreads = 512;
inline constexpr int kGroups = 32;

/// Shared memory of reductions and scans.
struct BlockScratch {
  uint64_t each[kDecodingThreads];
  uint64_t group[kGroups];
};

/// op over the values of all threads; every thread gets the result. `op` must not depend on order.
template <class Block, class Op>
TANDEM_COOPERATIVE uint64_t reduce(Block& block, BlockScratch& s, uint64_t value, Op op) {
  const int t = block.thread();
  s.each[t] = value;
  block.sync();
  if (t < kGroups) {
    for (int i = t + kGroups; i < block.threads(); i += kGroups) value = op(value, s.each[i]);
    s.group[t] = value;
  }
  block.sync();
  value = s.group[0];
  for (int i = 1; i < kGroups; ++i) value = op(value, s.group[i]);
  return value;
}

template <class Block>
TANDEM_COOPERATIVE uint64_t sum(Block& block, BlockScratch& s, uint64_t value) {
  return reduce(block, s, value, [](uint64_t a, uint64_t b) { return a + b; });
}

template <class Block>
TANDEM_COOPERATIVE uint64_t largest(Block& block, BlockScratch& s, uint64_t value) {
  return reduce(block, s, value, [](uint64_t a, uint64_t b) { return a > b ? a : b; });
}

/// Sum over the threads before this one.
template <class Block>
TANDEM_COOPERATIVE uint64_t sum_before(Block& block, BlockScratch& s, uint64_t value) {
  const int t = block.thread();
  const int length = block.threads() / kGroups;
  s.each[t] = value;
  block.sync();
  if (t < kGroups) {
    uint64_t total = 0;
    for (int i = 0; i < length; ++i) total += s.each[t * length + i];
    s.group[t] = total;
  }
  block.sync();
  const int mine = t / length;
  uint64_t before = 0;
  for (int g = 0; g < mine; ++g) before += s.group[g];
  for (int i = mine * length; i < t; ++i) before += s.each[i];
  block.sync();  // `each` is read above and written by the next call
  return before;
}

}  // namespace tandem::kernels
