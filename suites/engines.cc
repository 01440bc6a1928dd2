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

std::string best_engine(const EngineRegistry& registry) {
  return registry.device_usable(nullptr) ? "cuda" : "reference";
}

}  // namespace tandem
