// By which factors the channels of products' inputs are scaled before anything is rounded: SmoothQuant (Xiao et al. 2023) and
// AWQ (Lin et al. 2024), from statistics of the dense model's inputs. A twin in Python (scripts/peers/twin/calibration.py)
// chooses the same.
//
// Factors are powers of two. So the dense model computes the same bits with them as without, in every floating-point type;
// rows of makers have the codes they had; and engines whose statistics differ in the last bits choose alike but for ties.
//
// Candidates of an input with largest magnitude a, mean magnitude m of each channel and largest weight w of its columns:
//   smoothquant: a^t / w^(1 - t) for t = 0.3, 0.4 .. 0.9 (the paper's alpha)
//   awq: m^t for t = 0.05, 0.10 .. 0.95
// over their geometric mean, exponents rounded to nearest even and held to [kLeastExponent, kMostExponent]; a channel with
// a zero in it has exponent 0. The input gets the candidate with the least estimated error of its products' outputs, when
// that is at most kWorthwhile of the error without scales: what promises less is within the luck of rounding.
//
// Estimated error, a sum over the readers: squared errors of codes of kSampledRows rows of the weights, each times the mean
// square of its channel, and those of the sampled rows of the input where it is quantised too, each times the squares of its
// column; over the same sum for the output itself. Products of two errors are left out.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "harness/weights/calibration/inputs.h"
#include "harness/weights/calibration/stats.h"
#include "harness/weights/values/source.h"

namespace tandem {

inline constexpr int kLeastExponent = -4, kMostExponent = 8;
inline constexpr int64_t kSampledRows = 128;
inline constexpr double kWorthwhile = 0.8;  ///< of a squared error

/// What the channels of a model's inputs are divided by.
struct ChannelScales {
  std::string of;  ///< scales_key() of what they were chosen for
  /// By ScaledInput::name(), a power of two a channel. An input that stays as it is has none.
  std::map<std::string, std::vector<int>> exponents = {};

  /// Of the exponents: equal for equal ones alone.
  std::string digest() const;
};

/// Names a model in a form, as far as its scales depend on it: not on a slice, nor on how values are stored.
std::string scales_key(const WeightSource& source, const WeightLayout& layout);

/// `source` has the dense values. `layout` has the calibrated form, of the whole model or a slice of it. Throws Error for
/// statistics that an input lacks, or of other channels.
ChannelScales choose_scales(const WeightSource& source, const WeightLayout& layout,
                            const CalibrationStats& stats);

/// The exponents of one input's channels; none where it stays as it is. `readers`: what it is multiplied with.
std::vector<int> choose_exponents(const WeightSource& source, const WeightForm& form,
                                  std::span<const TensorSpec> readers, const InputStats& input);
/// Every candidate for an input, without those that repeat another or leave all channels alone. `weights` [channels]: the
/// largest magnitudes of the columns of its readers.
std::vector<std::vector<int>> candidate_exponents(Calibration calibration, const InputStats& input,
                                                  const std::vector<float>& weights);

}  // namespace tandem
