#include "harness/weights/values/seeded.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "harness/base/error.h"

namespace tandem {

// round(256 * exp(0.5 z) / s) for z = the normal quantile at (i + 0.5) / 64 and s = the root mean square of
// all 64.
const int32_t kOutlierScale[kOutlierSlots] = {60,  75,  83,  90,  96,  102, 107, 111, 115, 119, 123, 127, 131,
                                              135, 138, 142, 145, 149, 152, 156, 159, 163, 166, 170, 173, 177,
                                              181, 184, 188, 192, 195, 199, 203, 207, 211, 216, 220, 224, 229,
                                              234, 239, 244, 249, 254, 260, 266, 272, 279, 286, 293, 301, 309,
                                              318, 328, 339, 351, 365, 380, 399, 421, 448, 486, 544, 674};

WeightsSpec parse_weights(std::string_view text) {
  const auto refuse = [&]() -> WeightsSpec {
    throw UsageError(
        fmt::format("weights: '{}' is not seed:N, seed:N,outliers or checkpoint (N: 0 to 2^64 - 1)", text));
  };
  WeightsSpec spec;
  if (text == "checkpoint") {
    spec.checkpoint = true;
    return spec;
  }
  constexpr std::string_view kSeed = "seed:";
  constexpr std::string_view kOutliers = ",outliers";
  if (!text.starts_with(kSeed)) return refuse();
  std::string_view digits = text.substr(kSeed.size());
  if (digits.ends_with(kOutliers)) {
    spec.outliers = true;
    digits.remove_suffix(kOutliers.size());
  }
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), spec.seed);
  if (digits.empty() || error != std::errc() || end != digits.data() + digits.size()) return refuse();
  return spec;
}

std::string weights_text(const WeightsSpec& spec) {
  if (spec.checkpoint) return "checkpoint";
  return fmt::format("seed:{}{}", spec.seed, spec.outliers ? ",outliers" : "");
}

void fill_seeded(const WeightsSpec& spec, const WholeTensor& tensor, int64_t first, std::span<float> out) {
  if (spec.checkpoint) throw UsageError("weights: checkpoint values do not come from a seed");
  const uint64_t key = stream_key(spec.seed, tensor.name);
  const bool outliers = spec.outliers && tensor.outlier_rows;
  const int exponent = outliers ? tensor.exponent - kOutlierShift : tensor.exponent;
  const int64_t count = static_cast<int64_t>(out.size());
  constexpr int64_t kChunk = 1 << 16;
#pragma omp parallel for schedule(static)
  for (int64_t chunk = 0; chunk < count; chunk += kChunk) {
    const int64_t stop = std::min(count, chunk + kChunk);
    for (int64_t at = chunk; at < stop;) {
      // One run of a row at a time: the scale is constant in it.
      const int64_t row = (first + at) / tensor.cols;
      const int64_t run = std::min(stop, (row + 1) * tensor.cols - first);
      const int32_t scale = outliers ? kOutlierScale[outlier_slot(key, static_cast<uint64_t>(row))] : 1;
      for (; at < run; ++at) {
        out[at] = seeded_value(key, static_cast<uint64_t>(first + at), tensor.base, exponent, scale);
      }
    }
  }
}

void SeededSource::read(const WholeTensor& tensor, const Rectangle& at, std::span<float> out) const {
  if (at.cols == tensor.cols) return fill_seeded(spec_, tensor, at.first_row * tensor.cols, out);
  for (int64_t r = 0; r < at.rows; ++r) {
    fill_seeded(spec_, tensor, (at.first_row + r) * tensor.cols + at.first_col,
                out.subspan(static_cast<size_t>(r * at.cols), static_cast<size_t>(at.cols)));
  }
}

}  // namespace tandem
