// The memory kernels behind limits.h, with what their results must be. Internal to this folder.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace tandem::kernels {

/// Word i of the test pattern: i times an odd constant, modulo 2^32. Neither constant nor periodic within a
/// buffer, and its sums have a closed form.
inline constexpr uint32_t kPatternStep = 2654435761u;
/// Sum of the first n words of the pattern, modulo 2^32.
constexpr uint32_t pattern_sum(uint64_t n) {
  // One of n and n - 1 is even: halve that one, and nothing is lost to the modulus.
  const uint64_t pairs = n % 2 == 0 ? (n / 2) * (n - 1) : n * ((n - 1) / 2);
  return static_cast<uint32_t>(n == 0 ? 0 : pairs) * kPatternStep;
}

/// How a stream is laid over the card; the fastest of a few is the ceiling.
struct StreamShape {
  int blocks_per_sm = 8;
  int in_flight = 4;  ///< 16-byte loads a thread issues before it uses one: 4 or 8
};

struct StreamParams {
  const void* in = nullptr;  ///< [bytes], a multiple of 16
  void* out = nullptr;       ///< copy: [bytes]
  int64_t bytes = 0;
  int repeats = 1;          ///< L2 read: passes over the buffer
  uint32_t* sum = nullptr;  ///< [1], added to: words read modulo 2^32
  StreamShape shape{};
  int sms = 1;
};

void launch_pattern(const StreamParams& params, cudaStream_t stream);  ///< fills `out`
void launch_read(const StreamParams& params, cudaStream_t stream);     ///< reads `in` once, past L1
void launch_read_l2(const StreamParams& params,
                    cudaStream_t stream);  ///< reads `in` `repeats` times, past L1
void launch_copy(const StreamParams& params, cudaStream_t stream);
/// Adds to `sum` the number of words of `in` that differ from the pattern.
void launch_count_wrong(const StreamParams& params, cudaStream_t stream);

/// One node of the empty chain. `counter` null: empty. Otherwise it adds 1 without an atomic, so that two
/// nodes that overlap where they must not would lose a count.
struct ChainNodeParams {
  uint32_t* counter = nullptr;  ///< [1]
  bool dependent = false;
};
void launch_chain_node(const ChainNodeParams& params, cudaStream_t stream);

}  // namespace tandem::kernels
