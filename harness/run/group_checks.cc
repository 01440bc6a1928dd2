#include "harness/run/group_checks.h"

#include <fmt/format.h>

#include "harness/base/sha256.h"
#include "harness/engine/calibration.h"

namespace tandem {
namespace {

std::string_view bytes_of(std::span<const int32_t> ids) {
  return {reinterpret_cast<const char*>(ids.data()), ids.size_bytes()};
}

/// The part of a case that loads depend on. Engines of several ranks decode by the rules of the loaded case.
Case loaded_part(Case c) {
  const Case plain;
  c.batch = plain.batch;
  c.src = plain.src;
  c.lengths = plain.lengths;
  if (c.decode != "greedy") return c;
  c.tgt = plain.tgt;
  c.stop = plain.stop;
  return c;
}

}  // namespace

void HeldEngine::load(const Case& c, const ModelConfig& config, const WeightForm& form, Purpose purpose) {
  const std::string wanted = fmt::format("{} {} {} ", case_to_json(loaded_part(c)).dump(),
                                         nlohmann::json(config).dump(), form_text(form));
  const auto with_scales = [&] {
    const auto& scales = engine_.scales();
    if (form.calibration == Calibration::kNone || scales == nullptr) return wanted;
    return wanted + scales->of + scales->digest();
  };
  if (loaded_.empty() || loaded_ != with_scales()) {
    loaded_.clear();
    // Choosing scales computes too, and a timed worker repeats it: with the kernels that were found here.
    if (purpose_ != Purpose::kCase) engine_.untimed(false);
    purpose_ = Purpose::kCase;
    load_case(engine_, c, config, form);
    loaded_ = with_scales();
    inputs_ = Inputs::kOwn;
  }
  if (inputs_ != Inputs::kOwn) take(Inputs::kOwn);
  if (purpose_ != purpose) engine_.untimed(purpose == Purpose::kComparison);
  purpose_ = purpose;
}

bool HeldEngine::take(Inputs inputs) {
  inputs_ = inputs;
  return engine_.take(inputs);
}

HeldEngine& GroupChecks::reference() {
  if (!held_reference_) {
    reference_ = make_reference_();
    held_reference_.emplace(*reference_);
  }
  return *held_reference_;
}

GroupChecks::Truth GroupChecks::truth(const std::string& key, const std::function<Output()>& compute) {
  const auto found = truths_.find(key);
  if (found != truths_.end()) return found->second;
  auto made = std::make_shared<const Output>(compute());
  const auto values = static_cast<int64_t>(made->values.size());
  if (values_ + values > kept_values_) {
    truths_.clear();
    values_ = 0;
  }
  values_ += values;
  truths_.emplace(key, made);
  return made;
}

std::string pass_key(const HeldEngine& engine, const Case& c, const TransformerBatch& batch,
                     std::span<const int32_t> tokens) {
  Sha256 hash;
  for (const std::span<const int32_t> part : {std::span(batch.offsets), std::span(batch.ids), tokens}) {
    hash.update(fmt::format("{}:", part.size()));
    hash.update(bytes_of(part));
  }
  return fmt::format("{} {} tgt {} inputs {} {}", engine.loaded(), suite_name(c.suite), c.tgt,
                     static_cast<int>(engine.inputs()), hash.hex());
}

}  // namespace tandem
