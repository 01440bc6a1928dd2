// What the checks of one group share, so that none of it is made twice: loaded weights, truths, witnesses. Nothing here changes
// what a check finds; it is freed with the group.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "harness/engine/engine.h"
#include "harness/record/record.h"

namespace tandem {

/// Is what is prepared next the case that will be timed? For anything else an engine need not look for its fastest kernels.
enum class Purpose : uint8_t { kCase, kComparison };

/// An engine that keeps its weights while the same are asked for.
class HeldEngine {
 public:
  /// `engine` outlives it and is loaded through it alone, or forget() is called.
  explicit HeldEngine(Engine& engine) : engine_(engine) {}

  Engine& engine() const { return engine_; }
  /// load_case(), unless that is what is loaded; inputs are the case's own afterwards. Throws what load_case() throws, and then
  /// nothing counts as loaded.
  void load(const Case& c, const ModelConfig& config, const WeightForm& form,
            Purpose purpose = Purpose::kComparison);
  /// Engine::take(), until the next load().
  bool take(Inputs inputs);
  void forget() { loaded_.clear(); }
  /// Names all that a pass depends on, beside the batch and what prepare() is told; empty: nothing.
  const std::string& loaded() const { return loaded_; }
  Inputs inputs() const { return inputs_; }

 private:
  Engine& engine_;
  std::string loaded_;
  Inputs inputs_ = Inputs::kOwn;
  std::optional<Purpose> purpose_;  // that the engine was told
};

class GroupChecks {
 public:
  using MakeEngine = std::function<std::unique_ptr<Engine>()>;
  using Truth = std::shared_ptr<const Output>;

  /// `own` outlives it. At most `kept_values` values of truths are held beside the newest.
  GroupChecks(Engine& own, MakeEngine make_reference, int64_t kept_values)
      : own_(own), make_reference_(std::move(make_reference)), kept_values_(kept_values) {}

  HeldEngine& own() { return own_; }
  /// Made when it is first asked for.
  HeldEngine& reference();

  /// What `compute` gave for the same key.
  Truth truth(const std::string& key, const std::function<Output()>& compute);

  /// What the witness of a case found.
  struct WitnessCheck {
    Status status = Status::kOk;
    std::optional<std::string> reason = {};
    std::optional<Check> check = {};
    std::optional<double> quantising =
        {};  ///< how far the witness is from its own without quantised activations
  };
  std::map<std::string, WitnessCheck> witnesses;   ///< by case and model of the witness
  std::map<std::string, CheckResult> self_checks;  ///< by what is loaded and what is computed

 private:
  HeldEngine own_;
  MakeEngine make_reference_;
  std::unique_ptr<Engine> reference_;
  std::optional<HeldEngine> held_reference_;
  int64_t kept_values_;
  int64_t values_ = 0;
  std::map<std::string, Truth> truths_;
};

/// Names a pass over `batch` along `tokens` as HeldEngine::loaded() has been loaded.
std::string pass_key(const HeldEngine& engine, const Case& c, const TransformerBatch& batch,
                     std::span<const int32_t> tokens = {});

}  // namespace tandem
