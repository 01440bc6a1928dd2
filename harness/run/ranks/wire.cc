#include "harness/run/ranks/wire.h"

#include <fmt/format.h>

#include <cmath>

#include "harness/base/error.h"
#include "harness/parallel/communicator.h"
#include "harness/weights/sparsity.h"

namespace tandem {

using nlohmann::json;

namespace {

template <typename T>
json maybe(const std::optional<T>& value) {
  return value ? json(*value) : json();
}

template <typename T>
std::optional<T> optional_of(const json& j) {
  return j.is_null() ? std::nullopt : std::optional(j.get<T>());
}

}  // namespace

json form_to_json(const WeightForm& form) {
  return {{"precision", static_cast<int>(form.precision)},
          {"sparsity", sparsity_text(form.sparsity)},
          {"calibration", static_cast<int>(form.calibration)},
          {"head", static_cast<int>(form.head)},
          {"plain", form.plain ? json(static_cast<int>(*form.plain)) : json()}};
}

WeightForm form_from_json(const json& j) {
  WeightForm form;
  form.precision = static_cast<Precision>(j.at("precision").get<int>());
  form.sparsity = parse_sparsity(j.at("sparsity").get<std::string>());
  form.calibration = static_cast<Calibration>(j.at("calibration").get<int>());
  form.head = static_cast<HeadStorage>(j.at("head").get<int>());
  if (!j.at("plain").is_null()) form.plain = static_cast<DType>(j.at("plain").get<int>());
  return form;
}

json batch_to_json(const TransformerBatch& batch) {
  return {
      {"lengths", batch.lengths}, {"offsets", batch.offsets}, {"ids", batch.ids}, {"longest", batch.longest}};
}

TransformerBatch batch_from_json(const json& j) {
  TransformerBatch batch;
  j.at("lengths").get_to(batch.lengths);
  j.at("offsets").get_to(batch.offsets);
  j.at("ids").get_to(batch.ids);
  j.at("longest").get_to(batch.longest);
  return batch;
}

json scales_to_json(const ChannelScales& scales) {
  return {{"of", scales.of}, {"exponents", scales.exponents}};
}

ChannelScales scales_from_json(const json& j) {
  ChannelScales scales;
  j.at("of").get_to(scales.of);
  j.at("exponents").get_to(scales.exponents);
  return scales;
}

json repetition_to_json(const Repetition& r) {
  return {{"total_us", r.total_us},
          {"step_us", maybe(r.step_us)},
          {"first_token_us", maybe(r.first_token_us)},
          {"wait_us", maybe(r.wait_us)}};
}

Repetition repetition_from_json(const json& j) {
  return {.total_us = j.at("total_us").get<double>(),
          .step_us = optional_of<double>(j.at("step_us")),
          .first_token_us = optional_of<double>(j.at("first_token_us")),
          .wait_us = optional_of<double>(j.at("wait_us"))};
}

json reading_to_json(const RankReading& r) {
  return {{"sm_mhz", maybe(r.block.sm_mhz)},
          {"temperature_c", maybe(r.block.temperature_c)},
          {"power_w", maybe(r.block.power_w)},
          {"reasons", r.block.reasons},
          {"contended", maybe(r.contended)}};
}

RankReading reading_from_json(const json& j) {
  RankReading r;
  r.block.sm_mhz = optional_of<double>(j.at("sm_mhz"));
  r.block.temperature_c = optional_of<double>(j.at("temperature_c"));
  r.block.power_w = optional_of<double>(j.at("power_w"));
  r.block.reasons = j.at("reasons").get<std::vector<std::string>>();
  r.contended = optional_of<bool>(j.at("contended"));
  return r;
}

json optional_to_json(const std::optional<double>& v) {
  return maybe(v);
}

std::optional<double> optional_number(const json& j) {
  return optional_of<double>(j);
}

json check_result_to_json(const CheckResult& r) {
  // JSON has no NaN: an error that is none is over every tolerance all the same.
  return {{"reference", r.reference},
          {"error", std::isfinite(r.error) ? json(r.error) : json()},
          {"tolerance", r.tolerance},
          {"where", r.where}};
}

CheckResult check_result_from_json(const json& j) {
  return {.reference = j.at("reference").get<std::string>(),
          .error = optional_of<double>(j.at("error")).value_or(std::nan("")),
          .tolerance = j.at("tolerance").get<double>(),
          .where = j.at("where").get<std::string>()};
}

json error_to_json(const std::exception& error) {
  json j = {{"kind", "error"}, {"message", error.what()}};
  if (const auto* oom = dynamic_cast<const OutOfMemory*>(&error)) {
    return {{"kind", "oom"}, {"bytes", oom->bytes()}, {"level", oom->level()}};
  }
  if (const auto* lost = dynamic_cast<const RankLost*>(&error)) {
    return {{"kind", "rank_lost"}, {"rank", lost->rank()}, {"why", lost->why()}};
  }
  if (dynamic_cast<const ImpossibleCase*>(&error) != nullptr) j["kind"] = "impossible";
  if (dynamic_cast<const DeviceError*>(&error) != nullptr) j["kind"] = "device";
  return j;
}

void throw_error_of(const json& j, int rank) {
  const auto kind = j.at("kind").get<std::string>();
  if (kind == "oom")
    throw OutOfMemory(j.at("bytes").get<int64_t>(),
                      fmt::format("{} of rank {}", j.at("level").get<std::string>(), rank));
  if (kind == "rank_lost") throw RankLost(j.at("rank").get<int>(), j.at("why").get<std::string>());
  const std::string message = fmt::format("rank {}: {}", rank, j.at("message").get<std::string>());
  if (kind == "impossible") throw ImpossibleCase(message);
  if (kind == "device") throw DeviceError(message);
  throw Error(message);
}

}  // namespace tandem
