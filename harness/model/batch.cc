#include "harness/model/batch.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "harness/base/error.h"
#include "harness/base/random.h"
#include "harness/model/ids_file.h"

namespace tandem {
namespace {

template <typename T>
bool parse_number(std::string_view text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return !text.empty() && error == std::errc() && end == text.data() + text.size();
}

std::vector<int32_t> read_lengths(const std::string& path, int batch, int src) {
  std::ifstream file(path);
  if (!file) throw UsageError(fmt::format("lengths: cannot read {}: {}", path, std::strerror(errno)));
  std::vector<int32_t> lengths;
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    if (line.ends_with('\r')) line.pop_back();
    if (line.empty()) continue;
    int32_t length = 0;
    if (!parse_number(line, length) || length < 1) {
      throw UsageError(fmt::format("lengths: {}:{}: '{}' is not a length of 1 or more", path, number, line));
    }
    if (length > src) {
      throw ImpossibleCase(fmt::format("lengths: {}:{}: {} is more than src {}", path, number, length, src));
    }
    lengths.push_back(length);
  }
  if (static_cast<int>(lengths.size()) != batch) {
    throw ImpossibleCase(fmt::format("lengths: {} has {} lengths, batch is {}", path, lengths.size(), batch));
  }
  return lengths;
}

/// The first `batch` sequences of a file, none longer than src.
std::vector<std::vector<int32_t>> first_sequences(const std::string& path, int32_t vocab, int batch,
                                                  int src) {
  std::vector<std::vector<int32_t>> sequences = read_ids(path, vocab);
  if (static_cast<int>(sequences.size()) < batch) {
    throw ImpossibleCase(
        fmt::format("lengths: {} has {} sequences, batch is {}", path, sequences.size(), batch));
  }
  sequences.resize(batch);
  for (int b = 0; b < batch; ++b) {
    if (static_cast<int>(sequences[b].size()) > src) {
      throw ImpossibleCase(
          fmt::format("lengths: {}:{}: {} ids are more than src {}", path, b + 1, sequences[b].size(), src));
    }
  }
  return sequences;
}

std::vector<int32_t> ragged_lengths(double ratio, int batch, int src, uint64_t seed) {
  const int64_t total = std::llround(ratio * src * batch);
  const int64_t least = int64_t{src} + batch - 1;
  if (total < least) {
    throw ImpossibleCase(fmt::format(
        "lengths: ragged:{} with batch {} and src {}: one sequence has src, so the ratio is at least {:.3g}",
        ratio, batch, src, static_cast<double>(least) / (static_cast<double>(src) * batch)));
  }
  const uint64_t key = stream_key(seed, "batch.lengths");
  std::vector<int32_t> lengths(batch, src);
  const uint32_t longest = uniform_below(key, 0, static_cast<uint32_t>(batch));
  if (batch == 1) return lengths;

  // Uniform around the mean that is left for the others, as wide as 1..src allows; then single steps to the
  // exact sum.
  const double mean = static_cast<double>(total - src) / (batch - 1);
  const double half_width = std::min(mean - 1, src - mean);
  int64_t sum = src;
  for (int b = 0; b < batch; ++b) {
    if (b == static_cast<int>(longest)) continue;
    const double unit = (static_cast<double>(uniform_below(key, b + 1, 1u << 24)) + 0.5) * 0x1p-24;
    const double drawn = mean + (2 * unit - 1) * half_width;
    lengths[b] = static_cast<int32_t>(std::clamp<int64_t>(std::llround(drawn), 1, src));
    sum += lengths[b];
  }
  for (int b = 0; sum != total; b = (b + 1) % batch) {
    if (b == static_cast<int>(longest)) continue;
    const int step = sum < total ? 1 : -1;
    if (lengths[b] + step < 1 || lengths[b] + step > src) continue;
    lengths[b] += step;
    sum += step;
  }
  return lengths;
}

// Offsets and the largest length from the lengths.
void finish(TransformerBatch& batch) {
  batch.offsets.assign(1, 0);
  batch.longest = 0;
  int64_t tokens = 0;
  for (int32_t length : batch.lengths) {
    tokens += length;
    if (tokens > INT32_MAX) throw UsageError("batch: more than 2^31 - 1 tokens");
    batch.offsets.push_back(static_cast<int32_t>(tokens));
    batch.longest = std::max(batch.longest, static_cast<int>(length));
  }
}

}  // namespace

LengthsSpec parse_lengths(std::string_view text) {
  constexpr std::string_view kRagged = "ragged:";
  constexpr std::string_view kFile = "file:";
  constexpr std::string_view kIds = "ids:";
  LengthsSpec spec;
  if (text == "full") return spec;
  if (text.starts_with(kRagged) && parse_number(text.substr(kRagged.size()), spec.ratio) && spec.ratio > 0 &&
      spec.ratio <= 1) {
    spec.kind = LengthsSpec::Kind::kRagged;
    return spec;
  }
  if (text.starts_with(kFile) && text.size() > kFile.size()) {
    spec.kind = LengthsSpec::Kind::kFile;
    spec.path = text.substr(kFile.size());
    return spec;
  }
  if (text.starts_with(kIds) && text.size() > kIds.size()) {
    spec.kind = LengthsSpec::Kind::kIds;
    spec.path = text.substr(kIds.size());
    return spec;
  }
  throw UsageError(
      fmt::format("lengths: '{}' is not full, ragged:R (0 < R <= 1), file:PATH or ids:PATH", text));
}

