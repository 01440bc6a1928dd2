// What is known of the inputs of a dense model's products: the channels' sizes over a batch, and some rows.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace tandem {

/// Rows of one input, added up.
struct InputStats {
  int64_t rows = 0;
  std::vector<float> largest = {};      ///< [channels] max|x|
  std::vector<double> magnitudes = {};  ///< [channels] sum of |x|
  std::vector<double> squares = {};     ///< [channels] sum of x^2
  std::vector<float> sample = {};       ///< [sampled rows, channels]: rows 0, kEvery, 2 * kEvery, ...
  static constexpr int64_t kEvery =
      7;  ///< prime to the sequences of a decoder's step, so that none is left out

  /// Adds `count` rows of as many channels each, the same channels as before.
  void add(std::span<const float> values, int64_t count);
  int64_t channels() const { return static_cast<int64_t>(largest.size()); }
  int64_t sampled() const { return largest.empty() ? 0 : static_cast<int64_t>(sample.size()) / channels(); }
};

/// By ScaledInput::name().
using CalibrationStats = std::map<std::string, InputStats>;

}  // namespace tandem
