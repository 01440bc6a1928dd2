// A case: one point of a sweep, fully resolved. Its axes are one table, from which come the flags of every
// suite binary, the keys of sweep files and records, the case's name and its id.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "harness/base/precision.h"
#include "harness/sweep/values.h"
#include "harness/weights/form.h"

namespace tandem {

enum class Suite : uint8_t { kEncoder, kDecoder, kGenerate, kKernels, kCollectives, kMemory, kLimits };
std::string_view suite_name(Suite suite);  // "encoder"; the binary is "suite_encoder"
/// Throws UsageError naming the allowed ones.
Suite parse_suite(std::string_view name);
/// In the order of the README's list.
const std::vector<Suite>& suites();

/// The suites that measure a pass of a model.
inline constexpr std::array kModelSuites = {Suite::kEncoder, Suite::kDecoder, Suite::kGenerate};
bool is_model_suite(Suite suite);
/// Does the suite measure single operations, named by Case::op?
bool is_op_suite(Suite suite);

struct Case {
  Suite suite = Suite::kDecoder;
  // The axes; defaults are constants of the case id and never change.
  std::string model = "transformer-base";
  std::string weights = "seed:0";
  int batch = 1;
  int src = 128;
  int tgt = 128;
  std::string lengths = "full";
  Precision precision = Precision::kBf16;
  std::string kv = "same";
  std::string sparsity = "dense";
  std::string calibration = "none";
  std::string head = "same";
  int tp = 1;
  int dp = 1;
  std::string allreduce = "auto";
  std::string decode = "greedy";
  std::string stop = "fixed";
  std::string kernel = "auto";
  std::string memory = "level1";
  std::string engine = "cuda";
  std::string op = "";  ///< what the suites of single operations measure; empty elsewhere

  bool operator==(const Case&) const = default;
};

/// One axis: its word, and how a Case holds it.
struct Axis {
  std::string_view name;
  bool integer;
  bool always_in_name;       ///< printed in the case name even at its default
  std::string_view allowed;  ///< for messages and --help
  std::string_view help;
  std::function<std::string(const Case&)> get;
  /// Throws UsageError naming axis, value and what is allowed.
  std::function<void(Case&, const std::string&)> set;
};

/// All axes, in the order of the README's table.
const std::vector<Axis>& axes();
/// Throws UsageError naming the known axes.
const Axis& axis(std::string_view name);

/// The values of an axis given in one flag, "1,8,64". A comma inside a value ("seed:0,outliers",
/// "top_k:4,temperature:0.8") does not separate. Throws UsageError naming axis, value and what is allowed.
std::vector<std::string> split_values(const Axis& axis, const std::string& text);

/// The operations that suite_kernels, suite_collectives, suite_memory and suite_limits measure; empty for the other suites.
const std::vector<std::string>& suite_ops(Suite suite);

/// Does the value of `axis` change what `suite` measures (with `op`, where the suite has one)? suite_encoder
/// has no tgt.
bool axis_used(Suite suite, std::string_view op, std::string_view axis);
/// `c` with every axis that its suite does not use at its default, so that two cases that measure the same
/// are one. Throws UsageError for an op that the suite does not know.
Case canonical(Case c);

/// "decoder/model:transformer-big/batch:8/src:128/tgt:128/precision:bf16/sparsity:dense/tp:1/engine:cuda".
std::string case_name(const Case& c);
/// First 16 hex digits of SHA-256 over the canonical JSON of the suite and the fields that differ from their
/// default. A model or lengths file enters by the SHA-256 of its content.
std::string case_id(const Case& c);

/// Every axis by name (integers as numbers), plus "suite".
nlohmann::json case_to_json(const Case& c);
/// `id` and `name`, which the driver adds for engines in other languages, are ignored.
/// Throws UsageError for an unknown key, a wrong type or a value outside its axis.
Case case_from_json(const nlohmann::json& j);

/// Does the case trade accuracy for speed: precision fp8, int8, w8a16 or w4a16, kv fp8 or int8, another sparsity than `dense`?
bool is_lossy(const Case& c);

/// Combinations that cannot work for any engine: throws ImpossibleCase naming the fields (heads not divisible
/// by tp, lengths beyond the position table, a calibration that the precision does not have). Loads the model's config: throws UsageError when there is none
/// such.
void check_combination(const Case& c);

/// The form in which a case's weights are held, by its axes.
WeightForm weight_form(const Case& c);

/// Cases of one group run in one worker process: they share suite, engine, model, weights, precision,
/// sparsity, calibration, head, kv, tp, dp.
std::string group_key(const Case& c);

}  // namespace tandem
