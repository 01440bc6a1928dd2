#include "harness/weights/calibration/scales.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include <nlohmann/json.hpp>

#include "harness/base/error.h"
#include "harness/base/host_device.h"
#include "harness/base/random.h"
#include "harness/base/sha256.h"
#include "harness/weights/values/quantise.h"

namespace tandem {
namespace {

using Exponents = std::vector<int>;

/// One matrix that reads the input.
struct Reader {
  Storage storage;
  std::vector<float> sample = {};    // [sampled rows, channels]
  std::vector<double> squares = {};  // [channels], of the sample
};

/// Reads a whole matrix once; raises `largest` [channels] to the magnitudes of its columns.
Reader read_reader(const WeightSource& source, const WholeTensor& whole, const Storage& storage,
                   std::vector<float>& largest) {
  constexpr int64_t kChunk = int64_t{1} << 20;
  Reader reader{.storage = storage};
  const auto cols = static_cast<size_t>(whole.cols);
  reader.squares.assign(cols, 0);
  const int64_t every = ceil_div(whole.rows, kSampledRows);
  const int64_t chunk = std::max<int64_t>(1, kChunk / whole.cols);
  std::vector<float> rows;
  for (int64_t first = 0; first < whole.rows; first += chunk) {
    const int64_t count = std::min(chunk, whole.rows - first);
    rows.resize(static_cast<size_t>(count) * cols);
    source.read(whole, {.first_row = first, .rows = count, .first_col = 0, .cols = whole.cols}, rows);
    for (int64_t r = 0; r < count; ++r) {
      const float* row = rows.data() + static_cast<size_t>(r) * cols;
      for (size_t k = 0; k < cols; ++k) largest[k] = std::max(largest[k], std::abs(row[k]));
      if ((first + r) % every != 0) continue;
      reader.sample.insert(reader.sample.end(), row, row + cols);
      for (size_t k = 0; k < cols; ++k) reader.squares[k] += double{row[k]} * row[k];
    }
  }
  return reader;
}

/// Sums over the rows of [rows, channels] the squared errors of their codes, each row's channel k times 2^(sign * e[k])
/// while it is quantised and back afterwards.
std::vector<double> squared_errors(const Storage& storage, std::span<const float> values, const Exponents& e,
                                   int sign) {
  const size_t n = e.size(), rows = values.size() / n;
  std::vector<float> factors(n), errors(values.size());
  for (size_t k = 0; k < n; ++k) factors[k] = power_of_two(sign * e[k]);
#pragma omp parallel for schedule(static) if (values.size() > 1 << 14)
  for (size_t r = 0; r < rows; ++r) {
    std::vector<float> row(n), back(n);
    std::vector<uint32_t> codes(n);
    std::vector<float> scales(static_cast<size_t>(storage.scales_per_row(static_cast<int64_t>(n))));
    for (size_t k = 0; k < n; ++k) row[k] = values[r * n + k] * factors[k];
    quantise_row(storage, row, codes, scales);
    dequantise_row(storage, codes, scales, back);
    for (size_t k = 0; k < n; ++k) errors[r * n + k] = (back[k] - row[k]) / factors[k];
  }
  std::vector<double> sums(n, 0);
  for (size_t r = 0; r < rows; ++r)
    for (size_t k = 0; k < n; ++k) sums[k] += double{errors[r * n + k]} * errors[r * n + k];
  return sums;
}

double weighted(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t k = 0; k < a.size(); ++k) sum += a[k] * b[k];
  return sum;
}

/// The estimate of the page.
class Estimate {
 public:
  Estimate(const WeightForm& form, const InputStats& input, const std::vector<Reader>& readers)
      : activations_(quantises_activations(form)), input_(input), readers_(readers), power_(input.squares) {
    for (double& p : power_) p /= static_cast<double>(input.rows);
  }

  double operator()(const Exponents& e) const {
    double total = 0;
    for (const Reader& reader : readers_) {
      double error = weighted(squared_errors(reader.storage, reader.sample, e, 1), power_);
      if (activations_) {
        const Storage rows{.dtype = reader.storage.dtype, .scale_group = Storage::kWholeRow};
        error += weighted(squared_errors(rows, input_.sample, e, -1), reader.squares) /
                 static_cast<double>(input_.sampled());
      }
      const double output = weighted(power_, reader.squares);
      if (output > 0) total += error / output;
    }
    return total;
  }

