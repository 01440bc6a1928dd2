// The engines this build links in. engines_host.cc is the build without CUDA, engines_cuda.cc the one with it.
#pragma once

#include "harness/run/worker.h"

namespace tandem {

EngineRegistry engine_registry();

/// What `--engine auto` stands for on this machine: cuda where a device is usable, otherwise reference.
std::string best_engine(const EngineRegistry& registry);

/// The CPU's last-level cache; absent where the system does not say.
std::optional<double> host_cache_bytes();

/// Measured rates of this machine for the floors: the device's where there is one, otherwise the CPU's.
Ceilings measure_ceilings(const EngineOptions& options);

}  // namespace tandem
