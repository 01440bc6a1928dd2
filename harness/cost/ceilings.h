// Measured rates of one machine, and the floors that stand on them.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "harness/cost/cost.h"

namespace tandem {

/// What `suite_limits --measure-ceilings` measured. Absent: not measured, so no floor that needs it.
struct Ceilings {
  std::string machine;                  ///< card name and UUID, or the CPU's name
  std::string measured_at;              ///< UTC
  std::optional<double> read_gbs;       ///< read-only stream, 1e9 bytes/s
  std::optional<double> copy_gbs;       ///< copy, bytes read plus written
  std::optional<double> l2_gbs;         ///< read of a resident set
  std::optional<double> empty_node_us;  ///< one dependent empty kernel of a graph
  /// Best rate at any shape, TFLOP/s, by precision; 16-bit weight-only precisions use bf16's.
  std::array<std::optional<double>, kPrecisions> burst_tflops, sustained_tflops;
  /// Of bf16 with a 2:4 matrix, operations of the dense one.
  std::optional<double> two_of_four_burst_tflops, two_of_four_sustained_tflops;
  /// Size of the last cache before memory: what fits it whole has a floor at its rate.
  std::optional<double> cache_bytes;
  /// Of a card to the others, one direction, 1e9 bytes/s: not measured and in no file, but the published rate of the links of the
  /// card that a case runs on.
  std::optional<double> link_gbs;
  /// Why they are in question (measured beside other work, beaten by a case); empty: they are not.
  std::string doubt;

  /// The same machine with every byte at L2 bandwidth.
  Ceilings resident() const;
  /// kStructured: as measured with 16 bits; otherwise twice the dense rate, more than which no card has.
  std::optional<double> rate_tflops(Precision precision, ComputeUnit unit) const;
};
void to_json(nlohmann::json& j, const Ceilings& c);
/// Throws UsageError for a key or a value that to_json does not write.
void from_json(const nlohmann::json& j, Ceilings& c);
/// Throws IoError, or UsageError naming the file.
Ceilings read_ceilings(const std::string& path);

/// Where a set of rates contradicts itself, for people; empty: nowhere. No machine reads its cache slower than its memory, or
/// computes faster in the long run than at its best.
std::vector<std::string> contradictions(const Ceilings& c);

/// A sample below this share of its floor puts the ceilings in question; less is the noise of both.
inline constexpr double kBeatenFloor = 0.99;

/// Which term of a floor is the largest.
enum class Bound : uint8_t { kBytes, kOperations, kLinks };
std::string_view bound_name(Bound bound);  // bytes operations links

struct Floor {
  double us = 0;
  Bound bound = Bound::kBytes;
};

/// The strict floor: the largest of all bytes (read at the read-only rate, written at copy's), all operations at their
/// units' burst rates, and all bytes from other ranks at the links' rate. Absent when a rate of the first two is; the largest of
/// two is a floor too, so that of links may be.
std::optional<Floor> floor_us(const Cost& cost, const Ceilings& ceilings);
/// The floor of a case, wherever it is shown: the same, at the cache's rate where all bytes fit a cache of `cache_bytes`, and
/// so need not touch memory again.
std::optional<Floor> case_floor(const Cost& cost, const Ceilings& ceilings,
                                std::optional<double> cache_bytes);
/// The bytes from other ranks at the links' rate. Absent where the rate is, and without other ranks.
std::optional<double> links_us(const Cost& cost, const Ceilings& ceilings);
/// The same phase by phase, summed: each phase waits for the one before. Absent when any rate it needs is, of links too.
std::optional<double> floor_phases_us(const Cost& cost, const Ceilings& ceilings);
/// The strict floor with every byte at L2 bandwidth.
std::optional<double> floor_l2_us(const Cost& cost, const Ceilings& ceilings);

}  // namespace tandem