 private:
  bool activations_;
  const InputStats& input_;
  const std::vector<Reader>& readers_;
  std::vector<double> power_;  // [channels] mean of x^2
};

/// log2 of the wanted factors, or nothing for a channel with a zero in it.
std::vector<std::optional<double>> wanted(Calibration calibration, double t, const InputStats& input,
                                          const std::vector<float>& weights) {
  std::vector<std::optional<double>> logs(weights.size());
  for (size_t k = 0; k < weights.size(); ++k) {
    if (calibration == Calibration::kAwq) {
      const double mean = input.magnitudes[k] / static_cast<double>(input.rows);
      if (mean > 0) logs[k] = t * std::log2(mean);
    } else if (input.largest[k] > 0 && weights[k] > 0) {
      logs[k] = t * std::log2(double{input.largest[k]}) - (1 - t) * std::log2(double{weights[k]});
    }
  }
  return logs;
}

Exponents rounded(const std::vector<std::optional<double>>& logs) {
  double sum = 0, count = 0;
  for (const auto& log : logs) {
    if (!log) continue;
    sum += *log;
    ++count;
  }
  Exponents e(logs.size(), 0);
  for (size_t k = 0; k < logs.size(); ++k) {
    if (!logs[k]) continue;
    const double nearest = std::nearbyint(*logs[k] - sum / count);
    // A NaN is held to the least: its products are NaN whatever it is divided by.
    e[k] = static_cast<int>(std::fmin(std::fmax(nearest, kLeastExponent), kMostExponent));
  }
  return e;
}

}  // namespace

std::vector<std::vector<int>> candidate_exponents(Calibration calibration, const InputStats& input,
                                                  const std::vector<float>& weights) {
  std::vector<Exponents> all;
  const bool awq = calibration == Calibration::kAwq;
  for (int i = awq ? 1 : 3; i <= (awq ? 19 : 9); ++i) {
    const Exponents e = rounded(wanted(calibration, i / (awq ? 20.0 : 10.0), input, weights));
    const bool nothing = std::ranges::all_of(e, [](int x) { return x == 0; });
    if (!nothing && std::ranges::count(all, e) == 0) all.push_back(e);
  }
  return all;
}

std::vector<int> choose_exponents(const WeightSource& source, const WeightForm& form,
                                  std::span<const TensorSpec> readers, const InputStats& input) {
  std::vector<float> largest(input.largest.size(), 0);
  std::vector<Reader> read;
  for (const TensorSpec& t : readers) {
    const Storage storage = own_storage(form, t.use);
    if (storage.scale_group != 0) read.push_back(read_reader(source, t.whole, storage, largest));
  }
  Exponents best;
  const Estimate error(form, input, read);
  double least = kWorthwhile * error(Exponents(largest.size(), 0));
  for (const Exponents& e : candidate_exponents(form.calibration, input, largest)) {
    const double of_candidate = error(e);
    if (!(of_candidate < least)) continue;
    least = of_candidate;
    best = e;
  }
  return best;
}

std::string ChannelScales::digest() const {
  Sha256 hash;
  for (const auto& [name, e] : exponents) hash.update(fmt::format("\n{} {}", name, fmt::join(e, " ")));
  return hash.hex();
}

std::string scales_key(const WeightSource& source, const WeightLayout& layout) {
  WeightForm form = layout.form;
  form.slice = {};
  form.plain.reset();
  return fmt::format("{} {} {}", source.key(), nlohmann::json(layout.config).dump(), form_text(form));
}

ChannelScales choose_scales(const WeightSource& source, const WeightLayout& layout,
                            const CalibrationStats& stats) {
  ChannelScales scales{.of = scales_key(source, layout)};
  for (const ScaledInput& input : scaled_inputs(layout)) {
    std::vector<TensorSpec> readers;
    for (const std::string& name : input.readers) readers.push_back(layout.at(name));
    const auto found = stats.find(input.name());
    if (found == stats.end() || found->second.channels() != readers.front().whole.cols) {
      throw Error(fmt::format("calibration: no statistics of the {} channels that {} reads",
                              readers.front().whole.cols, input.name()));
    }
    Exponents e = choose_exponents(source, layout.form, readers, found->second);
    if (!e.empty()) scales.exponents.emplace(input.name(), std::move(e));
  }
  return scales;
}

}  // namespace tandem
