// Where the values of weights come from: a seed or a checkpoint.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harness/weights/layout.h"

namespace tandem {

/// `weights` axis: "seed:N", "seed:N,outliers" or "checkpoint".
struct WeightsSpec {
  bool checkpoint = false;
  uint64_t seed = 0;
  bool outliers = false;
  bool operator==(const WeightsSpec&) const = default;
};
/// Throws UsageError naming the allowed forms.
WeightsSpec parse_weights(std::string_view text);
std::string weights_text(const WeightsSpec& spec);

/// Rows and columns of a tensor.
struct Rectangle {
  int64_t first_row = 0;
  int64_t rows = 0;
  int64_t first_col = 0;
  int64_t cols = 0;
  int64_t size() const { return rows * cols; }
};

class WeightSource {
 public:
  virtual ~WeightSource() = default;
  /// Values of a rectangle of a whole tensor in fp32, row after row. Throws Error for a tensor or a rectangle that is not
  /// there.
  virtual void read(const WholeTensor& tensor, const Rectangle& at, std::span<float> out) const = 0;
  /// Names the values: equal for equal ones alone. For keys of caches.
  virtual std::string key() const = 0;
  /// The seed, where the values are a function of one: a device can then make them itself.
  virtual const WeightsSpec* seeded() const { return nullptr; }
  /// What the values were scaled by beside themselves (calibration/scales.h): what a form asks for.
  virtual Calibration calibration() const { return Calibration::kNone; }
  /// What an engine says on stderr after it has read them, a line each.
  virtual std::vector<std::string> warnings() const { return {}; }
};

/// Values of a rectangle of a tensor as a layout has it: its rows and columns of the whole tensor, zeros where it is padded.
/// Throws Error for a rectangle outside the tensor.
void read_values(const WeightSource& source, const TensorSpec& tensor, const Rectangle& at,
                 std::span<float> out);

}  // namespace tandem
