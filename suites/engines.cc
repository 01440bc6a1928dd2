#include "suites/engines.h"

#include <unistd.h>

namespace tandem {

std::optional<double> host_cache_bytes() {
  for (int level : {_SC_LEVEL3_CACHE_SIZE, _SC_LEVEL2_CACHE_SIZE}) {
    const long bytes = ::sysconf(level);
    if (bytes > 0) return static_cast<double>(bytes);
  }
  return std::nullopt;
}

std::optional<CardInfo> card_of(const EngineRegistry& registry, std::string_view engine, int device) {
  if (engine_traits(engine).on_host) return std::nullopt;
  return card_in_use(nvml(), registry.card_uuid(device), device);
}

std::string best_engine(const EngineRegistry& registry, int device) {
  return registry.device_usable(device, nullptr) ? "cuda" : std::string(kTruthEngine);
}

}  // namespace tandem
