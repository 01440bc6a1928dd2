#include <fmt/format.h>

#include "harness/base/error.h"
#include "reference/engine/reference_engine.h"
#include "suites/engines.h"

namespace tandem {
namespace {

constexpr const char* kNoCuda = "this build has no CUDA engine (configure with preset cuda or h200)";

}  // namespace

EngineRegistry engine_registry() {
  return {.make = [](const std::string& name, const EngineOptions& options) -> std::unique_ptr<Engine> {
            if (name == "reference") return std::make_unique<reference::ReferenceEngine>(options.seat);
            if (name == "cuda") throw DeviceError(fmt::format("engine: 'cuda' is not usable: {}", kNoCuda));
            throw UsageError(fmt::format("engine: '{}' is not in this binary; it has: reference", name));
          },
          .device_usable =
              [](int, std::string* reason) {
                if (reason != nullptr) *reason = kNoCuda;
                return false;
              },
          .card_uuid = [](int) { return std::optional<std::string>(); },
          .l2_bytes = [](int) { return host_cache_bytes(); }};
}

}  // namespace tandem
