// What a rank says about a collective operation before it takes part, so that ranks that disagree are told instead of hanging
// or reading past an end.
#pragma once

#include <cstdint>
#include <string>

#include "harness/base/tensor.h"

namespace tandem {

enum class CollectiveKind : uint8_t { kAllReduce, kAllGather, kBroadcast, kBarrier };

struct CollectiveCall {
  CollectiveKind kind = CollectiveKind::kBarrier;
  DType dtype = DType::kU8;
  uint16_t root = 0;
  uint32_t unused = 0;  // no padding: its bytes are sent
  int64_t bytes = 0;    ///< that one rank gives

  bool operator==(const CollectiveCall&) const = default;
};

/// "all_reduce_sum of 64 bytes (f32)".
std::string describe(const CollectiveCall& call);

/// Throws Error naming both calls where they differ.
void check_same_call(int rank, const CollectiveCall& mine, int other, const CollectiveCall& others);

}  // namespace tandem
