#include "suites/engines.h"

namespace tandem {

std::string best_engine(const EngineRegistry& registry) {
  return registry.device_usable(nullptr) ? "cuda" : "reference";
}

}  // namespace tandem
