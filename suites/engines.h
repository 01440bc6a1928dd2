// The engines this build links in. engines_host.cc is the build without CUDA, engines_cuda.cc the one with it.
#pragma once

#include "harness/run/worker.h"

namespace tandem {

EngineRegistry engine_registry();

/// What `--engine auto` stands for on this machine: cuda where this device is usable, otherwise reference.
std::string best_engine(const EngineRegistry& registry, int device);

/// The CPU's last-level cache; absent where the system does not say.
std::optional<double> host_cache_bytes();

/// The card that `engine` uses as `device`; nothing for an engine on the CPU, or where there is no such card.
std::optional<CardInfo> card_of(const EngineRegistry& registry, std::string_view engine, int device);

/// Measured rates for the floors of this engine: those of its card, or of the CPU.
Ceilings measure_ceilings(const std::string& engine, const EngineOptions& options);

}  // namespace tandem
