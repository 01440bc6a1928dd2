// The logits of one row as the decoding bodies read them.
#pragma once

#include <cstdint>

#include "kernels/decoding/block.h"

namespace tandem::kernels {

struct NoBias {
  TANDEM_COOPERATIVE float operator()(int) const { return 0; }
};

/// Scores [vocab] in fp32, and what is added to each.
template <class Bias>
struct LogitRow {
  const float* logits = nullptr;
  int vocab = 0;
  bool aligned = false;  ///< may be read 16 bytes at a time
  Bias bias = {};

  TANDEM_COOPERATIVE float at(int i) const { return logits[i] + bias(i); }

  /// body(i, at(i)) once for every id, in some order over the threads. Several loads are in flight before the first body
  /// runs: a row is read from the L2 cache, far away.
  template <class Block, class Body>
  TANDEM_COOPERATIVE void scan(Block& block, Body body) const {
    constexpr int kLoads = 4, kVector = 4;
    const int stride = kVector * block.threads();
    int i = kVector * block.thread();
    struct alignas(16) Vector {
      float v[kVector];
    };
    if (aligned) {
      for (; i + (kLoads - 1) * stride + kVector <= vocab; i += kLoads * stride) {
        Vector loaded[kLoads];
        TANDEM_UNROLL
        for (int l = 0; l < kLoads; ++l)
          loaded[l] = *reinterpret_cast<const Vector*>(logits + i + l * stride);
        TANDEM_UNROLL
        for (int l = 0; l < kLoads; ++l) {
          TANDEM_UNROLL
          for (int j = 0; j < kVector; ++j) {
            const int id = i + l * stride + j;
            body(id, loaded[l].v[j] + bias(id));
          }
        }
      }
    }
    for (; i < vocab; i += stride) {
      for (int id = i; id < i + kVector && id < vocab; ++id) body(id, at(id));
    }
  }
};

}  // namespace tandem::kernels
