// The engines that a suite binary links in.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "harness/engine/engine.h"
#include "harness/parallel/rank_environment.h"
#include "harness/trace/activity.h"

namespace tandem {

struct EngineOptions {
  int device = 0;
  /// Run folder: the engine keeps its choices (GEMM algorithms) there. Empty: in memory only.
  std::string run_dir = {};
  /// The validation pass searches for what is missing; a timed worker must find every choice made.
  bool may_search = true;
  int64_t level1_bytes = 0;  ///< 0: the default cap
  /// Where this process's engine stands among the ranks of its cases, as long as the engine lives; null: it is alone, and
  /// computes the whole model whatever tp and dp are.
  const RankSeat* seat = nullptr;
  /// What the other ranks' tracers record; absent: they have none.
  std::optional<TraceLevel> trace_level = {};
};

/// What the suites link in. The harness itself knows no engine.
struct EngineRegistry {
  /// Throws DeviceError for an engine without its device, UsageError naming the known engines for an unknown one.
  std::function<std::unique_ptr<Engine>(const std::string& name, const EngineOptions&)> make;
  /// Can engine `cuda` use CUDA's device number `device`? Says why not in `reason`.
  std::function<bool(int device, std::string* reason)> device_usable;
  /// UUID of CUDA's device number `device` as NVML spells it; absent where the runtime does not say.
  std::function<std::optional<std::string>(int device)> card_uuid = [](int) {
    return std::optional<std::string>();
  };
  /// Size of the last cache before memory, for the `l2` mark: the device's L2, or the CPU's for device -1.
  std::function<std::optional<double>(int device)> l2_bytes;
};

}  // namespace tandem