std::string lengths_text(const LengthsSpec& spec) {
  switch (spec.kind) {
    case LengthsSpec::Kind::kFull:
      return "full";
    case LengthsSpec::Kind::kRagged:
      return fmt::format("ragged:{}", spec.ratio);
    case LengthsSpec::Kind::kFile:
      return "file:" + spec.path;
    case LengthsSpec::Kind::kIds:
      return "ids:" + spec.path;
  }
  return "?";
}

std::vector<int32_t> source_lengths(const LengthsSpec& spec, int batch, int src, uint64_t seed) {
  if (batch < 1) throw UsageError(fmt::format("batch: {} is not 1 or more", batch));
  if (src < 1) throw UsageError(fmt::format("src: {} is not 1 or more", src));
  switch (spec.kind) {
    case LengthsSpec::Kind::kFull:
      break;
    case LengthsSpec::Kind::kRagged:
      return ragged_lengths(spec.ratio, batch, src, seed);
    case LengthsSpec::Kind::kFile:
      return read_lengths(spec.path, batch, src);
    case LengthsSpec::Kind::kIds: {
      std::vector<int32_t> lengths;
      for (const auto& ids : first_sequences(spec.path, INT32_MAX, batch, src)) {
        lengths.push_back(static_cast<int32_t>(ids.size()));
      }
      return lengths;
    }
  }
  return std::vector<int32_t>(batch, src);
}

TransformerBatch make_batch(const ModelConfig& config, const std::vector<int32_t>& lengths, uint64_t seed) {
  std::vector<int32_t> special = {config.pad_id, config.eos_id, config.decoder_start_id};
  std::sort(special.begin(), special.end());
  special.erase(std::unique(special.begin(), special.end()), special.end());
  const int64_t ordinary = config.vocab - static_cast<int64_t>(special.size());
  if (ordinary < 1) throw UsageError(fmt::format("model: vocab: {} leaves no ordinary id", config.vocab));

  TransformerBatch batch;
  batch.lengths = lengths;
  for (int32_t length : lengths) {
    if (length < 1) throw UsageError(fmt::format("lengths: {} is not 1 or more", length));
  }
  finish(batch);
  batch.ids.reserve(batch.tokens());
  const uint64_t key = stream_key(seed, "batch.ids");
  for (int b = 0; b < batch.size(); ++b) {
    for (int i = 0; i < lengths[b]; ++i) {
      // By sequence and place, so that a part of the batch holds the same ids as the whole.
      const uint64_t at = static_cast<uint64_t>(b) << 32 | static_cast<uint32_t>(i);
      int32_t id = static_cast<int32_t>(uniform_below(key, at, static_cast<uint32_t>(ordinary)));
      for (int32_t s : special) id += id >= s ? 1 : 0;
      batch.ids.push_back(id);
    }
  }
  return batch;
}

TransformerBatch source_batch(const ModelConfig& config, const LengthsSpec& spec, int batch, int src,
                              uint64_t seed) {
  if (spec.kind == LengthsSpec::Kind::kIds) {
    return pack(config, first_sequences(spec.path, config.vocab, batch, src));
  }
  return make_batch(config, source_lengths(spec, batch, src, seed), seed);
}

TransformerBatch pack(const ModelConfig& config, const std::vector<std::vector<int32_t>>& sequences) {
  TransformerBatch batch;
  for (size_t b = 0; b < sequences.size(); ++b) {
    if (sequences[b].empty()) throw UsageError(fmt::format("ids: sequence {} is empty", b));
    for (int32_t id : sequences[b]) {
      if (id < 0 || id >= config.vocab) {
        throw UsageError(
            fmt::format("ids: sequence {}: {} is not between 0 and {}", b, id, config.vocab - 1));
      }
    }
    batch.lengths.push_back(static_cast<int32_t>(sequences[b].size()));
  }
  finish(batch);
  batch.ids.reserve(batch.tokens());
  for (const auto& sequence : sequences) batch.ids.insert(batch.ids.end(), sequence.begin(), sequence.end());
  return batch;
}

int relative_bucket(int relative_position, bool bidirectional, int buckets, int max_distance) {
  int bucket = 0;
  int distance = -relative_position;  // how far the key lies before the query
  if (bidirectional) {
    buckets /= 2;
    if (relative_position > 0) bucket = buckets;
    distance = std::abs(relative_position);
  }
  distance = std::max(distance, 0);
  const int exact = buckets / 2;
  if (distance < exact) return bucket + distance;
  const double log_share =
      std::log(static_cast<double>(distance) / exact) / std::log(static_cast<double>(max_distance) / exact);
  // Distances that fall on a boundary do so exactly in the formula; rounding must not put them below it.
  constexpr double kRounding = 1e-9;
  const int coarse = exact + static_cast<int>(log_share * (buckets - exact) + kRounding);
  return bucket + std::min(coarse, buckets - 1);
}

}  // namespace tandem
