// Calibrated forms on any engine: the dense fp32 model is observed on one batch, scales are chosen by what was seen, and kept
// only where they pay in the logits of that batch.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "harness/engine/engine.h"
#include "harness/model/batch.h"
#include "harness/model/config.h"
#include "harness/weights/calibration/scales.h"
#include "harness/weights/values/source.h"

namespace tandem {

/// Random ids of a seed that no case's input has (kInputSeed): accuracy is measured on other tokens than these.
inline constexpr uint64_t kCalibrationSeed = 2;
inline constexpr int kCalibrationSequences = 8;
inline constexpr int kCalibrationSource = 32;  ///< tokens a source; fewer where the model has fewer positions
inline constexpr int kCalibrationSteps = 16;   ///< forced decoder tokens, likewise
/// Scales stay when the error of the batch's logits is at most this much of the error without, and when that is no accident of
/// a few sequences: the mean over sequences of log(error / error without), and kDeviations of its standard errors on top, must
/// promise as much. The same weights on other tokens move the ratio by a few percent: what gains less may as well lose.
inline constexpr double kLeastGain = 0.92;
inline constexpr double kDeviations = 2;

struct CalibrationBatch {
  TransformerBatch source;
  std::vector<int32_t> tokens;  ///< [sequences, steps], the decoder's start first
  int steps = 0;
};
CalibrationBatch calibration_batch(const ModelConfig& config);

/// Finds the inputs of a dense model's products by the address of the matrix that reads them.
class InputObserver {
 public:
  /// `calibrated`: a layout of the form that scales are wanted for; `dense`: that of the model that is observed, whose arena
  /// is at `base`.
  InputObserver(const WeightLayout& calibrated, const WeightLayout& dense, const void* base);

  /// Where rows that go into a product with the matrix at `weight` are added; null where they are not wanted. Of matrices
  /// that share an input the first one is asked for, alone or with the others after it.
  InputStats* of(const void* weight);
  CalibrationStats take() { return std::move(stats_); }

 private:
  std::map<const void*, std::string> names_;
  CalibrationStats stats_;
};

/// The same case with nothing held in fewer bits than fp32; its weights may still be those of another form.
Case in_fp32(Case c);

/// Scales for the calibrated `form` of the values of `source`, which `engine` loads for `c`. Throws what Engine::load and
/// Engine::observed_inputs throw. Leaves the engine loaded with any model, and with other scales.
std::shared_ptr<const ChannelScales> calibrate(Engine& engine, const Case& c, const ModelConfig& config,
                                               const WeightForm& form, const WeightSource& source);

/// Engine::load, after scales were chosen where the form needs some that the engine does not have.
void load_case(Engine& engine, const Case& c, const ModelConfig& config, const WeightForm& form);

/// For engines: the values of `layout`'s form, which are those of `source`, scaled where the form is calibrated. Throws
/// Error where `scales` are not of this model and form.
std::unique_ptr<WeightSource> values_of_form(std::unique_ptr<WeightSource> source, const WeightLayout& layout,
                                             const ChannelScales* scales);

}  // namespace tandem
