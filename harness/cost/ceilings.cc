#include "harness/cost/ceilings.h"

#include <fmt/format.h>

#include <cmath>
#include <fstream>

#include "harness/base/error.h"
#include "harness/base/json_text.h"

namespace tandem {
namespace {

struct Terms {
  std::optional<double> bytes_us, flops_us, links_us;
};

std::optional<double> operator+(std::optional<double> a, std::optional<double> b) {
  if (!a || !b) return std::nullopt;
  return *a + *b;
}

/// `amount` at `per_us`; nothing takes no time even at an unknown rate.
std::optional<double> time_us(double amount, std::optional<double> per_us) {
  if (amount == 0) return 0.0;
  if (!per_us || !(*per_us > 0)) return std::nullopt;
  return amount / *per_us;
}

std::optional<double> scaled(std::optional<double> v, double factor) {
  return v ? std::optional(*v * factor) : std::nullopt;
}

Terms phase_terms(const PhaseCost& p, Precision precision, const Ceilings& c) {
  return {
      time_us(p.bytes_read(), scaled(c.read_gbs, 1e3)) + time_us(p.written_bytes, scaled(c.copy_gbs, 1e3)),
      time_us(p.flops, scaled(c.rate_tflops(precision, p.unit), 1e6)),
      time_us(p.link_bytes, scaled(c.link_gbs, 1e3))};
}

/// Without what is not known of the links.
std::optional<Floor> largest(const Terms& t) {
  if (!t.bytes_us || !t.flops_us) return std::nullopt;
  Floor floor{*t.bytes_us, Bound::kBytes};
  if (*t.flops_us > floor.us) floor = {*t.flops_us, Bound::kOperations};
  if (t.links_us && *t.links_us > floor.us) floor = {*t.links_us, Bound::kLinks};
  return floor;
}

nlohmann::json number(std::optional<double> v) {
  return v ? nlohmann::json(*v) : nlohmann::json();
}

std::optional<double> positive(const nlohmann::json& j, const std::string& key) {
  if (j.is_null()) return std::nullopt;
  if (!j.is_number() || !std::isfinite(j.get<double>()) || j.get<double>() <= 0) {
    throw UsageError(fmt::format("ceilings: {} must be a number over 0 or null", key));
  }
  return j.get<double>();
}

}  // namespace

std::string_view bound_name(Bound bound) {
  switch (bound) {
    case Bound::kBytes:
      return "bytes";
    case Bound::kOperations:
      return "operations";
    default:
      return "links";
  }
}

Ceilings Ceilings::resident() const {
  Ceilings c = *this;
  c.read_gbs = c.copy_gbs = l2_gbs;
  return c;
}

std::optional<double> Ceilings::rate_tflops(Precision precision, ComputeUnit unit) const {
  Precision by = precision;
  const bool weight_only = precision == Precision::kW8a16 || precision == Precision::kW4a16;
  const bool narrow = precision == Precision::kFp8 || precision == Precision::kInt8;
  if (weight_only || (unit == ComputeUnit::kActivations && narrow)) by = Precision::kBf16;
  const auto dense = burst_tflops[static_cast<size_t>(by)];
  if (unit != ComputeUnit::kStructured || !dense) return dense;
  const bool measured = dtype_bits(activation_dtype(by)) == 16 && !narrow && two_of_four_burst_tflops;
  return measured ? *two_of_four_burst_tflops : 2 * *dense;
}

std::vector<std::string> contradictions(const Ceilings& c) {
  constexpr double kNoise = 0.95;
  // A resident set that one core's share of the cache bounds may read a little slower than all of them stream memory.
  constexpr double kLeastOfMemory = 0.75;
  std::vector<std::string> found;
  if (c.l2_gbs && c.read_gbs && *c.l2_gbs < kLeastOfMemory * *c.read_gbs) {
    found.push_back(fmt::format("the cache reads {:.4g} GB/s, memory {:.4g}", *c.l2_gbs, *c.read_gbs));
  }
  for (int i = 0; i < kPrecisions; ++i) {
    const auto burst = c.burst_tflops[i], sustained = c.sustained_tflops[i];
    if (burst && sustained && *burst < kNoise * *sustained) {
      found.push_back(fmt::format("{} computes {:.4g} TFLOP/s sustained, {:.4g} in a burst",
                                  precision_name(static_cast<Precision>(i)), *sustained, *burst));
    }
  }
  if (c.two_of_four_burst_tflops && c.two_of_four_sustained_tflops &&
      *c.two_of_four_burst_tflops < kNoise * *c.two_of_four_sustained_tflops) {
    found.push_back(fmt::format("2:4 computes {:.4g} TFLOP/s sustained, {:.4g} in a burst",
                                *c.two_of_four_sustained_tflops, *c.two_of_four_burst_tflops));
  }
  return found;
}

void to_json(nlohmann::json& j, const Ceilings& c) {
  nlohmann::json burst = nlohmann::json::object(), sustained = nlohmann::json::object();
  for (int i = 0; i < kPrecisions; ++i) {
    const std::string name(precision_name(static_cast<Precision>(i)));
    burst[name] = number(c.burst_tflops[i]);
    sustained[name] = number(c.sustained_tflops[i]);
  }
  j = {{"machine", c.machine},
       {"measured_at", c.measured_at},
       {"read_gbs", number(c.read_gbs)},
       {"copy_gbs", number(c.copy_gbs)},
       {"l2_gbs", number(c.l2_gbs)},
       {"empty_node_us", number(c.empty_node_us)},
       {"burst_tflops", burst},
       {"sustained_tflops", sustained},
       {"two_of_four_burst_tflops", number(c.two_of_four_burst_tflops)},
       {"two_of_four_sustained_tflops", number(c.two_of_four_sustained_tflops)},
       {"cache_bytes", number(c.cache_bytes)}};
  if (!c.doubt.empty()) j["doubt"] = c.doubt;
}

void from_json(const nlohmann::json& j, Ceilings& c) {
  if (!j.is_object()) throw UsageError("ceilings: must be a JSON object");
  c = {};
  for (const auto& [key, value] : j.items()) {
    if (key == "machine" || key == "measured_at" || key == "doubt") {
      if (!value.is_string()) throw UsageError(fmt::format("ceilings: {} must be text", key));
      (key == "machine" ? c.machine : key == "doubt" ? c.doubt : c.measured_at) = value.get<std::string>();
    } else if (key == "cache_bytes") {
      c.cache_bytes = positive(value, key);
    } else if (key == "read_gbs") {
      c.read_gbs = positive(value, key);
    } else if (key == "copy_gbs") {
      c.copy_gbs = positive(value, key);
    } else if (key == "l2_gbs") {
      c.l2_gbs = positive(value, key);
    } else if (key == "empty_node_us") {
      c.empty_node_us = positive(value, key);
    } else if (key == "two_of_four_burst_tflops") {
      c.two_of_four_burst_tflops = positive(value, key);
    } else if (key == "two_of_four_sustained_tflops") {
      c.two_of_four_sustained_tflops = positive(value, key);
    } else if ((key == "burst_tflops" || key == "sustained_tflops") && value.is_object()) {
      auto& table = key == "burst_tflops" ? c.burst_tflops : c.sustained_tflops;
      for (const auto& [name, rate] : value.items()) {
        table[static_cast<size_t>(parse_precision(name))] = positive(rate, key + "." + name);
      }
    } else {
      throw UsageError(
          fmt::format("ceilings: '{}' is not a key (machine measured_at read_gbs copy_gbs l2_gbs "
                      "empty_node_us burst_tflops sustained_tflops two_of_four_burst_tflops "
                      "two_of_four_sustained_tflops cache_bytes doubt)",
                      key));
    }
  }
}

Ceilings read_ceilings(const std::string& path) {
  std::ifstream in(path);
  if (!in) throw IoError(fmt::format("{}: cannot read", path));
  const std::string text(std::istreambuf_iterator<char>(in), {});
  try {
    return parse_json(text).get<Ceilings>();
  } catch (const UsageError& e) {
    throw UsageError(fmt::format("{}: {}", path, e.what()));
  }
}

std::optional<Floor> floor_us(const Cost& cost, const Ceilings& ceilings) {
  Terms sum{0.0, 0.0, 0.0};
  for (const PhaseCost& p : cost.phases) {
    const Terms t = phase_terms(p, cost.precision, ceilings);
    sum = {sum.bytes_us + t.bytes_us, sum.flops_us + t.flops_us, sum.links_us + t.links_us};
  }
  return largest(sum);
}

std::optional<double> links_us(const Cost& cost, const Ceilings& ceilings) {
  const double bytes = cost.link_bytes();
  return bytes > 0 ? time_us(bytes, scaled(ceilings.link_gbs, 1e3)) : std::nullopt;
}

std::optional<Floor> case_floor(const Cost& cost, const Ceilings& ceilings,
                                std::optional<double> cache_bytes) {
  if (cache_bytes && cost.bytes() < *cache_bytes) {
    if (const auto floor = floor_us(cost, ceilings.resident())) return floor;
  }
  return floor_us(cost, ceilings);
}

std::optional<double> floor_phases_us(const Cost& cost, const Ceilings& ceilings) {
  std::optional<double> sum = 0.0;
  for (const PhaseCost& p : cost.phases) {
    const Terms t = phase_terms(p, cost.precision, ceilings);
    const auto phase = largest(t);
    sum = sum + (phase && t.links_us ? std::optional(phase->us) : std::nullopt);
  }
  return sum;
}

std::optional<double> floor_l2_us(const Cost& cost, const Ceilings& ceilings) {
  const auto floor = floor_us(cost, ceilings.resident());
  return floor ? std::optional(floor->us) : std::nullopt;
}

}  // namespace tandem
