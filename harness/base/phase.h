// The phases that cost, plan, records and traces share, and the guard that marks one on the host
// timeline. A fused kernel carries the phase of its main operation.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

namespace tandem {

enum class PhaseKind : uint8_t {
  kEmbed,
  kNorm,
  kSelfQkv,
  kSelfAttention,
  kSelfOut,
  kCrossQkv,
  kCrossAttention,
  kCrossOut,
  kCrossKv,
  kFfnUp,
  kFfnDown,
  kHead,
  kSelect,
  kComm,
};
inline constexpr int kPhaseKinds = 14;

enum class Side : uint8_t { kEncoder, kDecoder };

/// "self.qkv", "ffn.down", ...
std::string_view phase_name(PhaseKind kind);
/// Inverse of phase_name; throws UsageError naming the allowed ones.
PhaseKind parse_phase(std::string_view name);
std::string_view side_name(Side side);

/// One phase of one layer of one side. Layer -1: not in a layer (embed, final norm, head, select).
struct Phase {
  PhaseKind kind = PhaseKind::kEmbed;
  Side side = Side::kEncoder;
  int layer = -1;

  auto operator<=>(const Phase&) const = default;
};

/// "decoder/3/self.qkv", "decoder/head".
std::string phase_path(const Phase& phase);

/// Who is told of every PhaseRange of this process: a profiler that joins work to phases. Set before the first range, from the
/// thread that makes ranges; both functions or none.
struct PhaseObserver {
  void (*enter)(const Phase& phase) = nullptr;
  void (*leave)() = nullptr;
};
void set_phase_observer(const PhaseObserver& observer);
const PhaseObserver& phase_observer();

/// Marks a phase on the host timeline (an NVTX range in the domain "tandem", payload = layer) for the life of the guard.
/// Without CUDA only the observer hears of it. Under a CUDA graph the range fires at capture, not at replay.
class PhaseRange {
 public:
  explicit PhaseRange(const Phase& phase);
  ~PhaseRange();
  PhaseRange(const PhaseRange&) = delete;
  PhaseRange& operator=(const PhaseRange&) = delete;
};

/// Marks something else on the host timeline: an NVTX range of the same domain with a registered name, so that a profiler can
/// be told to record it alone. "measured" is a case from its warm-up to its last sample, "samples" the samples in it.
class MarkedRange {
 public:
  explicit MarkedRange(const char* name);
  ~MarkedRange();
  MarkedRange(const MarkedRange&) = delete;
  MarkedRange& operator=(const MarkedRange&) = delete;
};

}  // namespace tandem
