#include "harness/parallel/collective_call.h"

#include <fmt/format.h>

#include "harness/base/error.h"

namespace tandem {

std::string describe(const CollectiveCall& call) {
  switch (call.kind) {
    case CollectiveKind::kAllReduce:
      return fmt::format("all_reduce_sum of {} bytes ({})", call.bytes, dtype_name(call.dtype));
    case CollectiveKind::kAllGather:
      return fmt::format("all_gather of {} bytes", call.bytes);
    case CollectiveKind::kBroadcast:
      return fmt::format("broadcast of {} bytes from rank {}", call.bytes, call.root);
    case CollectiveKind::kBarrier:
      return "barrier";
  }
  return "?";
}

void check_same_call(int rank, const CollectiveCall& mine, int other, const CollectiveCall& others) {
  if (mine == others) return;
  throw Error(fmt::format("ranks disagree: rank {} calls {}, rank {} {}", rank, describe(mine), other,
                          describe(others)));
}

}  // namespace tandem
