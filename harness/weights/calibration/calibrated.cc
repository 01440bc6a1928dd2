#include "harness/weights/calibration/calibrated.h"

#include <fmt/format.h>

#include <utility>

#include "harness/base/error.h"
#include "harness/base/random.h"

namespace tandem {
namespace {

std::vector<float> powers(const std::vector<int>& exponents, int sign) {
  std::vector<float> factors;
  for (const int e : exponents) factors.push_back(power_of_two(sign * e));
  return factors;
}

/// A tied head has another name than the table that its values come from: it alone is scaled.
std::string name_of(const WholeTensor& t) {
  return t.head ? "head.weight" : t.name;
}

}  // namespace

CalibratedSource::CalibratedSource(std::unique_ptr<WeightSource> source, const WeightLayout& layout,
                                   const ChannelScales& scales)
    : source_(std::move(source)), calibration_(layout.form.calibration), digest_(scales.digest()) {
  if (scales.of != scales_key(*source_, layout))
    throw Error(fmt::format("calibration: scales of '{}' for '{}'", scales.of, scales_key(*source_, layout)));
  for (const ScaledInput& input : scaled_inputs(layout)) {
    const auto found = scales.exponents.find(input.name());
    if (found == scales.exponents.end()) continue;
    for (const std::string& reader : input.readers) tensors_[reader].cols = powers(found->second, 1);
    for (const std::string& maker : input.makers) {
      const Factors factors = powers(found->second, -1);
      (maker.ends_with(".weight") ? tensors_[maker].rows : tensors_[maker].cols) = factors;
    }
  }
}

void CalibratedSource::read(const WholeTensor& tensor, const Rectangle& at, std::span<float> out) const {
  source_->read(tensor, at, out);
  const auto found = tensors_.find(name_of(tensor));
  if (found == tensors_.end()) return;
  const Factors& rows = found->second.rows;
  const Factors& cols = found->second.cols;
#pragma omp parallel for schedule(static) if (at.size() > 1 << 16)
  for (int64_t r = 0; r < at.rows; ++r) {
    const float of_row = rows.empty() ? 1.0f : rows[static_cast<size_t>(at.first_row + r)];
    float* row = out.data() + r * at.cols;
    for (int64_t c = 0; c < at.cols; ++c)
      row[c] *= of_row * (cols.empty() ? 1.0f : cols[static_cast<size_t>(at.first_col + c)]);
  }
}

}  // namespace tandem
