// What the harness asks about an engine instead of comparing its name.
#pragma once

#include <string_view>

namespace tandem {

/// The engine that all others are checked against.
inline constexpr std::string_view kTruthEngine = "reference";

struct EngineTraits {
  /// It computes on the CPU: its times are the host's, it has no card, no clocks and no profile, and its floors stand on the
  /// CPU's ceilings.
  bool on_host = false;
  /// Other engines are checked against it. It is itself checked by a second way of its own (Engine::self_check).
  bool is_truth = false;
};

/// Of an engine that is known by its name only. A peer is taken to use the card.
EngineTraits engine_traits(std::string_view name);

}  // namespace tandem
